package e2e

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"event2mqtt/internal/event"
	"event2mqtt/internal/journal"
	"event2mqtt/internal/testkit"
	"event2mqtt/internal/wire"
	"event2mqtt/test/mqttest"
)

// The state folders in testdata/state were written by older versions, each with
// all that is kept in one. A new one is made when the format changes:
//
//	go test ./test/e2e -run TestWriteAStateFolder -write-state testdata/state/NAME.tar.gz -program BINARY
//
// What is in them is good for ten years, the longest that a session is kept.
var writeState = flag.String("write-state", "", "file for the state folder that TestWriteAStateFolder writes")

const (
	bundledYAML = "broker: {listen: %q, session_expiry: 87600h}\nsources:\n  - {name: default, type: webhook}\n  - {name: log, type: tail, paths: [%q], start: beginning, poll: 100ms}\n"
	remoteYAML  = "mqtt: {url: \"mqtt://%s\"}\nsources:\n  - {name: default, type: webhook}\n  - {name: log, type: tail, paths: [%q], start: beginning, poll: 100ms}\n"
)

var collector = mqttest.Options{ID: "collector", Keep: true, User: "ann", Password: "for tests only"}

func (p *program) reconfigure(yaml string) {
	p.t.Helper()
	testkit.OK(p.t, os.WriteFile(p.config, []byte("http: {listen: \""+p.http+"\"}\n"+yaml), 0o600))
}

func (p *program) post(bodies ...string) {
	p.t.Helper()
	for _, body := range bodies {
		if status := post(p.http, body); status != 202 {
			p.t.Fatalf("%.40s: status %d", body, status)
		}
	}
}

func posted(number int) string { return fmt.Sprintf(`{"event":"Posted","number":%d}`, number) }

// TestWriteAStateFolder writes a state folder with a refused event, a session
// with messages in its queue, a retained message, an account, tail positions,
// and events that are not delivered when the program is killed.
func TestWriteAStateFolder(t *testing.T) {
	if *writeState == "" {
		t.Skip("no -write-state")
	}
	log := filepath.Join(t.TempDir(), "app.log")
	testkit.OK(t, os.WriteFile(log, []byte("{\"event\":\"Line\",\"number\":1}\n"), 0o600))

	m := mosquitto(t, "max_packet_size 4000\n")
	m.start()
	p := configure(t, fmt.Sprintf(remoteYAML, m.addr, log))
	p.start()
	p.post(`{"event":"Before"}`, `{"event":"Bad","p":"`+strings.Repeat("x", 6000)+`"}`, `{"event":"After"}`)
	testkit.Eventually(t, "one is refused and the others are delivered", func() bool {
		files, _ := filepath.Glob(filepath.Join(p.state, "refused", "*"))
		return len(files) == 1 && strings.Contains(p.get("/readyz"), "waiting: 0 events")
	})
	p.stop()
	m.stop()

	addr := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	p.reconfigure(fmt.Sprintf(bundledYAML, addr, log))
	p.mustBridge(collector.Password+"\n", "user", "add", collector.User)
	p.start()
	c, err := mqttest.Dial(addr, collector)
	testkit.OK(t, err)
	for _, filter := range []string{"event2mqtt/event/#", "t/#"} {
		_, err = c.Subscribe(filter, 1)
		testkit.OK(t, err)
	}
	testkit.OK(t, c.Disconnect())
	other := collector
	other.ID, other.Keep = "other", false
	c, err = mqttest.Dial(addr, other)
	testkit.OK(t, err)
	testkit.OK(t, c.Publish(wire.Publish{Topic: "t/kept", Retain: true, QoS: 1, Payload: []byte("kept")}))
	testkit.OK(t, c.Publish(wire.Publish{Topic: "t/queued", QoS: 1, Payload: []byte("queued")}))
	testkit.OK(t, c.Disconnect())
	p.post(posted(1), posted(2), posted(3))
	testkit.Eventually(t, "all is delivered", func() bool { return strings.Contains(p.get("/readyz"), "waiting: 0 events") })
	time.Sleep(time.Second) // the retained message is on disk
	p.kill()

	p.reconfigure(fmt.Sprintf(remoteYAML, m.addr, log))
	p.start()
	p.post(posted(4), posted(5), posted(6))
	p.kill()
	testkit.OK(t, pack(p.state, *writeState))
}

