package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	_ "embed"

	"event2mqtt/internal/testkit"
)

// This file runs the real OctoPrint, with the virtual printer that it brings.

//go:embed testdata/octoprint/eventlog.py
var eventLog string

// octoPrint is an OctoPrint in a folder of its own.
type octoPrint struct {
	t       *testing.T
	version string
	program string
	dir     string
	address string
	cmd     *exec.Cmd
	out     testkit.Log

	events []logged // what was read of its own event log
	read   int64    // bytes of it
}

// logged is an event as OctoPrint logged it itself.
type logged struct {
	Time    float64 // seconds since 1970
	Event   string
	Payload json.RawMessage
}

// personsKey is the API key of the user admin, with which the tests do what people do
// at OctoPrint's page. The bridge gets one of its own.
const personsKey = "ABCDEF0123456789ABCDEF0123456789"

// startup is how long OctoPrint may take to start, on a busy machine.
const startup = 5 * time.Minute

// prepareOctoPrint sets an OctoPrint up as its wizard does: a user, a printer,
// and nothing that asks servers elsewhere.
func prepareOctoPrint(t *testing.T, version string) *octoPrint {
	t.Helper()
	cache, err := os.UserCacheDir()
	testkit.OK(t, err)
	venv := filepath.Join(cache, "event2mqtt-e2e", "octoprint-"+version)
	if _, err := os.Stat(filepath.Join(venv, "complete")); err != nil {
		absent(t, "OctoPrint %s is not installed; run scripts/install-octoprint", version)
	}
	o := &octoPrint{t: t, version: version, program: filepath.Join(venv, "bin", "octoprint"), dir: t.TempDir(), address: testkit.FreeAddress(t)}
	_, port, _ := strings.Cut(o.address, ":")
	testkit.OK(t, os.Mkdir(filepath.Join(o.dir, "plugins"), 0o700))
	testkit.Write(t, filepath.Join(o.dir, "plugins", "eventlog.py"), eventLog)
	testkit.Write(t, filepath.Join(o.dir, "users.yaml"), `_version: 2
admin:
  active: true
  apikey: `+personsKey+`
  groups: [admins]
  password: no login
  permissions: []
  settings: {}
`)
	testkit.Write(t, filepath.Join(o.dir, "config.yaml"), `accessControl: {autologinLocal: false, enabled: true}
appearance: {name: Test printer}
plugins:
  _disabled: [announcements, discovery, errortracking, firmware_check, health_check, pluginmanager, softwareupdate, tracking]
  virtual_printer: {enabled: true}
serial: {autoconnect: false, port: VIRTUAL}
server:
  firstRun: false
  host: 127.0.0.1
  port: `+port+`
  onlineCheck: {enabled: false}
  pluginBlacklist: {enabled: false}
  pluginBlocklist: {enabled: false}
  seenWizards: {backup: null, classicwebcam: 1, corewizard: 4, tracking: null}
`)
	t.Cleanup(func() {
		if o.cmd != nil {
			o.stop(syscall.SIGKILL)
		}
		if t.Failed() {
			t.Logf("OctoPrint's log:\n%s", lastLines(o.out.String(), 40))
		}
	})
	return o
}

// start runs OctoPrint and waits until it answers.
func (o *octoPrint) start() {
	o.t.Helper()
	from := len(o.all())
	o.cmd = exec.Command(o.program, "serve", "--iknowwhatimdoing", "--basedir", o.dir)
	o.cmd.Env = append(os.Environ(), "EVENT_LOG="+o.logFile())
	o.cmd.Stdout, o.cmd.Stderr = &o.out, &o.out
	o.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // it starts processes of its own
	testkit.OK(o.t, o.cmd.Start())
	o.within(startup, "OctoPrint has started", func() bool {
		return o.count("Startup", from) > 0 && o.ask(http.MethodGet, "/api/version", nil, nil) == http.StatusOK
	})
}

// stop ends OctoPrint with a signal, and whatever it has started.
func (o *octoPrint) stop(how syscall.Signal) {
	group := -o.cmd.Process.Pid
	kill := func() { _ = syscall.Kill(group, syscall.SIGKILL) }
	_ = o.cmd.Process.Signal(how)
	if how == syscall.SIGKILL {
		kill()
	}
	late := time.AfterFunc(startup, kill)
	defer late.Stop()
	_ = o.cmd.Wait()
	kill()
	o.cmd = nil
}

func (o *octoPrint) logFile() string { return filepath.Join(o.dir, "events.jsonl") }

// all are the events that OctoPrint has logged so far.
func (o *octoPrint) all() []logged {
	o.t.Helper()
	f, err := os.Open(o.logFile())
	if err != nil {
		return o.events // none yet
	}
	defer f.Close()
	text, err := io.ReadAll(io.NewSectionReader(f, o.read, 1<<30))
	testkit.OK(o.t, err)
	for {
		line, rest, whole := bytes.Cut(text, []byte("\n"))
		if !whole {
			return o.events
		}
		var e logged
		testkit.OK(o.t, json.Unmarshal(line, &e))
		o.events = append(o.events, e)
		o.read += int64(len(line) + 1)
		text = rest
	}
}

// count is how often an event was logged, behind the first from.
func (o *octoPrint) count(name string, from int) (n int) {
	for _, e := range o.all()[from:] {
		if e.Event == name {
			n++
		}
	}
	return n
}

