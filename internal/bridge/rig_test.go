package bridge

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"event2mqtt/internal/control"
	"event2mqtt/internal/testkit"
	"event2mqtt/internal/web"
)

// This file is what tests of the whole bridge begin with.

// rig is a bridge that runs, with its file.
type rig struct {
	*Bridge
	t          testing.TB
	file       string
	http, mqtt string // addresses
	log        *testkit.Log
}

// newRig runs a configuration, in which HTTP and MQTT stand for addresses.
// Components fail to start with what fault returns.
func newRig(t testing.TB, yaml string, fault ...func(component string) error) *rig {
	t.Helper()
	return newRigIn(t, yaml, t.TempDir(), fault...)
}

func newRigIn(t testing.TB, yaml, state string, fault ...func(component string) error) *rig {
	t.Helper()
	return newRigOf(t, BuiltIn(), yaml, state, fault...)
}

// newRigOf runs a configuration that may name these types.
func newRigOf(t testing.TB, types Types, yaml, state string, fault ...func(component string) error) *rig {
	t.Helper()
	return newRigWith(t, yaml, state, types, func(b *Bridge) {
		for _, f := range fault {
			b.fault = f
		}
	})
}

// newRigWith is newRigOf, and what change does to the bridge before it runs.
func newRigWith(t testing.TB, yaml, state string, types Types, change func(*Bridge)) *rig {
	t.Helper()
	h := &rig{t: t, file: filepath.Join(t.TempDir(), "config.yaml"), http: testkit.FreeAddress(t), mqtt: testkit.FreeAddress(t), log: &testkit.Log{}}
	h.write(yaml)
	load := func() (*Plan, error) { return types.Load(h.file, nil, state) }
	plan, err := load()
	if err != nil {
		t.Fatal(err)
	}
	h.Bridge = New(Options{Plan: plan, Load: load, StateDir: state, Log: zerolog.New(h.log)})
	change(h.Bridge)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("its log:\n%s", h.log.String())
		}
	})
	testkit.Eventually(t, "it is ready", func() bool { return h.post("hooks") != 0 })
	return h
}

func (h *rig) write(yaml string) {
	h.t.Helper()
	yaml = strings.NewReplacer("HTTP", h.http, "MQTT", h.mqtt).Replace(yaml)
	if err := os.WriteFile(h.file, []byte(yaml), 0o600); err != nil {
		h.t.Fatal(err)
	}
}

func (h *rig) reload(yaml string) control.Outcome {
	h.t.Helper()
	h.write(yaml)
	o, err := h.Reload(h.t.Context())
	if err != nil {
		h.t.Fatal(err)
	}
	return o
}

// post sends an event and returns the status, 0 if nobody answers.
func (h *rig) post(source string) int {
	r, err := http.Post("http://"+h.http+"/hooks/"+source, "application/json", strings.NewReader(`{"event":"X"}`))
	if err != nil {
		return 0
	}
	_ = r.Body.Close()
	return r.StatusCode
}

// since returns when each component was started.
func (h *rig) since() map[string]time.Time {
	h.t.Helper()
	r, err := http.Get("http://" + h.http + "/readyz")
	if err != nil {
		h.t.Fatal(err)
	}
	defer r.Body.Close()
	var answer struct{ Components []web.Component }
	if err := json.NewDecoder(r.Body).Decode(&answer); err != nil {
		h.t.Fatal(err)
	}
	out := map[string]time.Time{}
	for _, c := range answer.Components {
		if !c.Started.IsZero() {
			out[c.Name] = c.Started
		}
	}
	return out
}

const plain = `
http: {listen: HTTP}
broker: {listen: MQTT}
sources:
  - {name: hooks, type: webhook}
  - {name: log, type: tail, paths: [/nowhere/*.log]}
`
