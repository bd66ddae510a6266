//go:build unix

package bridge

import (
	"context"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"event2mqtt/internal/broker/bundled"
	"event2mqtt/internal/ruletest"
	"event2mqtt/internal/testkit"

	"github.com/rs/zerolog"
)

// TestFilesThatAreNoFilesAreRefused: a pipe in the place of each file that the
// configuration can name is told with its key, and nothing waits for it.
func TestFilesThatAreNoFilesAreRefused(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for key, yaml := range map[string]string{
		"mqtt.password":         "mqtt: {url: 'mqtt://127.0.0.1:1', username: u, password: {file: PIPE}}",
		"mqtt.tls.ca":           "mqtt: {url: 'mqtts://127.0.0.1:1', tls: {ca: PIPE}}",
		"mqtt.tls.cert":         "mqtt: {url: 'mqtts://127.0.0.1:1', tls: {cert: PIPE, key: PIPE}}",
		"broker.tls":            "broker: {tls: {listen: '127.0.0.1:0', cert: PIPE, key: PIPE}}",
		"broker.users[0].hash":  "broker: {users: [{name: u, hash: {file: PIPE}}]}",
		"sources[0].auth.token": "sources: [{name: w, type: webhook, auth: {token: {file: PIPE}}}]",
	} {
		h := &rig{t: t, file: filepath.Join(t.TempDir(), "c.yaml")}
		h.write(strings.ReplaceAll(yaml, "PIPE", pipe))
		for _, what := range []string{pipe, "/dev/zero"} {
			h.write(strings.ReplaceAll(yaml, "PIPE", what))
			_, err := Load(h.file, nil, t.TempDir())
			if err == nil || !strings.Contains(err.Error(), key+": ") || !strings.Contains(err.Error(), what+" is a ") {
				t.Errorf("%s: %v", key, err)
			}
		}
	}
	h := &rig{t: t, file: filepath.Join(t.TempDir(), "tests.yaml")}
	h.write("tests: [{file: " + pipe + "}]")
	if _, err := ruletest.Load(h.file, nil); err == nil || !strings.Contains(err.Error(), "tests[0].file: "+pipe+" is a named pipe") {
		t.Errorf("a file of events: %v", err)
	}
	state := t.TempDir()
	if err := syscall.Mkfifo(string(bundled.AccountsFile(state)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load("", nil, state); err == nil || !strings.Contains(err.Error(), "accounts.json is a named pipe") {
		t.Errorf("the accounts: %v", err)
	}
}

// TestAReloadThatHangsDoesNotKeepTheProgramFromStopping, such as one that reads
// from a mount whose server is away.
func TestAReloadThatHangsDoesNotKeepTheProgramFromStopping(t *testing.T) {
	h := &rig{t: t, file: filepath.Join(t.TempDir(), "config.yaml"), http: testkit.FreeAddress(t), mqtt: testkit.FreeAddress(t), log: &testkit.Log{}}
	h.write(plain)
	state := t.TempDir()
	plan, err := Load(h.file, nil, state)
	if err != nil {
		t.Fatal(err)
	}
	hangs, back := make(chan struct{}), make(chan struct{})
	defer close(back)
	h.Bridge = New(Options{Plan: plan, StateDir: state, Log: zerolog.New(h.log), Load: func() (*Plan, error) {
		close(hangs)
		<-back
		return plan, nil
	}})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	answer := make(chan error, 1)
	go func() {
		_, err := h.Reload(context.Background())
		answer <- err
	}()
	<-hangs
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Fatal("it does not stop")
	}
	<-answer // whoever asked is not left waiting
}
