package standin

import (
	"bytes"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"maps"
	"math"
	"slices"
	"strings"
	"time"
)

// This file is the documents of the API.

func (s *Sim) external() bool { return s.Name == "away" || s.Name == "external" }

// wave is a curve of a value that goes up and down.
func wave(middle, height float64, n int) []float64 {
	out := make([]float64, n)
	for i := range out {
		out[i] = math.Round((middle+height*math.Sin(float64(i)*1.7)*math.Cos(float64(i)/5))*10) / 10
	}
	return out
}

func (s *Sim) devices(now float64) []Object {
	if s.Name == "empty" || s.Name == "login" {
		return []Object{}
	}
	name, file := "Prusa MK4", "bracket_v7_0.2mm_PETG_MK4.gcode"
	label, state, unit := "Nozzle", "printing", "°C"
	if s.Name == "hostile" {
		name, file, label, state, unit = Hostile[1], Hostile[4]+".gcode", Hostile[0], Hostile[3], Hostile[12]
	}
	nozzle, bed := wave(215, .6, 60), wave(60, .2, 60)
	watts := make([]float64, 60)
	for i := range watts {
		watts[i] = []float64{1950, 2010, 1950, 60, 2010, 40}[i*i*i%7%6]
	}
	return []Object{
		{
			"id": "printer", "name": name, "source": "printer", "state": state, "level": "good", "since": now - 3120, "seen": now - 1,
			"progress": Object{"percent": 68.1, "left": 2290, "elapsed": 3120, "file": file, "layer": 143, "layers": 210},
			"readings": []Object{
				{"name": label, "value": nozzle[59], "target": 215, "unit": unit, "history": nozzle},
				{"name": "Bed", "value": bed[59], "target": 60, "unit": "°C", "history": bed},
			},
			"picture": Object{"url": "api/v1/devices/printer/picture", "time": math.Floor(now/10) * 10},
			"commands": []Object{
				{"name": "pause", "label": "Pause", "confirm": "Pause the print?"},
				{"name": "cancel", "label": "Cancel print", "confirm": "Cancel the print? It cannot be resumed.", "danger": true},
				{"name": "temperature_bed", "label": "Bed target", "confirm": "Bed target?", "number": Object{"min": 0, "max": 120, "step": 1, "unit": "°C", "now": 60}},
			},
		},
		{
			"id": "washer", "name": "Washing machine", "source": "washer", "state": "washing", "level": "good", "since": now - 2400, "seen": now - 44,
			"progress": Object{"percent": 68, "left": 1080, "elapsed": 2400, "file": "Cotton 60"},
			"readings": []Object{{"name": "Power", "value": watts[59], "unit": "W", "history": watts}}, "commands": []Object{},
		},
	}
}

func (s *Sim) parts(now float64, address string) []Object {
	start := seconds(s.start)
	few := func(n int) []int {
		out := make([]int, 60)
		for i := range out {
			out[i] = []int{0, 0, 1, 0, 0, 2, 0, 0, 1, 0, 0}[i*i%11] * n
		}
		return out
	}
	part := func(name, kind, typ, detail string, more Object) Object {
		p := Object{"name": name, "kind": kind, "type": typ, "state": "up", "detail": detail, "since": start, "restarts": 0}
		maps.Copy(p, more)
		return p
	}
	var all []Object
	if s.Name == "empty" || s.Name == "login" {
		all = []Object{part("default", "source", "webhook", "POST /hooks/default", nil)}
	} else {
		busy := 1
		if s.Name == "busy" {
			busy = 20
		}
		hooks := part("hooks", "source", "webhook", "POST /hooks/hooks", Object{"last_event": now - 1250, "seconds": few(0)})
		if s.Name == "hostile" {
			hooks["name"], hooks["detail"], hooks["type"] = Hostile[4], Hostile[2], Hostile[12]
			hooks["last_error"] = Object{"at": now - 60, "text": Hostile[1], "key": Hostile[3]}
		}
		all = []Object{
			part("printer", "source", "octoprint", "http://octopi.local", Object{"last_event": now - 6, "seconds": few(busy), "since": now - 3*3600}),
			part("washer", "source", "webhook", "POST /hooks/washer", Object{"last_event": now - 44, "seconds": few(busy)}),
			hooks,
			part("door", "source", "tail", "/var/log/door.log is not there yet", Object{"state": "waiting", "last_event": now - 9120, "seconds": few(0), "since": now - 410,
				"last_error": Object{"at": now - 410, "text": "no such file", "key": "sources[3].paths"}}),
		}
	}
	sink := part("mqtt", "sink", "mqtt", "to "+address, Object{"last_event": now - 6, "seconds": few(1)})
	if s.Name == "away" {
		maps.Copy(sink, Object{"state": "failed", "detail": address + ", next try in 8 s", "since": now - 540, "last_error": Object{"at": now - 540, "text": "connection refused", "key": "mqtt.url"}})
	}
	all = append(all, sink)
	if !s.external() {
		all = append(all, part("broker", "broker", "bundled", "listens on 127.0.0.1:1883", nil))
	}
	return append(all, part("journal", "journal", "", "18.2 of 256 MiB, 7 days of history", nil), part("http", "http", "", "listens on 127.0.0.1:8127", nil))
}

