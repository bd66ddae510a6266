package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"event2mqtt/internal/testkit"
	"event2mqtt/internal/wire"
	"event2mqtt/test/mqttest"
)

// This file is the commands that ask the running program, against the real one.

// asked is a program that runs with the bundled broker, and is asked by commands.
type asked struct {
	*program
	broker string
}

const askedRules = `rules:
  - {name: web clients, match: Client*, drop: true}
  - {match: Z, min_interval: 1h}
  - {match: Edit, add: {room: cellar}}
`

func startAsked(t *testing.T, yaml string) *asked {
	t.Helper()
	broker := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	p := &asked{configure(t, fmt.Sprintf("broker: {listen: %q}\n%s", broker, yaml)), broker}
	p.start()
	return p
}

// do runs a command and checks its exit status.
func (p *asked) do(status int, args ...string) (stdout, stderr string) {
	p.t.Helper()
	if args[0] == "watch" && status == 0 {
		args = append(slices.Clone(args), "--duration", "60s")
	}
	got, stdout, stderr := runOnce(p.t, append(args, "--state-dir", p.state)...)
	if got != status {
		p.t.Errorf("%v: exit status %d, not %d\n%s%s", args, got, status, stdout, stderr)
	}
	return stdout, stderr
}

// tells runs a command that succeeds, and checks what it prints.
func (p *asked) tells(want string, args ...string) string {
	p.t.Helper()
	stdout, _ := p.do(0, args...)
	if !strings.Contains(stdout, want) {
		p.t.Errorf("%v: no %q in\n%s", args, want, stdout)
	}
	return stdout
}