// TestStateFoldersOfOlderVersionsStart: nothing that was accepted, kept or
// subscribed to is lost by a new version.
func TestStateFoldersOfOlderVersionsStart(t *testing.T) {
	files, err := filepath.Glob("testdata/state/*.tar.gz")
	testkit.OK(t, err)
	if len(files) < 2 {
		t.Fatalf("only %q", files)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".tar.gz"), func(t *testing.T) {
			t.Parallel()
			addr := fmt.Sprintf("127.0.0.1:%d", freePort(t))
			p := configure(t, fmt.Sprintf(bundledYAML, addr, filepath.Join(t.TempDir(), "app.log")))
			testkit.OK(t, unpack(file, p.state))
			checkJournal(t, file)
			p.start()
			checkSession(t, addr)
			if out, err := p.refused(); err != nil || !strings.Contains(out, "Bad") {
				t.Errorf("refused: %s %v", out, err)
			}
			// And what is written from now on is read again, too.
			p.kill()
			p.start()
			p.post(posted(7))
			c, present := resume(t, addr)
			defer c.Close()
			for got := ""; !strings.Contains(got, `"number":7`); { // what it acknowledged last may come twice
				m, err := c.Next()
				if got = string(m.Payload); err != nil || !present {
					t.Fatalf("after one more start: %s %v, session present %v", got, err, present)
				}
			}
			if strings.Contains(p.log.String(), "damaged") {
				t.Error("the log tells of damage")
			}
			if text, err := os.ReadFile(filepath.Join(p.state, "format")); *otherProgram == "" && (err != nil || !strings.Contains(string(text), `"min_reader":1`)) {
				t.Errorf("the format is noted as %s %v", text, err)
			}
		})
	}
}

// checkJournal looks at a copy for what no client sees.
func checkJournal(t *testing.T, file string) {
	t.Helper()
	dir := t.TempDir()
	testkit.OK(t, unpack(file, dir))
	j, err := journal.Open(journal.Options{FS: journal.DirFS(filepath.Join(dir, "journal"))})
	testkit.OK(t, err)
	defer j.Close()
	if len(j.Positions("log")) == 0 {
		t.Error("the tail's positions are gone")
	}
	marks := j.Marks()
	if len(marks) != 1 || marks[0].Name != "mqtt" || marks[0].Lag < 3 {
		t.Errorf("the marks are %+v", marks)
	}
}

func resume(t *testing.T, addr string) (c *mqttest.Client, present bool) {
	t.Helper()
	c, present, code, err := mqttest.Connect(addr, collector)
	if err != nil || code != 0 {
		t.Fatalf("%v, code %v", err, code)
	}
	_ = c.SetDeadline(time.Now().Add(2 * mqttest.Patience))
	return c, present
}

// checkSession looks at what the broker kept, and what the journal delivers.
func checkSession(t *testing.T, addr string) {
	t.Helper()
	c, present := resume(t, addr)
	defer c.Close()
	if !present {
		t.Error("the session is gone")
	}
	number := 1
	left := map[string]bool{"t/queued": true, "t/kept": true}
	for number <= 6 || len(left) > 0 {
		got, err := c.Next()
		if err != nil {
			t.Fatalf("after number %d, and with %v to come: %v", number-1, slices.Collect(maps.Keys(left)), err)
		}
		delete(left, got.Topic)
		if strings.Contains(string(got.Payload), fmt.Sprintf(`"number":%d`, number)) && strings.HasSuffix(got.Topic, "Posted") {
			number++
		}
	}
	testkit.OK(t, c.Disconnect())

	o := collector
	o.ID, o.Keep = "other", false
	c, err := mqttest.Dial(addr, o)
	testkit.OK(t, err)
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(mqttest.Patience))
	_, err = c.Subscribe("t/+", 1)
	testkit.OK(t, err)
	if got, err := c.Next(); err != nil || got.Topic != "t/kept" || !got.Retain || string(got.Payload) != "kept" {
		t.Errorf("retained is %v %v", got, err)
	}
}

