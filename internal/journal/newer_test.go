package journal_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"event2mqtt/internal/event"
	"event2mqtt/internal/journal"
)

// appendNewer adds a good record of a kind of the future to a segment.
func appendNewer(t *testing.T, path string) {
	t.Helper()
	var salt [8]byte
	name := strings.TrimSuffix(filepath.Base(path), ".seg")
	n := uint64(0)
	for _, c := range name[17:] {
		n = n<<4 | uint64(strings.IndexRune("0123456789abcdef", c))
	}
	binary.LittleEndian.PutUint64(salt[:], n)
	body := append(binary.AppendUvarint([]byte{9}, 1000), 0, 'n', 'e', 'w')
	length := binary.LittleEndian.AppendUint32(nil, uint32(len(body)))
	sum := crc32.Checksum(bytes.Join([][]byte{salt[:], length, body}, nil), crc32.MakeTable(crc32.Castagnoli))
	record := append([]byte(marker), length...)
	record = append(binary.LittleEndian.AppendUint32(record, sum), body...)
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		_, err = f.Write(record)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// folder reads all files of a folder.
func folder(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := fs.WalkDir(os.DirFS(dir), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(filepath.Join(dir, path))
		out[path] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestWhatANewerVersionWroteIsRefusedAndNotChanged: it is no damage.
func TestWhatANewerVersionWroteIsRefusedAndNotChanged(t *testing.T) {
	for name, c := range map[string]struct {
		knows  func(string) bool
		change func(t *testing.T, dir string, files []string)
	}{
		"a kind of record, at the end": {nil, func(t *testing.T, dir string, files []string) {
			appendNewer(t, files[len(files)-1])
		}},
		"a kind of record, in what is not delivered": {nil, func(t *testing.T, dir string, files []string) {
			appendNewer(t, files[1])
		}},
		"a name of a record": {func(name string) bool { return name != "77" }, func(*testing.T, string, []string) {}},
		"the marks": {nil, func(t *testing.T, dir string, _ []string) {
			body := []byte(`{"format":2,"id":"abc","marks":[1,2]}`)
			sum := crc32.Checksum(append(binary.LittleEndian.AppendUint32(make([]byte, 8), uint32(len(body))), body...), crc32.MakeTable(crc32.Castagnoli))
			text := []byte(`{"crc32c":` + strconv.FormatUint(uint64(sum), 10) + `,"body":` + string(body) + `}`)
			if err := os.WriteFile(filepath.Join(dir, "cursors.json"), text, 0o600); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			opt := journal.Options{FS: journal.DirFS(dir), SegmentSize: 4 << 10}
			j := open(t, opt)
			cursor(t, j, "sink")
			appendN(t, j, 1, 100)
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
			c.change(t, dir, segments(t, dir))
			before := folder(t, dir)
			opt.Log, opt.Knows = zerolog.Nop(), c.knows
			j, err := journal.Open(opt)
			if err == nil {
				j.Close()
			}
			if !errors.Is(err, journal.ErrNewer) || strings.Contains(err.Error(), "\n") {
				t.Fatalf("got %v", err)
			}
			after := folder(t, dir)
			for file, text := range before {
				if after[file] != text {
					t.Errorf("%s was changed", file)
				}
				delete(after, file)
			}
			for file := range after {
				t.Errorf("%s was made", file)
			}
		})
	}
}

// TestACursorStopsAtWhatItCannotRead: what is so far behind that Open does not
// look there is not skipped either, nor is it damage; a reader stops there too.
func TestACursorStopsAtWhatItCannotRead(t *testing.T) {
	dir := t.TempDir()
	opt := journal.Options{FS: journal.DirFS(dir), Sync: journal.SyncNever, Memory: 1}
	j := open(t, opt)
	cursor(t, j, "sink")
	const n = 200
	for i := range n {
		_, err := j.Append(t.Context(), event.Event{Name: strconv.Itoa(i), Source: "s", Payload: make([]byte, 120<<10)})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	appendNewer(t, segments(t, dir)[0])
	j = open(t, opt)
	c := cursor(t, j, "sink")
	for name, next := range map[string]func(context.Context, []journal.Entry) ([]journal.Entry, error){"cursor": c.Next, "reader": j.Reader(1).Next} {
		read := 0
		for {
			got, err := next(t.Context(), make([]journal.Entry, 0, 16))
			if errors.Is(err, journal.ErrNewer) {
				break
			}
			if read += len(got); err != nil || read == n {
				t.Fatalf("%s: after %d events: %v", name, read, err)
			}
		}
		if read == 0 {
			t.Errorf("%s: nothing before it was read", name)
		}
	}
	if d := j.Stats().Damaged; d != 0 {
		t.Errorf("%d stretches are reported as damaged", d)
	}
}
