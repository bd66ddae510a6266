package ui

import (
	"bytes"
	"fmt"
	"image"
	"image/color"
	"image/jpeg"
	"slices"
	"strings"
	"testing"

	"event2mqtt/internal/sources/octoprint/octotest"
)

// This file is a printer on the page, with the real program between: OctoPrint is
// a recording of one.

// midway is how many frames of the recording come until the first print is at 67 %.
const midway = 118

func picture(t *testing.T) []byte {
	t.Helper()
	img := image.NewRGBA(image.Rect(0, 0, 64, 48))
	for x := range 64 {
		for y := range 48 {
			img.Set(x, y, color.RGBA{uint8(4 * x), uint8(5 * y), 128, 255})
		}
	}
	var b bytes.Buffer
	if err := jpeg.Encode(&b, img, nil); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

const printerConfig = `http:
  listen: %%s
broker:
  listen: "off"
  max_packet: 16KiB
sources:
  - name: default
    type: webhook
  - name: ender
    type: octoprint
    url: %s
    api_key: %s
    commands: [pause, cancel]
    progress_interval: 0s
    snapshot: {every: 1s, url: "%s/webcam/"}
`

// TestProgramAPrinterIsShownAndTold: its progress, temperatures and picture are on
// the page, and a command goes to OctoPrint once somebody has said yes.
func TestProgramAPrinterIsShownAndTold(t *testing.T) {
	octo := octotest.New(t, octotest.Options{
		Frames:  octotest.Recording(t, "../../internal/sources/octoprint/testdata/transcript.jsonl"),
		Pause:   midway,
		Picture: picture(t),
	})
	p := runWith(t, fmt.Sprintf(printerConfig, octo.URL, octotest.Key, octo.URL))
	b := p.look(desktop)
	b.says(".device h3", "Ender")
	b.says(".device .state", "Printing")
	b.says(".device .hero", "67 %")
	b.wait("document.querySelector('.device progress').value > 67 && document.querySelector('.device progress').value < 68")
	b.says(".device", "small print.gcode")
	b.says(".device .reads", "60.0 / 60 °C")
	b.wait("document.querySelector('.device .pic img')?.naturalWidth === 64")
	b.shoot(shots(t), "printer-light-1440")
	const cancel = "[...document.querySelectorAll('.device .acts button')].find(x => x.textContent === 'Cancel…')"
	b.script(cancel + ".click()")
	b.says("#ask", "Cancel?")
	b.script("document.getElementById('ask-no').click()")
	b.wait("!document.getElementById('ask').open")
	if told := octo.Told(); len(told) > 0 {
		t.Errorf("nobody has said yes, and OctoPrint was told %s", told)
	}
	b.script(cancel + ".click()")
	b.wait("document.getElementById('ask').open")
	b.script("document.getElementById('ask-yes').click()")
	b.says("#toast", "Cancel: sent.")
	until(t, "OctoPrint is told", func() bool { return slices.Equal(octo.Told(), []string{`{"command":"cancel"}`}) })
	octo.Resume()
	b.says(".device .state", "Offline")
}

// TestProgramARejectedEventTellsWhy: the broker takes no message of its size.
func TestProgramARejectedEventTellsWhy(t *testing.T) {
	p := runWith(t, strings.Replace(programConfig, `listen: "off"`, "listen: \"off\"\n  max_packet: 16KiB", 1))
	b := p.look(desktop)
	p.post("hooks/default", `{"event":"Huge","text":"`+strings.Repeat("x", 20_000)+`"}`)
	b.says("#rows", "Huge")
	b.says("#rows", "rejected")
	b.script("document.querySelector('#rows .ev').click()")
	b.says("#rows", "16384")
}

// TestProgramWhatAProgramPublishesIsShownAsItIs, without what it is stored in.
func TestProgramWhatAProgramPublishesIsShownAsItIs(t *testing.T) {
	p := run(t)
	b := p.look(desktop)
	p.post("api/v1/publish/home/lamp?retain=1", "ON")
	b.says("#rows", "home/lamp ON")
	if text := b.text("#rows"); strings.Contains(text, "encoding") {
		t.Errorf("the row is %q", text)
	}
	b.script("document.querySelector('#rows .ev').click()")
	b.wait("document.querySelector('#rows pre')?.textContent === 'ON'")
}
