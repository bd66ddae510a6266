package journal_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"event2mqtt/internal/event"
	"event2mqtt/internal/journal"
	"event2mqtt/internal/testkit"
)

// logged opens a journal and returns what it logs.
func logged(t *testing.T, opt journal.Options) (*journal.Journal, *lines) {
	t.Helper()
	log := &lines{}
	opt.Log = zerolog.New(zerolog.SyncWriter(&log.buf))
	j, err := journal.Open(opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	return j, log
}

type lines struct{ buf bytes.Buffer }

// errors are the numbers that the errors name, or their text. The journal
// must be closed.
func (l *lines) errors(t *testing.T) (out []string) {
	t.Helper()
	for line := range strings.Lines(l.buf.String()) {
		var e struct {
			Level, Message string
			From, To       uint64
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		switch {
		case e.Level == "error" && e.To > 0:
			out = append(out, fmt.Sprintf("%d-%d", e.From, e.To))
		case e.Level == "error":
			out = append(out, e.Message)
		}
	}
	return out
}

func segments(t *testing.T, dir string) []string {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(dir, "*.seg"))
	if err != nil || len(list) < 4 {
		t.Fatalf("segments %v, %v", list, err)
	}
	return list
}

// TestMissingEventsAreReportedWithTheirNumbersOnce damages a log of which
// nothing was delivered in all the ways that leave no bad bytes behind.
func TestMissingEventsAreReportedWithTheirNumbersOnce(t *testing.T) {
	const events = 60
	cut := func(name string) error { return os.Truncate(name, 0) }
	zero := func(name string) error {
		info, err := os.Stat(name)
		if err != nil {
			return err
		}
		return os.WriteFile(name, make([]byte, info.Size()), 0o600)
	}
	for name, damage := range map[string]func(string) error{"removed": os.Remove, "emptied": cut, "zeroed": zero} {
		for _, which := range []string{"oldest", "middle", "newest", "all"} {
			t.Run(which+" "+name, func(t *testing.T) {
				dir := t.TempDir()
				opt := journal.Options{FS: journal.DirFS(dir), SegmentSize: 4 << 10}
				j := open(t, opt)
				cursor(t, j, "sink")
				appendN(t, j, 1, events)
				if err := j.Close(); err != nil {
					t.Fatal(err)
				}
				list := segments(t, dir)
				victims := map[string][]string{"oldest": list[:1], "middle": list[1:2], "newest": list[len(list)-1:], "all": list}[which]
				for _, v := range victims {
					if err := damage(v); err != nil {
						t.Fatal(err)
					}
				}

				j, log := logged(t, opt)
				c := cursor(t, j, "sink")
				appendN(t, j, 1000, 1)
				var got []uint64
				for len(got) == 0 || got[len(got)-1] <= events {
					got = append(got, take(t, c, 1)[0].Seq)
				}
				if err := j.Close(); err != nil {
					t.Fatal(err)
				}
				var want []string
				for seq, from := uint64(1), uint64(0); seq <= events+1; seq++ {
					gone := seq <= events && !slices.Contains(got, seq)
					switch {
					case gone && from == 0:
						from = seq
					case !gone && from > 0:
						want = append(want, fmt.Sprintf("%d-%d", from, seq-1))
						from = 0
					}
				}
				if errs := log.errors(t); len(want) != 1 || !slices.Equal(errs, want) {
					t.Errorf("reported %q, gone are %q", errs, want)
				}

				j, log = logged(t, opt)
				cursor(t, j, "sink")
				j.Close()
				if errs := log.errors(t); len(errs) > 0 && which != "middle" && which != "oldest" {
					t.Errorf("reported again: %q", errs)
				}
			})
		}
	}
}

// TestNothingIsAcknowledgedWithoutItsFolder takes the folder, or a file in it,
// away under a journal in use.
func TestNothingIsAcknowledgedWithoutItsFolder(t *testing.T) {
	ctx := context.Background()
	t.Run("folder removed, then made anew", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "journal")
		must(0, os.Mkdir(dir, 0o700))
		opt := journal.Options{FS: journal.DirFS(dir)}
		j, log := logged(t, opt)
		appendN(t, j, 1, 3)
		must(0, os.RemoveAll(dir))
		testkit.Eventually(t, "a failure without any append", func() bool { return errors.Is(j.Failure(), journal.ErrMissing) })
		for range 2 {
			if _, err := j.Append(ctx, numbered(4)); !errors.Is(err, journal.ErrMissing) {
				t.Fatalf("append without the folder: %v", err)
			}
		}
		must(0, os.Mkdir(dir, 0o700))
		appendN(t, j, 5, 1)
		if err := j.Failure(); err != nil {
			t.Error(err)
		}
		j.Close()
		if errs := log.errors(t); len(errs) != 2 { // the folder, and what was in it
			t.Errorf("errors: %q", errs)
		}
		j = open(t, opt)
		if s := j.Stats(); s.Last < 4 {
			t.Errorf("after a restart the newest event is %d", s.Last)
		}
	})
	t.Run("folder moved away and back", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "journal")
		must(0, os.Mkdir(dir, 0o700))
		opt := journal.Options{FS: journal.DirFS(dir)}
		j, _ := logged(t, opt)
		c := cursor(t, j, "sink")
		appendN(t, j, 1, 3)
		must(0, os.Rename(dir, dir+"2"))
		if _, err := j.Append(ctx, numbered(4)); !errors.Is(err, journal.ErrMissing) {
			t.Fatalf("append without the folder: %v", err)
		}
		must(0, os.Rename(dir+"2", dir))
		appendN(t, j, 5, 1)
		c.Close()
		j.Close()
		j = open(t, opt)
		if got := names(take(t, cursor(t, j, "sink"), 4)); !slices.Equal(got, []string{"1", "2", "3", "5"}) {
			t.Errorf("after a restart there are %v", got)
		}
	})
	t.Run("segment removed", func(t *testing.T) {
		dir := t.TempDir()
		opt := journal.Options{FS: journal.DirFS(dir)}
		j, log := logged(t, opt)
		cursor(t, j, "sink")
		appendN(t, j, 1, 3)
		list, _ := filepath.Glob(filepath.Join(dir, "*.seg"))
		must(0, os.Remove(list[0]))
		appendN(t, j, 4, 2) // into another
		j.Close()
		if errs := log.errors(t); len(errs) != 1 {
			t.Errorf("errors: %q", errs)
		}
		j = open(t, opt)
		if got := names(take(t, cursor(t, j, "sink"), 2)); !slices.Equal(got, []string{"4", "5"}) {
			t.Errorf("after a restart there are %v", got)
		}
	})
}