// TestCommandsDoWhatTheySay, with the running program.
func TestCommandsDoWhatTheySay(t *testing.T) {
	p := startAsked(t, askedRules)
	c, err := mqttest.Dial(p.broker, mqttest.Options{Version: wire.V5, ID: "kitchen"})
	testkit.OK(t, err)
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(mqttest.Patience))
	if _, err := c.Subscribe("a/#", 1); err != nil {
		t.Fatal(err)
	}

	// Events, through the rules.
	p.tells("stored, and is delivered in its turn (event 1, id ", "send", "PrintDone", "file=a b.gcode", "time=4711")
	p.tells("Door: delivered", "send", "Door", `{"open": true}`, "--wait", "30s")
	p.tells(`dropped by rule 1 "web clients" (line 4)`, "send", "ClientOpened")
	p.do(1, "send", "ClientOpened", "--wait", "1s")
	p.tells(`"room":"cellar"`, "send", "Edit", "--dry-run")
	p.tells("nothing would be published", "send", "ClientOpened", "--dry-run")
	p.tells("no rule is about it", "send", "Other", "--dry-run")
	p.do(0, "send", "Z", "--source", "default") // the first of an hour
	p.tells(`"state": "held"`, "send", "Z", "--json", "--source", "default")
	var sent struct {
		Fate struct{ State string }
		Seq  *int
	}
	stdout, _ := p.do(0, "send", "Numbers", "n=1.50", "t=true", "text=007", "list=[1]", "--json", "--wait", "30s")
	if err := json.Unmarshal([]byte(stdout), &sent); err != nil || sent.Fate.State != "delivered" || sent.Seq == nil {
		t.Errorf("%v: %s", err, stdout)
	}
	line := p.tells(`"Numbers"`, "watch", "Numbers", "--since", "all", "-n", "1", "--json")
	if !strings.Contains(line, `"n":1.50,"t":true,"text":"007","list":[1]`) {
		t.Error(line)
	}

	// Messages, as they are.
	p.tells("delivered", "publish", "a/lamp", "ON", "--retain", "--wait", "30s")
	if m, err := c.Next(); err != nil || m.Topic != "a/lamp" || string(m.Payload) != "ON" {
		t.Errorf("%v %v", m, err)
	}
	stdin := exec.Command(binary, "publish", "b/picture", "-", "--state-dir", p.state)
	stdin.Stdin = strings.NewReader("\xff\x00\n")
	if out, err := stdin.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	p.tells("\xff\x00", "watch", "b/#", "--since", "all", "-n", "1", "--payload")

	// Topics and clients.
	p.tells("a/lamp", "topics")
	p.tells("  lamp (retained) = ON", "topics", "a", "--tree", "--retained")
	if all := p.tells("a/lamp", "topics", "a/+"); strings.Contains(all, "bridge") {
		t.Error(all)
	}
	p.tells("retains nothing any more", "topics", "delete", "a/lamp")
	if _, says := p.do(1, "topics", "delete", "a/lamp"); !strings.Contains(says, "nothing is retained") {
		t.Error(says)
	}
	p.tells("kitchen", "clients")
	p.tells(`"subscriptions": [`, "clients", "--json")
	p.tells("is ended", "clients", "kick", "kitchen")
	testkit.Eventually(t, "the client is gone", func() bool {
		status, _, _ := runOnce(t, "clients", "kick", "kitchen", "--state-dir", p.state)
		return status == 1
	})

	// History, once more.
	p.tells("1 event, 50 a second, about 1 s; nothing was sent", "replay", "--event", "Door", "--dry-run")
	if _, says := p.do(2, "replay", "--event", "Door"); !strings.Contains(says, "--yes") {
		t.Error(says)
	}
	p.tells("the replay is over", "replay", "--event", "Door", "--since", "1h", "--yes")
	p.tells(`"_replayed_from":`, "watch", "Door", "--since", "2", "-n", "1", "--payload")
	p.tells("no stored event fits", "replay", "--event", "None", "--yes")
	p.tells(`"count": 1`, "replay", "--seq", "1", "--seq", "1", "--yes", "--detach", "--json")
	testkit.Eventually(t, "it is over", func() bool { return strings.Contains(p.tells("", "replay", "status"), "no replay") })
	p.do(1, "replay", "stop")

	// How all is.
	p.tells("Accepting events. Bundled broker "+p.broker, "status")
	p.tells(`"taking": {`, "status", "--json")
	again := begin(t, binary, "status", "--watch", "--state-dir", p.state).read()
	again.until("Accepting events.")
	again.until("Accepting events.")
	if status := again.interrupt(); status != 0 {
		t.Errorf("exit status %d: %s", status, again.says.String())
	}
	testkit.OK(t, os.WriteFile(p.config, []byte("brokr: 1\n"), 0o600))
	p.do(1, "reload")
	stdout, says := p.do(1, "status")
	if !strings.Contains(stdout, "A newer one was rejected") || !strings.Contains(stdout, p.config+":1:1: brokr") || !strings.Contains(says, "configuration is rejected") {
		t.Errorf("%s%s", stdout, says)
	}
}

// TestStatusSaysThatTheBrokerIsAway, why, and that nothing is lost.
func TestStatusSaysThatTheBrokerIsAway(t *testing.T) {
	p := &asked{configure(t, fmt.Sprintf("mqtt: {url: \"mqtt://127.0.0.1:%d\"}\n", freePort(t))), ""}
	p.start()
	p.do(0, "send", "Door")
	testkit.Eventually(t, "it says so", func() bool {
		status, out, _ := runOnce(t, "status", "--state-dir", p.state)
		return status == 1 && strings.Contains(out, "away since") && strings.Contains(out, "(mqtt.url). 1 event waiting, the oldest for ") && strings.Contains(out, "Nothing is lost.")
	})
	if _, says := p.do(1, "publish", "a", "b", "--wait", "100ms"); !strings.Contains(says, "it is stored, and is delivered in its turn") {
		t.Error(says)
	}
	if _, says := p.do(1, "clients"); !strings.Contains(says, "only the bundled one tells this") {
		t.Error(says)
	}
	p.do(0, "healthcheck") // a restart would not help
}