// whole is the state, without the newest events.
func (s *Sim) whole() Object {
	now := seconds(time.Now())
	start := seconds(s.start)
	address, kind, clients := "127.0.0.1:1883", "bundled", 4
	if s.external() {
		address, kind = "192.168.1.10:1883", "external"
	}
	if s.Name == "empty" {
		clients = 0
	}
	broker := Object{"kind": kind, "address": address, "state": "up", "since": start, "clients": clients}
	waiting := Object{"count": 0}
	if s.Name == "away" {
		broker["state"], broker["since"] = "failed", now-540
		broker["error"] = Object{"at": now - 540, "text": "connection refused", "key": "mqtt.url"}
		waiting = Object{"count": 214, "oldest": now - 520}
	}
	minutes := make([]int, 60)
	for i := range minutes {
		minutes[i] = []int{2, 3, 3, 4, 5, 7, 3, 2, 1, 4, 3}[i*i*3%11]
		switch s.Name {
		case "busy":
			minutes[i] = 9800 + i*i*i*37%2600
		case "empty", "login":
			minutes[i] = 0
		}
	}
	config := Object{"file": "/etc/event2mqtt/config.yaml", "loaded": now - 7200, "by": "file change", "changed": []string{"sources.door", "rules"}}
	switch s.Name {
	case "empty":
		config = Object{"loaded": start, "by": "start", "changed": []string{}}
	case "badconfig":
		config["refused"] = Object{"at": now - 240, "by": "file change", "problems": []Object{
			{"file": "config.yaml", "line": 3, "column": 14, "key": "mqtt.keepalive", "text": "the number 60 needs a unit, such as 60s"},
			{"file": "config.yaml", "line": 36, "column": 5, "key": "rules[1].min_intervall", "text": "there is no such option; did you mean min_interval?"},
			{"file": "conf.d/printers.yaml", "line": 10, "column": 21, "key": "sources[0].type", "text": `"octoprnt" is not a type of source; there are webhook, tail, octoprint, moonraker, mqtt, exec`},
		}}
	case "hostile":
		config["file"], config["changed"] = Hostile[1], []string{Hostile[2], Hostile[3]}
		config["refused"] = Object{"at": now - 240, "by": Hostile[0], "problems": []Object{{"file": Hostile[1], "line": 3, "column": 14, "key": Hostile[2], "text": Hostile[3]}}}
	}
	host, version := "printerpi", "0.5.0"
	if s.Name == "hostile" {
		host, version = Hostile[0], Hostile[3]
	}
	d := Object{
		"version": version, "host": host, "now": now, "started": start, "webhook": "hooks/default", "taking": Object{"ok": true}, "broker": broker, "waiting": waiting,
		"rate": Object{"minute": minutes[58], "minutes": minutes}, "parts": s.parts(now, address), "config": config, "rules": Rules, "devices": s.devices(now), "replay": nil,
	}
	maps.Copy(d, s.state)
	return d
}

// topics are the topics that begin with a prefix and have some words in them. The
// scenario busy has more than one answer holds, so it is read level by level.
func (s *Sim) topics(prefix, words string, levels bool) Object {
	now := seconds(time.Now())
	type topic struct {
		name, value string
		count       int
		retained    bool
		age         float64
	}
	list := []topic{
		{"event2mqtt/mqtt", "connected", 1, true, 7300}, {"event2mqtt/event/PrintStarted", `{"name":"bracket_v7_0.2mm_PETG_MK4.gcode","origin":"local"}`, 3, false, 3120},
		{"event2mqtt/event/ZChange", `{"new":28.6,"old":28.4}`, 1204, false, 6}, {"event2mqtt/event/BuildDone", `{"repo":"firmware","ok":true}`, 12, false, 1250},
		{"event2mqtt/event/opened", `{"who":"anna"}`, 88, false, 9120}, {"event2mqtt/laundry/phase", `{"phase":"spin","minutes_left":18}`, 61, true, 44},
		{"event2mqtt/printer/progress", `{"completion":68.1}`, 4012, true, 2}, {"event2mqtt/printer/available", "online", 2, true, 10800},
		{"event2mqtt/printer/temperature/tool0", `{"actual":215.3,"target":215}`, 3900, true, 3}, {"event2mqtt/printer/temperature/bed", `{"actual":60.1,"target":60}`, 3100, true, 3},
		{"homeassistant/device/event2mqtt_printer/config", `{"dev":{"name":"Prusa MK4"},"o":{"name":"event2mqtt"}}`, 1, true, 7300},
		{"tele/kitchen/SENSOR", `{"Time":"2026-11-25T14:02:11","AM2301":{"Temperature":21.4}}`, 640, false, 31}, {"tele/kitchen/LWT", "Online", 1, true, 90000},
	}
	if s.Name == "hostile" {
		for _, h := range Hostile {
			list = append(list, topic{"x/" + strings.ReplaceAll(h, "/", "_"), h, 1, true, 5})
		}
	}
	if s.Name == "empty" {
		list = list[:1]
	}
	out, below := []Object{}, map[string]int{}
	for _, t := range list {
		rest, ok := strings.CutPrefix(t.name, prefix)
		level, _, deeper := strings.Cut(rest, "/")
		switch {
		case !ok || s.deleted[t.name] || !strings.Contains(strings.ToLower(t.name+" "+t.value), strings.ToLower(words)):
		case levels && deeper:
			below[prefix+level]++
		default:
			out = append(out, Object{"topic": t.name, "value": t.value, "count": t.count, "retained": t.retained, "time": now - t.age, "size": len(t.value)})
		}
	}
	deep := []Object{}
	for _, level := range slices.Sorted(maps.Keys(below)) {
		deep = append(deep, Object{"level": level, "below": below[level]})
	}
	return Object{"topics": out, "levels": deep, "left_out": s.Name == "busy" && !levels && words == ""}
}

