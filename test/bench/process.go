package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is a program under measurement.
type process struct {
	config string // file
	cmd    *exec.Cmd
	mqtt   string // address of its broker, or of the one that it publishes to
	http   string
}

// end ends the process, if that was not done before.
func (p *process) end() {
	if p.cmd.ProcessState != nil {
		return
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	_ = p.cmd.Wait()
}

// cpu is what the process has used of the processors so far.
func (p *process) cpu() time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+2:]))
	user, _ := strconv.ParseInt(fields[11], 10, 64)
	system, _ := strconv.ParseInt(fields[12], 10, 64)
	const tick = 10 * time.Millisecond // USER_HZ is 100 on Linux
	return time.Duration(user+system) * tick
}

func (p *process) rss() int64 { return p.status("VmRSS:") }

// peak is the highest RSS so far.
func (p *process) peak() int64 { return p.status("VmHWM:") }

func (p *process) status(key string) int64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, key); ok {
			kb, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return kb << 10
		}
	}
	return 0
}

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// waitFor waits until somebody listens.
func waitFor(address string) error {
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if c, err := net.Dial("tcp", address); err == nil {
			return c.Close()
		}
	}
	return errors.New("nothing listens on " + address)
}

// startBridge runs our program with more configuration; without mqtt in it, it
// is the broker.
func (b *bench) startBridge(yaml string) (*process, error) { return b.startOne(b.bridge, yaml) }

// startOne is startBridge with another binary of ours.
func (b *bench) startOne(binary, yaml string) (*process, error) {
	p := &process{}
	var err error
	if p.http, err = freeAddress(); err != nil {
		return nil, err
	}
	if p.mqtt, err = freeAddress(); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(b.dir, "state")
	if err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "config.yaml")
	text := fmt.Sprintf("http: {listen: %q}\n%s", p.http, yaml)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	p.config = config
	p.cmd = exec.Command(binary, "--config", config, "--state-dir", dir)
	p.cmd.Env = append(os.Environ(), "E2M_BROKER_LISTEN="+p.mqtt)
	p.cmd.Stderr = os.Stderr
	if os.Getenv("BENCH_VERBOSE") == "" {
		p.cmd.Stderr = nil
	}
	if err := b.start(p, p.http); err != nil {
		return nil, err
	}
	r, err := http.Get("http://" + p.http + "/healthz") // it answers once everything listens
	if err != nil {
		p.end()
		return nil, err
	}
	return p, r.Body.Close()
}

func (b *bench) startMosquitto() (*process, error) {
	p := &process{}
	var err error
	if p.mqtt, err = freeAddress(); err != nil {
		return nil, err
	}
	_, port, _ := net.SplitHostPort(p.mqtt)
	config := filepath.Join(b.dir, "mosquitto-"+port+".conf")
	text := fmt.Sprintf("listener %s 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\nmax_inflight_messages 1000\nlog_dest none\n", port)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	p.cmd = exec.Command(b.mosquitto, "-c", config)
	return p, b.start(p, p.mqtt)
}

// startBare runs this program again as a bare one.
func (b *bench) startBare(args ...string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &process{cmd: exec.Command(self, append([]string{"bare"}, args...)...)}
	p.cmd.Stderr = os.Stderr
	return p, b.start(p, "")
}

// start starts a process and waits until it listens on address, if it does.
func (b *bench) start(p *process, address string) error {
	if err := p.cmd.Start(); err != nil {
		return err
	}
	b.started = append(b.started, p)
	if address == "" {
		return nil
	}
	return waitFor(address)
}