// TestExitStatusesTellWhatWentWrong.
func TestExitStatusesTellWhatWentWrong(t *testing.T) {
	p := startAsked(t, "")
	p.do(0, "status")
	url := "http://" + p.http
	wrong := filepath.Join(t.TempDir(), "token")
	testkit.OK(t, os.WriteFile(wrong, []byte("wrong\n"), 0o600))
	problem := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, `{"status":404,"detail":"nothing is served here"}`)
	}
	older := http.NewServeMux()
	older.HandleFunc("/", problem)
	older.HandleFunc("/healthz", func(http.ResponseWriter, *http.Request) {})
	old, other := httptest.NewServer(older), httptest.NewServer(http.NotFoundHandler())
	defer old.Close()
	defer other.Close()
	nobody := fmt.Sprintf("http://127.0.0.1:%d", freePort(t))
	// A folder whose note has another token is refused, and one whose program was
	// killed is of none that runs.
	refuses, killed := t.TempDir(), t.TempDir()
	for dir, content := range map[string]string{refuses: fmt.Sprintf(`{"url":%q,"token":"wrong"}`, url), killed: fmt.Sprintf(`{"url":%q,"token":"x"}`, nobody)} {
		testkit.OK(t, os.WriteFile(filepath.Join(dir, "control.json"), []byte(content), 0o600))
	}
	local := map[string]bool{"reload": true, "refused": true} // these know no --url
	for _, command := range [][]string{{"reload"}, {"refused"}, {"refused", "send", "--all"}, {"refused", "drop", "ID"}, {"status"}, {"watch"}, {"send", "E"}, {"publish", "a", "b"}, {"replay", "--since", "1h"}, {"clients"}, {"topics"}, {"clients", "kick", "x"}, {"replay", "stop"}} {
		for _, c := range []struct {
			status int
			says   string
			args   []string
		}{
			{3, "no event2mqtt runs with th", []string{"--state-dir", t.TempDir()}},
			{3, "", []string{"--state-dir", killed}},
			{4, "the token is not right", []string{"--state-dir", refuses}},
			{3, "nothing answers at " + nobody, []string{"--url", nobody}},
			{4, "the token is not right; it is http.token of the configuration; look into " + wrong, []string{"--url", url, "--token-file", wrong}},
			{1, "older version", []string{"--url", old.URL}},
			{1, "not event2mqtt", []string{"--url", other.URL}},
			{2, "is not an address", []string{"--url", "ftp://x"}},
			{2, "--token-file", []string{"--url", url, "--token-file", "/nowhere"}},
			{2, "unknown flag", []string{"--nope"}},
		} {
			if c.status == 4 && (command[0] == "watch" && c.args[0] != "--url" || command[0] != "status" && command[0] != "watch" && command[0] != "reload") {
				continue // five wrong ones lock out
			}
			if local[command[0]] && c.args[0] == "--url" {
				continue
			}
			status, _, says := runOnce(t, append(slices.Clone(command), c.args...)...)
			if status != c.status || !strings.Contains(says, c.says) || strings.Count(says, "\n") > 2 {
				t.Errorf("%v %v: exit status %d, not %d: %s", command, c.args, status, c.status, says)
			}
		}
	}
	for _, args := range [][]string{
		{"send"}, {"send", "E", "x"}, {"send", "E", "{"}, {"send", "E", "a=1", "a=2"}, {"send", "E", "--wait", "2h"}, {"send", "E", "--source", "nobody"}, {"publish", "a"}, {"publish", "a/#", "x"},
		{"refused", "send"}, {"refused", "x"}, {"reload", "x"}, {"reload", "--nope"}, {"check", "x"}, {"check", "--nope"}, {"nonsense"}, {"--nope"}, {"user", "add"}, {"device", "add"}, {"connect", "octoprint"},
		{"import", "octoprint"}, {"import", "x"}, {"test"}, {"schema", "x"}, {"version", "x"}, {"token", "a", "b"}, {"topics", "--nope"},
		{"publish", "a", "x", "--qos", "3"}, {"replay"}, {"replay", "--since", "soon"}, {"replay", "--seq", "1", "--event", "x"}, {"replay", "--since", "1h", "--rate", "0"}, {"watch", "a/#/b"},
		{"watch", "a/#", "Print*"}, {"watch", "--state", "gone"}, {"watch", "-n", "0"}, {"watch", "--since", "soon"}, {"watch", "--json", "--payload"}, {"topics", "a", "b"}, {"clients", "kick"}, {"status", "x"},
	} {
		p.do(2, args...)
	}
	for _, args := range [][]string{{"healthcheck", "x"}, {"healthcheck", "--nope"}} {
		p.do(1, args...) // Docker reserves 2
	}
	bad := filepath.Join(t.TempDir(), "bad.yaml")
	testkit.OK(t, os.WriteFile(bad, []byte("nonsense: 1\n"), 0o600))
	p.do(1, "check", "--config", bad)
	p.do(1, "run", "--config", bad)
	// A killed program leaves its note behind.
	p.kill()
	if _, says := p.do(3, "status"); !strings.Contains(says, "does not run any more") {
		t.Error(says)
	}
}

