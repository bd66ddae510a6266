package ui

import (
	"bytes"
	"flag"
	"image"
	"image/color"
	"image/png"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"event2mqtt/test/ui/standin"
)

var update = flag.Bool("update", false, "write the pictures of docs/page.md anew")

// The pictures of docs/page.md are of this page. -update makes them.
func TestPicturesOfTheDocumentation(t *testing.T) {
	for name, s := range map[string]screen{"page.png": {width: 1200, height: 760}, "page-phone.png": {width: 360, height: 720, dark: true, phone: true}} {
		t.Run(name, func(t *testing.T) {
			b, sim := played(t, s, "calm")
			b.wait("document.querySelectorAll('#rows .row').length >= 40 && document.querySelector('.pic img').naturalWidth === 320")
			sim.Set(standin.Object{"config": standin.Object{"file": "/etc/event2mqtt/config.yaml", "loaded": 1e9, "by": "start", "changed": []string{}}})
			if !s.phone {
				b.script("document.querySelectorAll('#rows .row')[3].click(); document.activeElement.blur()")
				b.says("#rows .more", "Copy as curl")
			}
			text, err := os.ReadFile(b.shoot(t.TempDir(), "picture"))
			if err != nil {
				t.Fatal(err)
			}
			small := fewColours(t, text)
			const most = 100 << 10
			if len(small) > most {
				t.Errorf("the picture has %d bytes", len(small))
			}
			path := filepath.Join("../../docs", name)
			if *update {
				if err := os.WriteFile(path, small, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if info, err := os.Stat(path); err != nil || info.Size() > most {
				t.Errorf("docs/%s: %v; go test -run Documentation -update makes it", name, err)
			}
		})
	}
}

// fewColours makes a small file of a picture: with the 220 colours that it has most.
func fewColours(t *testing.T, text []byte) []byte {
	t.Helper()
	from, err := png.Decode(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	counts := map[color.RGBA]int{}
	size := from.Bounds()
	at := func(x, y int) color.RGBA { return color.RGBAModel.Convert(from.At(x, y)).(color.RGBA) }
	for y := range size.Dy() {
		for x := range size.Dx() {
			counts[at(x, y)]++
		}
	}
	often := slices.SortedFunc(maps.Keys(counts), func(a, b color.RGBA) int { return counts[b] - counts[a] })
	var palette color.Palette
	for _, c := range often[:min(len(often), 220)] {
		palette = append(palette, c)
	}
	to := image.NewPaletted(size, palette)
	nearest := map[color.RGBA]uint8{}
	for y := range size.Dy() {
		for x := range size.Dx() {
			c := at(x, y)
			if _, ok := nearest[c]; !ok {
				nearest[c] = uint8(palette.Index(c))
			}
			to.SetColorIndex(x, y, nearest[c])
		}
	}
	var b bytes.Buffer
	if err := (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&b, to); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