func (s *Sim) clients() Object {
	now := seconds(time.Now())
	client := func(id, user, address, protocol, session string, queue int, age float64, filters ...string) Object {
		return Object{"id": id, "user": user, "address": address, "protocol": protocol, "session": session, "keep_alive": 60, "subscriptions": filters, "filters": len(filters), "queue": queue, "since": now - age}
	}
	list := []Object{
		client("ha-core", "homeassistant", "192.168.1.20:51122", "5", "kept", 0, 5000, "homeassistant/#", "event2mqtt/#", "tele/#"),
		client("DVES_8A21F0", "kitchen", "192.168.1.61:40112", "3.1.1", "clean", 0, 90000, "cmnd/kitchen/#", "cmnd/tasmotas/#"),
		client("mosq-2v8Tq", "", "127.0.0.1:40190", "3.1.1", "clean", 312, 200, "#"),
		client("phone-app", "anna", "192.168.1.77:60431", "5", "kept", 41, 700, "event2mqtt/event/+"),
	}
	list[1]["will"] = "tele/kitchen/LWT"
	accounts := []Object{
		{"name": "homeassistant", "kind": "user", "seen": now - 4}, {"name": "anna", "kind": "user", "seen": now - 700},
		{"name": "garage", "kind": "device", "seen": nil}, {"name": "kitchen", "kind": "device", "seen": now - 31}, {"name": "tablet", "kind": "user", "seen": now - 7400},
	}
	switch s.Name {
	case "hostile":
		for _, h := range Hostile {
			list = append(list, client(h, h, h, h, h, 9, 5, h, h))
			accounts = append(accounts, Object{"name": h, "kind": h, "seen": now})
		}
	case "empty":
		list = nil
	}
	kept := []Object{}
	for _, c := range list {
		if !s.kicked[c["id"].(string)] {
			kept = append(kept, c)
		}
	}
	return Object{"clients": kept, "accounts": accounts}
}

// tried is what the rules do with an event.
func tried(event string, payload any) Object {
	steps := []Object{}
	switch {
	case strings.HasPrefix(event, "Client"):
		return Object{"steps": []Object{{"rule": named(1), "does": "drops the event"}}, "publish": nil}
	case event == "ZChange":
		steps = append(steps, Object{"rule": named(2), "does": "lets it pass: none in the last 5 s"})
	case event == "Progress":
		steps = append(steps, Object{"rule": named(3), "does": "lets it pass: the payload is new"})
	}
	out := Object{"_event": event, "_timestamp": time.Now().Unix()}
	if p, ok := payload.(map[string]any); ok {
		maps.Copy(out, p)
	} else {
		out["value"] = payload
	}
	return Object{"steps": steps, "publish": Object{"topic": "event2mqtt/event/" + strings.ReplaceAll(event, "/", "_"), "qos": 1, "retain": false, "payload": out}}
}

// picture is a printer, in a few rectangles.
var picture = func() []byte {
	m := image.NewRGBA(image.Rect(0, 0, 320, 240))
	box := func(x, y, w, h int, c uint32) {
		draw.Draw(m, image.Rect(x, y, x+w, y+h), image.NewUniform(color.RGBA{uint8(c >> 16), uint8(c >> 8), uint8(c), 255}), image.Point{}, draw.Src)
	}
	box(0, 0, 320, 240, 0x30343a)
	box(0, 190, 320, 50, 0x4b5058)
	box(60, 20, 16, 170, 0x15171a)
	box(244, 20, 16, 170, 0x15171a)
	box(60, 20, 200, 14, 0x15171a)
	box(76, 84, 168, 10, 0x6a7079)
	box(150, 78, 28, 30, 0xe8702a)
	box(110, 182, 100, 8, 0x15171a)
	box(128, 140, 72, 42, 0xc9cdd3)
	box(140, 128, 48, 12, 0xc9cdd3)
	var b bytes.Buffer
	_ = png.Encode(&b, m) // a buffer takes everything
	return b.Bytes()
}()