// TestCommandsFindTheProgramWithoutAStateFolder, as in a container, without a token.
func TestCommandsFindTheProgramWithoutAStateFolder(t *testing.T) {
	p := startAsked(t, "")
	ask := func(listen string, args ...string) (int, string) {
		cmd := exec.Command(binary, args...)
		cmd.Env = []string{"E2M_HTTP_LISTEN=" + listen} // no HOME
		out, _ := cmd.CombinedOutput()
		return cmd.ProcessState.ExitCode(), string(out)
	}
	_, port, _ := strings.Cut(p.http, ":")
	if status, text := ask("0.0.0.0:"+port, "status"); status != 0 || !strings.Contains(text, "using the event2mqtt at http://localhost:"+port) || !strings.Contains(text, "Accepting events.") {
		t.Errorf("exit status %d: %s", status, text)
	}
	if status, text := ask(fmt.Sprintf("127.0.0.1:%d", freePort(t)), "status"); status != 3 || !strings.Contains(text, "no event2mqtt runs here") || !strings.Contains(text, "--url") {
		t.Errorf("exit status %d: %s", status, text)
	}
}

// TestHealthcheckIsForDocker: silent, 0 or 1, and without a state folder.
func TestHealthcheckIsForDocker(t *testing.T) {
	p := startAsked(t, "")
	check := func(env []string, args ...string) (int, string) {
		cmd := exec.Command(binary, append([]string{"healthcheck"}, args...)...)
		cmd.Env = env // no HOME, as in a container from scratch
		out, _ := cmd.CombinedOutput()
		return cmd.ProcessState.ExitCode(), string(out)
	}
	_, port, _ := strings.Cut(p.http, ":")
	for _, c := range []struct{ env, args []string }{
		{[]string{"E2M_HTTP_LISTEN=0.0.0.0:" + port}, nil}, {nil, []string{"--url", p.http}}, {nil, []string{"--state-dir", p.state}}, {nil, []string{"--config", p.config}},
		{[]string{"E2M_HTTP_LISTEN=" + p.http, "E2M_NO_SUCH_OPTION=1"}, nil},
	} {
		if status, text := check(c.env, c.args...); status != 0 || text != "" {
			t.Errorf("%v: exit status %d: %s", c, status, text)
		}
	}
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	testkit.OK(t, err)
	defer silent.Close()
	for _, args := range [][]string{{"--state-dir", t.TempDir()}, {"--url", "127.0.0.1:1"}, {"--url", silent.Addr().String()}, {"--nope"}} {
		began := time.Now()
		if status, text := check(nil, args...); status != 1 || strings.Count(text, "\n") != 1 {
			t.Errorf("%v: exit status %d: %s", args, status, text)
		}
		if took := time.Since(began); took > time.Minute {
			t.Errorf("%v takes %s", args, took)
		}
	}
}