// TestADiskThatFailsIsReportedOnce, and once when it works again.
func TestADiskThatFailsIsReportedOnce(t *testing.T) {
	fs := newMemFS(1)
	j, log := logged(t, journal.Options{FS: fs})
	appendN(t, j, 1, 1)
	fail := func(err error) {
		fs.mu.Lock()
		defer fs.mu.Unlock()
		fs.fail = func(op, _ string) error {
			if op == "write" || op == "sync" {
				return err
			}
			return nil
		}
	}
	fail(errIO)
	for range 5 {
		if _, err := j.Append(context.Background(), numbered(2)); err == nil {
			t.Fatal("accepted by a disk that fails")
		}
	}
	fail(nil)
	appendN(t, j, 2, 3)
	j.Close()
	if errs, text := log.errors(t), log.buf.String(); len(errs) != 1 || strings.Count(text, "disk works again") != 1 {
		t.Errorf("logged %s", text)
	}
}

// TestAnAppendIsBoundedInBytesAndCount, but one event may be larger.
func TestAnAppendIsBoundedInBytesAndCount(t *testing.T) {
	j := open(t, journal.Options{FS: newMemFS(1)})
	big := event.Event{Name: "e", Payload: make([]byte, 9<<20)}
	half := event.Event{Name: "e", Payload: make([]byte, 5<<20)}
	for name, c := range map[string]struct {
		events []event.Event
		err    error
	}{
		"one large":              {[]event.Event{big}, nil},
		"one large among others": {[]event.Event{half, big, {Name: "e"}}, nil},
		"several large":          {[]event.Event{half, half, half}, journal.ErrTooLarge},
		"many small":             {make([]event.Event, 32<<10+1), journal.ErrTooLarge},
		"enough":                 {make([]event.Event, 32<<10), nil},
	} {
		if _, err := j.Append(context.Background(), c.events...); !errors.Is(err, c.err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestASourceHasSoManyPositions refuses more keys, and takes new positions of
// those that it has.
func TestASourceHasSoManyPositions(t *testing.T) {
	j := open(t, journal.Options{FS: newMemFS(1), Sync: journal.SyncNever})
	var batch []event.Event
	for i := range 100_000 {
		batch = append(batch, event.Event{Source: "s", Position: event.Position{Key: fmt.Sprint(i)}})
		if len(batch) == 10_000 {
			must(j.Append(context.Background(), batch...))
			batch = batch[:0]
		}
	}
	e := numbered(1)
	for key, want := range map[string]error{"7": nil, "one more": journal.ErrTooLarge, "": nil} {
		e.Position.Key = key
		if _, err := j.Append(context.Background(), e); !errors.Is(err, want) {
			t.Errorf("key %q: %v", key, err)
		}
	}
}

// TestRecoveryCollectsNoSegment opens a log of very many tiny events.
func TestRecoveryCollectsNoSegment(t *testing.T) {
	opt := journal.Options{FS: journal.DirFS(t.TempDir()), SegmentSize: 32 << 20, Sync: journal.SyncNever}
	j := open(t, opt)
	batch := make([]event.Event, 10_000)
	for i := range batch {
		batch[i] = event.Event{Name: "e", Payload: []byte("1")}
	}
	for range 30 {
		must(j.Append(context.Background(), batch...))
	}
	j.Close()
	stop, peak := make(chan struct{}), make(chan uint64)
	runtime.GC()
	var before runtime.MemStats
	runtime.ReadMemStats(&before)
	go func() { // the most that is live, as often as one can look
		most := uint64(0)
		for {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			most = max(most, m.HeapAlloc)
			select {
			case <-stop:
				peak <- most
				return
			case <-time.After(time.Millisecond):
			}
		}
	}()
	open(t, opt)
	close(stop)
	if most := <-peak - before.HeapAlloc; most > 64<<20 && most < 1<<40 {
		t.Errorf("opening 300,000 tiny events took %d MiB", most>>20)
	}
}

// TestBytesShapedLikeRecordsCostLittle damages a segment whose payload holds
// very many beginnings of records that claim to be long.
func TestBytesShapedLikeRecordsCostLittle(t *testing.T) {
	dir := t.TempDir()
	opt := journal.Options{FS: journal.DirFS(dir), SegmentSize: 16 << 20}
	j := open(t, opt)
	const size = 3 << 20
	hostile := bytes.Repeat([]byte("\xe2\x1amq\x00\x00\x08\x00\x00\x00\x00\x00"), size/12) // each of 512 KiB
	must(j.Append(context.Background(), event.Event{Name: "bad", Payload: hostile}))
	must(j.Append(context.Background(), numbered(2)))
	j.Close()
	list, _ := filepath.Glob(filepath.Join(dir, "*.seg"))
	f := must(os.OpenFile(list[0], os.O_RDWR, 0))
	must(f.WriteAt([]byte("x"), 1000))
	f.Close()
	start := time.Now()
	j, log := logged(t, opt)
	took := time.Since(start)
	j.Close()
	if took > 20*time.Second { // with every one summed it is minutes
		t.Errorf("recovery took %s", took)
	}
	if !strings.Contains(log.buf.String(), "damaged") {
		t.Error("not reported")
	}
}

// TestAStraySegmentTakesNoEvent puts files among the segments that hold none
// of a journal's records, whatever their names claim.
func TestAStraySegmentTakesNoEvent(t *testing.T) {
	for _, first := range []string{"ffffffffffffffff", "fffffffffffffffe", "4000000000000001", "3fffffffffffffff", "0000000000000000", "0000000000000063"} {
		for name, content := range map[string]string{"junk": "junk", "empty": "", "zeros": "\x00\x00\x00\x00"} {
			t.Run(first+" "+name, func(t *testing.T) {
				dir := t.TempDir()
				opt := journal.Options{FS: journal.DirFS(dir)}
				j := open(t, opt)
				c := cursor(t, j, "sink")
				appendN(t, j, 1, 3)
				c.Ack(1)
				must(0, j.Close())
				must(0, os.WriteFile(filepath.Join(dir, first+"-0000000000000001.seg"), []byte(content), 0o600))

				for start := 0; start < 2; start++ { // the second finds what the first wrote
					j = open(t, opt)
					c = cursor(t, j, "sink")
					appendN(t, j, 4+4*start, 4)
					if got, want := names(take(t, c, 6+4*start)), counting(2, 6+4*start); !slices.Equal(got, want) {
						t.Fatalf("start %d: delivered %q, want %q", start+1, got, want)
					}
					if lag := c.Lag(); lag > 10 {
						t.Errorf("start %d: %d events are said to wait", start+1, lag)
					}
					must(0, j.Close())
				}
			})
		}
	}
}

// TestMarksThatCannotBeSkipNoEvent puts marks in place of the saved ones that
// are well formed, and not those of this journal.
func TestMarksThatCannotBeSkipNoEvent(t *testing.T) {
	const events = 60
	for name, body := range map[string]string{
		"ahead of all":     `{"format":1,"cursors":{"sink":999999},"last":60}`,
		"all ahead":        `{"format":1,"cursors":{"sink":999999},"last":999999}`,
		"without an end":   `{"format":1,"cursors":{"sink":999999}}`,
		"beyond numbers":   `{"format":1,"cursors":{"sink":18446744073709551615},"last":18446744073709551615}`,
		"end too far":      `{"format":1,"cursors":{"sink":0},"last":18446744073709551615,"removed":18446744073709551615}`,
		"no cursors":       `{"format":1,"cursors":{},"last":60}`,
		"nothing":          `{}`,
		"an empty file":    "",
		"not even a file":  "-",
		"without checksum": "{}x",
	} {
		for _, segment := range []int64{4 << 10, 2 << 20} {
			for _, heads := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s, segments of %d, checkpoints %t", name, segment, heads), func(t *testing.T) {
					dir := t.TempDir()
					opt := journal.Options{FS: journal.DirFS(dir), SegmentSize: segment}
					j := open(t, opt)
					if heads { // else no checkpoint knows the cursor
						cursor(t, j, "sink")
					}
					appendN(t, j, 1, events)
					must(0, j.Close())
					file := filepath.Join(dir, "cursors.json")
					switch body {
					case "-":
						must(0, os.Remove(file))
					case "", "{}x":
						must(0, os.WriteFile(file, []byte(body), 0o600))
					default:
						head := binary.LittleEndian.AppendUint32(make([]byte, 8), uint32(len(body)))
						sum := crc32.Checksum(append(head, body...), crc32.MakeTable(crc32.Castagnoli))
						must(0, os.WriteFile(file, fmt.Appendf(nil, `{"crc32c":%d,"body":%s}`, sum, body), 0o600))
					}
					j, log := logged(t, opt)
					c := cursor(t, j, "sink")
					appendN(t, j, events+1, 1)
					if got := names(take(t, c, events+1)); !slices.Equal(got, counting(1, events+1)) {
						t.Errorf("delivered %q", got)
					}
					must(0, j.Close())
					if errs := log.errors(t); len(errs) == 0 && (!heads || body != "-") {
						t.Error("nothing was reported")
					}
				})
			}
		}
	}
}
