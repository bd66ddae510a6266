package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// contender is a program that does what ours does, or ours. start starts it
// with a broker to publish to.
type contender struct {
	name  string
	start func(broker *process) (*process, error)
}

// findContenders looks for programs to measure beside ours. None has to be there.
//
//	BENCH_BEFORE    our binary as it was, for instance of the last release
//	BENCH_LIMIT     the folder of a program that publishes through a client of
//	                its own and does nothing else: "limit http -listen A -broker B",
//	                "limit tail -file F -broker B"
//
// telegraf and rumqttd are taken from $PATH.
func (b *bench) findContenders() error {
	b.before = os.Getenv("BENCH_BEFORE")
	b.telegraf, _ = exec.LookPath("telegraf")
	b.rumqttd, _ = exec.LookPath("rumqttd")
	dir := os.Getenv("BENCH_LIMIT")
	if dir == "" {
		return nil
	}
	b.limit = filepath.Join(b.dir, "limit")
	if out, err := exec.Command("go", "build", "-C", dir, "-o", b.limit, ".").CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", dir, err, out)
	}
	return nil
}

// ourselves is one of our binaries with a version of MQTT, and more configuration.
func (b *bench) ourselves(name, binary, protocol, yaml string) contender {
	return contender{name, func(m *process) (*process, error) {
		return b.startOne(binary, fmt.Sprintf("mqtt: {url: \"mqtt://%s\", protocol: %q}\nlog: {level: error}\n%s", m.mqtt, protocol, yaml))
	}}
}

// ours is how many of contenders are ours: with the client library for MQTT
// 3.1.1, and with the link of our own for 5. The others are beside them.
const ours = 2

// both makes them.
func (b *bench) both(yaml string) []contender {
	return []contender{b.ourselves("ours", b.bridge, "3.1.1", yaml), b.ourselves("ours with MQTT 5", b.bridge, "5", yaml)}
}

func (b *bench) startBareWebhook(m *process) (*process, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	p, err := b.startBare("webhook", address, m.mqtt)
	if err != nil {
		return nil, err
	}
	p.http = address
	return p, waitFor(address)
}

func (b *bench) startLimitWebhook(m *process) (*process, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	p := &process{http: address, cmd: exec.Command(b.limit, "http", "-listen", address, "-broker", m.mqtt)}
	return p, b.start(p, address)
}

// startTelegraf keeps nothing on disk, and publishes each event at once.
func (b *bench) startTelegraf(m *process) (*process, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	config := filepath.Join(b.dir, "telegraf-"+strings.ReplaceAll(address, ":", "-")+".conf")
	text := fmt.Sprintf(`[agent]
  interval = "1s"
  flush_interval = "1s"
  metric_batch_size = 1
  metric_buffer_limit = 1000000
  omit_hostname = true
  quiet = true
[[inputs.http_listener_v2]]
  service_address = "tcp://%s"
  paths = ["/hooks/default"]
  data_format = "json"
  json_string_fields = ["event", "padding"]
[[outputs.mqtt]]
  servers = ["tcp://%s"]
  topic = "event2mqtt/event/Bench"
  qos = 1
  data_format = "json"
`, address, m.mqtt)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	p := &process{http: address, cmd: exec.Command(b.telegraf, "--config", config)}
	return p, b.start(p, address)
}

// startRumqttd starts the broker written in Rust with large limits.
func (b *bench) startRumqttd() (*process, error) {
	p := &process{}
	var err error
	if p.mqtt, err = freeAddress(); err != nil {
		return nil, err
	}
	config := filepath.Join(b.dir, "rumqttd-"+strings.ReplaceAll(p.mqtt, ":", "-")+".toml")
	text := fmt.Sprintf(`id = 0
[router]
id = 0
max_connections = 10010
max_outgoing_packet_count = 200
max_segment_size = 104857600
max_segment_count = 10
[v4.1]
name = "v4-1"
listen = "%s"
next_connection_delay_ms = 1
  [v4.1.connections]
  connection_timeout_ms = 60000
  max_payload_size = 20480
  max_inflight_count = 1000
  dynamic_filters = true
`, p.mqtt)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	p.cmd = exec.Command(b.rumqttd, "-c", config)
	return p, b.start(p, p.mqtt)
}

// named leaves of those beside ours only those that were asked for.
func (b *bench) named(all []contender) []contender {
	if b.only == "" {
		return all
	}
	wanted := strings.Split(b.only, ",")
	return append(all[:ours:ours], slices.DeleteFunc(all[ours:], func(c contender) bool { return !slices.Contains(wanted, c.name) })...)
}

// figure is one of what was measured of each contender.
type figure struct {
	what, goal, format string
	of                 func(i int) float64
}

// addBoth adds a figure of each of ours, beside those of the others.
func (b *bench) addBoth(all []contender, f figure) {
	for i := range ours {
		what := f.what
		if i > 0 {
			what = "    with MQTT 5"
		}
		b.add(what, fmt.Sprintf(f.format, f.of(i)), f.goal, beside(all, i, ours, f.format, f.of))
	}
}

// beside names the figures of the contenders from one on, and the ratio of
// another's to each.
func beside(all []contender, i, from int, format string, of func(i int) float64) string {
	var s []string
	for j := from; j < len(all); j++ {
		s = append(s, fmt.Sprintf("%s "+format+", ratio %.2f", all[j].name, of(j), of(i)/of(j)))
	}
	return strings.Join(s, "; ")
}

// addRounds adds the medians of the ratios of rates, of each round.
func (b *bench) addRounds(all []contender, rates [][]float64) {
	for j, c := range all[ours:] {
		for i := range ours {
			each := make([]float64, len(rates[i]))
			for round := range each {
				each[round] = rates[i][round] / rates[ours+j][round]
			}
			what := "  ratio to " + c.name + ", median"
			if i > 0 {
				what = "    with MQTT 5"
			}
			b.add(what, fmt.Sprintf("%.2f", median(each)), "", fmt.Sprintf("each round: %.2f", each))
		}
	}
}

func median(x []float64) float64 {
	x = slices.Sorted(slices.Values(x))
	return x[len(x)/2]
}