// TestATokenIsMadeAndUsed by programs elsewhere.
func TestATokenIsMadeAndUsed(t *testing.T) {
	p := startAsked(t, "")
	dir := t.TempDir()
	path := filepath.Join(dir, "my token")
	made := p.tells("its owner alone can read", "token", path)
	again := p.tells("it is kept", "token", path)
	info, err := os.Stat(path)
	testkit.OK(t, err)
	secret, err := os.ReadFile(path)
	testkit.OK(t, err)
	if token := strings.TrimSpace(string(secret)); info.Mode().Perm() != 0o600 || len(token) < 20 || strings.Contains(made+again, token) {
		t.Errorf("%v, %d bytes\n%s", info.Mode(), len(secret), made)
	}
	_, config, _ := strings.Cut(made, "\n\n  http: ")
	config, _, _ = strings.Cut(config, "\n")
	old, err := os.ReadFile(p.config)
	testkit.OK(t, err)
	line := fmt.Sprintf("http: {listen: %q}", p.http)
	inner := strings.TrimSuffix(strings.TrimPrefix(config, "{"), "}")
	testkit.OK(t, os.WriteFile(p.config, []byte(strings.Replace(string(old), line, fmt.Sprintf("http: {listen: %q, %s}", p.http, inner), 1)), 0o600))
	p.do(0, "reload")
	if status, _, says := runOnce(t, "status", "--url", p.http, "--token-file", path); status != 0 {
		t.Errorf("exit status %d: %s", status, says)
	}
	p.tells("has an http.token", "token", path)
	variable := exec.Command(binary, "topics", "--url", p.http)
	variable.Env = append(os.Environ(), "E2M_HTTP_TOKEN=wrong")
	if out, _ := variable.CombinedOutput(); variable.ProcessState.ExitCode() != 4 || !strings.Contains(string(out), "$E2M_HTTP_TOKEN") {
		t.Errorf("exit status %d: %s", variable.ProcessState.ExitCode(), out)
	}
	// Left out, it is in the state folder; and nothing is replaced.
	p.tells(filepath.Join(p.state, "http_token"), "token")
	open := filepath.Join(dir, "open")
	testkit.OK(t, os.WriteFile(open, []byte("a-token-that-others-can-read\n"), 0o644)) //nolint:gosec // that is what is tested
	if _, says := p.do(1, "token", open); !strings.Contains(says, "chmod 600") {
		t.Error(says)
	}
	p.do(1, "token", p.config)
	p.do(1, "token", filepath.Join(dir, "none", "token"))
}

// TestNamesAreCompleted from what the program has.
func TestNamesAreCompleted(t *testing.T) {
	p := startAsked(t, "")
	p.do(0, "send", "PrintDone", "--wait", "30s")
	p.do(0, "publish", "lamp/set", "ON", "--retain", "--wait", "30s")
	c, err := mqttest.Dial(p.broker, mqttest.Options{Version: wire.V5, ID: "kitchen"})
	testkit.OK(t, err)
	defer c.Close()
	for _, x := range []struct {
		want string
		args []string
	}{
		{"PrintDone\n", []string{"watch", "Pr"}}, {"lamp/set\n", []string{"watch", "la"}}, {"PrintDone\n", []string{"send", ""}}, {"default\n", []string{"send", "E", "--source", ""}},
		{"default\n", []string{"watch", "--source", "de"}}, {"PrintDone\n", []string{"replay", "--event", ""}}, {"dropped\n", []string{"watch", "--state", ""}}, {"lamp/set\n", []string{"publish", ""}},
		{"lamp/set\n", []string{"topics", "delete", ""}}, {"kitchen\n", []string{"clients", "kick", ""}}, {"kick\t", []string{"clients", ""}}, {"watch\t", []string{"wa"}},
	} {
		status, out, _ := runOnce(t, append([]string{"__complete", "--state-dir", p.state}, x.args...)...)
		if status != 0 || !strings.Contains(out, x.want) || !strings.HasSuffix(out, ":4\n") {
			t.Errorf("%v: exit status %d: no %q in %s", x.args, status, x.want, out)
		}
	}
	p.kill() // and while nothing runs there is nothing, and no word
	if status, out, _ := runOnce(t, "__complete", "watch", "--state-dir", p.state, ""); status != 0 || out != ":4\n" {
		t.Errorf("exit status %d: %s", status, out)
	}
}