// TestAFolderOfAFutureFormatIsRefusedAndNotChanged: the one line says what to
// install, or at least that something is to be.
func TestAFolderOfAFutureFormatIsRefusedAndNotChanged(t *testing.T) {
	file := func(name string) func(string) error {
		return func(state string) error {
			return os.WriteFile(filepath.Join(state, name), []byte(`{"format":2,"otherwise":true}`), 0o600)
		}
	}
	for name, c := range map[string]struct {
		says string
		make func(state string) error
	}{
		"by what brokers retain": {"mqtt.retained.json has format 2", file("mqtt.retained.json")},
		"by its accounts":        {"accounts.json has format 2", file("accounts.json")},
		"by its logins":          {"logins.json has format 2", file("logins.json")},
		"by its format": {"event2mqtt 98.7.6", func(state string) error {
			return os.WriteFile(filepath.Join(state, "format"), []byte(`{"format":99,"min_reader":99,"written_by":"98.7.6"}`), 0o600)
		}},
		"by a record of the broker": {"a newer event2mqtt", func(state string) error {
			j, err := journal.Open(journal.Options{FS: journal.DirFS(filepath.Join(state, "broker"))})
			if err == nil {
				_, err = j.Append(t.Context(), event.Event{Name: "will", Payload: []byte("of the future")})
				err = errors.Join(err, j.Close())
			}
			return err
		}},
	} {
		t.Run(name, func(t *testing.T) {
			p := configure(t, fmt.Sprintf("broker: {listen: \"127.0.0.1:%d\"}\n", freePort(t)))
			testkit.OK(t, unpack("testdata/state/format-1.tar.gz", p.state))
			testkit.OK(t, c.make(p.state))
			before := contents(t, p.state)
			out, err := exec.Command(binary, "--config", p.config, "--state-dir", p.state).CombinedOutput()
			if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 1 {
				t.Fatalf("it ended with %v", err)
			}
			if text := strings.TrimSpace(string(out)); strings.Contains(text, "\n") || !strings.Contains(text, c.says) || !strings.Contains(text, "--state-dir") {
				t.Errorf("it said %s", text)
			}
			after := contents(t, p.state)
			if name != "by its format" { // whoever looks at records keeps others out meanwhile
				after["lock"] = before["lock"]
			}
			if !maps.Equal(before, after) {
				t.Errorf("the files were %q and are %q", slices.Sorted(maps.Keys(before)), slices.Sorted(maps.Keys(after)))
			}
		})
	}
}

// contents reads all files of a folder.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	testkit.OK(t, walk(dir, func(name string, text []byte) error {
		out[name] = string(text)
		return nil
	}))
	return out
}

func walk(dir string, each func(name string, text []byte) error) error {
	return fs.WalkDir(os.DirFS(dir), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		return each(name, text)
	})
}

// pack writes all files of a folder into an archive.
func pack(dir, file string) error {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	w := tar.NewWriter(z)
	err := walk(dir, func(name string, text []byte) error {
		err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(text))})
		if err == nil {
			_, err = w.Write(text)
		}
		return err
	})
	if err = errors.Join(err, w.Close(), z.Close()); err != nil {
		return err
	}
	return os.WriteFile(file, out.Bytes(), 0o600)
}

func unpack(file, dir string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return err
	}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		text, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		path := filepath.Join(dir, filepath.FromSlash(h.Name))
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(path, text, 0o600); err != nil {
			return err
		}
	}
}