// await waits until an event is logged, behind the first from.
func (o *octoPrint) await(name string, from int) {
	o.t.Helper()
	testkit.Eventually(o.t, "OctoPrint logs "+name, func() bool { return o.count(name, from) > 0 })
}

// within waits for a condition longer than others do.
func (o *octoPrint) within(most time.Duration, what string, holds func() bool) {
	o.t.Helper()
	for end := time.Now().Add(most); !holds(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			o.t.Fatalf("waited too long until %s", what)
		}
	}
}

// ask sends a request as the user admin and returns the status, 0 for no
// answer; into gets the answer if it is not nil.
func (o *octoPrint) ask(method, path string, body io.Reader, into any) int {
	r, err := http.NewRequest(method, "http://"+o.address+path, body)
	if err != nil {
		return 0
	}
	r.Header.Set("X-Api-Key", personsKey)
	r.Header.Set("Content-Type", "application/json")
	if m, ok := body.(*upload); ok {
		r.Header.Set("Content-Type", m.kind)
		r.ContentLength = int64(m.Len())
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return 0
	}
	if answer.StatusCode/100 == 4 {
		fmt.Fprintf(&o.out, "the answer to %s was %s\n", path, text)
	}
	if into != nil && answer.StatusCode/100 == 2 && json.Unmarshal(text, into) != nil {
		return 0
	}
	return answer.StatusCode
}

// do sends a command that must work.
func (o *octoPrint) do(path, body string) {
	o.t.Helper()
	if status := o.ask(http.MethodPost, path, strings.NewReader(body), nil); status/100 != 2 {
		o.t.Fatalf("OctoPrint answers %s %s with status %d", path, body, status)
	}
}

// upload is a form with a file.
type upload struct {
	bytes.Buffer
	kind string
}

// put uploads a file of G-code.
func (o *octoPrint) put(name, gcode string) {
	o.t.Helper()
	from := len(o.all())
	body := &upload{}
	form := multipart.NewWriter(body)
	part, err := form.CreateFormFile("file", name)
	testkit.OK(o.t, err)
	_, err = part.Write([]byte(gcode))
	testkit.OK(o.t, err)
	testkit.OK(o.t, form.Close())
	body.kind = form.FormDataContentType()
	if status := o.ask(http.MethodPost, "/api/files/local", body, nil); status/100 != 2 {
		o.t.Fatalf("OctoPrint answers an upload with status %d", status)
	}
	o.await("Upload", from)
}

// connectPrinter connects the virtual printer.
func (o *octoPrint) connectPrinter() {
	o.t.Helper()
	from := len(o.all())
	o.do("/api/connection", `{"command":"connect","port":"VIRTUAL","baudrate":115200}`)
	o.await("Connected", from)
}

// ready waits until the printer takes a print.
func (o *octoPrint) ready() {
	o.t.Helper()
	testkit.Eventually(o.t, "the printer is ready", func() bool {
		var printer struct {
			State struct{ Flags struct{ Ready bool } }
		}
		return o.ask(http.MethodGet, "/api/printer", nil, &printer) == http.StatusOK && printer.State.Flags.Ready
	})
}

func (o *octoPrint) disconnectPrinter() {
	o.t.Helper()
	from := len(o.all())
	o.do("/api/connection", `{"command":"disconnect"}`)
	o.await("Disconnected", from)
}

// print starts a print as soon as one can be, and returns how many events were
// logged before.
func (o *octoPrint) print(file string) (from int) {
	o.t.Helper()
	o.ready()
	from = len(o.all())
	o.do("/api/files/local/"+url.PathEscape(file), `{"command":"select","print":true}`)
	o.await("PrintStarted", from)
	return from
}

// Commands that change a print.
const (
	resumeJob = `{"command":"pause","action":"resume"}`
	cancelJob = `{"command":"cancel"}`
)

// job changes a print and waits until OctoPrint has done it.
func (o *octoPrint) job(command, until string) {
	o.t.Helper()
	from := len(o.all())
	o.do("/api/job", command)
	o.await(until, from)
}

// allow says yes to whoever asks for a key, as a person does in the dialog that
// pops up.
func (o *octoPrint) allow(ctx context.Context) error {
	for ; ctx.Err() == nil; time.Sleep(100 * time.Millisecond) {
		var keys struct{ Pending map[string]json.RawMessage }
		o.ask(http.MethodGet, "/api/plugin/appkeys", nil, &keys)
		for token := range keys.Pending {
			if status := o.ask(http.MethodPost, "/plugin/appkeys/decision/"+token, strings.NewReader(`{"decision":true}`), nil); status != http.StatusNoContent {
				return fmt.Errorf("OctoPrint answers the decision with status %d", status)
			}
			return nil
		}
	}
	return ctx.Err()
}

// connect gets a key for the program, to which somebody says yes at OctoPrint,
// and adds the source to the program's configuration.
func (o *octoPrint) connect(p *program) {
	o.t.Helper()
	ctx, cancel := context.WithTimeout(o.t.Context(), testkit.Patience)
	defer cancel()
	said := make(chan error, 1)
	go func() { said <- o.allow(ctx) }()
	o.requestKey(ctx, p)
	testkit.OK(o.t, <-said)
}

func (o *octoPrint) requestKey(ctx context.Context, p *program) {
	o.t.Helper()
	said, err := exec.CommandContext(ctx, binary, "connect", "octoprint", "http://"+o.address, "--name", "octoprint", "--config", p.config).CombinedOutput()
	if err != nil {
		o.t.Fatalf("connect octoprint: %v; it says:\n%s", err, said)
	}
}