// TestNothingFromOutsideSteersTheTerminal, whichever command shows it.
func TestNothingFromOutsideSteersTheTerminal(t *testing.T) {
	const hostile = "x\x1b]0;owned\x07\u202e\u0085\u2066y\u009b2Jz"
	p := startAsked(t, "")
	name, _ := json.Marshal(hostile)
	if status := post(p.http, fmt.Sprintf(`{"event":%s,"k":%s}`, name, name)); status != http.StatusAccepted {
		t.Fatal(status)
	}
	c, err := mqttest.Dial(p.broker, mqttest.Options{Version: wire.V5, ID: "x\u202ey"})
	testkit.OK(t, err)
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(mqttest.Patience))
	if _, err := c.Subscribe("a/\u202e/#", 1); err != nil {
		t.Fatal(err)
	}
	p.do(0, "publish", "a/\u202ey", hostile, "--retain", "--wait", "30s")
	for _, args := range [][]string{
		{"watch", "--since", "all", "-n", "2"}, {"watch", "--since", "all", "-n", "2", "--json"}, {"topics"}, {"topics", "--tree"}, {"topics", "--json"}, {"clients"}, {"clients", "--json"}, {"status"}, {"status", "--json"},
		{"send", hostile}, {"send", hostile, "--dry-run"}, {"send", hostile, "--dry-run", "--json"}, {"publish", "b/\u202e", "x"}, {"clients", "kick", "x\u202ey"}, {"topics", "delete", "a/\u202ey"},
		{"topics", "delete", "a/\u202ey"}, {"watch", "--state", hostile}, {"send", "E", "--source", hostile}, {"clients", "kick", hostile},
	} {
		_, stdout, stderr := runOnce(t, append(slices.Clone(args), "--state-dir", p.state)...)
		for _, r := range stdout + stderr {
			if r != '\n' && r != '\t' && (unicode.IsControl(r) || unicode.In(r, unicode.Bidi_Control, unicode.Zl, unicode.Zp)) {
				t.Errorf("%q: %U in %q", args, r, stdout+stderr)
				break
			}
		}
		if stdout+stderr == "" {
			t.Errorf("%q says nothing", args)
		}
	}
}

// TestAReplayIsAskedForAtATerminal, and nothing is sent without a yes.
func TestAReplayIsAskedForAtATerminal(t *testing.T) {
	p := startAsked(t, "")
	p.do(0, "send", "Door", "--wait", "30s")
	script := need(t, "script")
	for answer, want := range map[string]string{"\n": "nothing was sent", "no\n": "nothing was sent", "y\n": "the replay is over"} {
		cmd := exec.Command(script, "-qec", binary+" replay --event Door --state-dir "+p.state, "/dev/null")
		cmd.Stdin = strings.NewReader(answer)
		out, err := cmd.CombinedOutput()
		if text := string(out); err != nil || !strings.Contains(text, " a second, about 1 s. Receivers will see them again. Send them? [y/N]") || !strings.Contains(text, want) {
			t.Errorf("%q: %v: %s", answer, err, text)
		}
	}
}

// TestColoursAreForTerminals that want them.
func TestColoursAreForTerminals(t *testing.T) {
	p := startAsked(t, "")
	p.do(0, "send", "Door", "--wait", "30s")
	script := need(t, "script")
	at := func(env string) string {
		cmd := exec.Command(script, "-qec", binary+" watch --since all -n 1 --state-dir "+p.state, "/dev/null")
		cmd.Env = append(os.Environ(), "TERM=xterm", env)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stdin = &out, nil
		testkit.OK(t, cmd.Run())
		return out.String()
	}
	if text := at("X=1"); !strings.Contains(text, "\x1b[32mdelivered") {
		t.Errorf("%q", text)
	}
	for _, env := range []string{"NO_COLOR=1", "TERM=dumb"} {
		if text := at(env); strings.Contains(text, "\x1b[") || !strings.Contains(text, "delivered") {
			t.Errorf("%s: %q", env, text)
		}
	}
	if text := p.tells("delivered", "watch", "--since", "all", "-n", "1"); strings.Contains(text, "\x1b") {
		t.Errorf("%q", text)
	}
}
