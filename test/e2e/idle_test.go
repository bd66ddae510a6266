package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"event2mqtt/internal/testkit"
)

// TestAnIdleProgramIsWokenUpRarely: what looks after something rests while
// nothing happens. How often it is woken up does not depend on the machine.
func TestAnIdleProgramIsWokenUpRarely(t *testing.T) {
	if _, err := os.Stat("/proc/self/task"); err != nil {
		t.Skip("there is no /proc here that tells how often a program is woken up")
	}
	p := configure(t, fmt.Sprintf("broker: {listen: \"127.0.0.1:%d\"}\n", freePort(t)))
	p.start()
	const most = 50.0 // a second; it is 9 to 20, and was 75 when four times a second something looked around
	var rate float64
	testkit.Eventually(t, fmt.Sprintf("it is woken up less than %v times a second", most), func() bool {
		began, before := time.Now(), p.wakes()
		time.Sleep(2 * time.Second)
		rate = float64(p.wakes()-before) / time.Since(began).Seconds()
		return rate < most
	})
	t.Logf("%.1f times a second", rate)
}

// wakes is how often the program's threads have slept until now.
func (p *program) wakes() (n int) {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", p.cmd.Process.Pid))
	testkit.OK(p.t, err)
	for _, task := range tasks {
		text, err := os.ReadFile(task)
		if err != nil {
			continue // it has ended
		}
		var once int
		if _, after, ok := strings.Cut(string(text), "\nvoluntary_ctxt_switches:"); ok {
			_, _ = fmt.Sscan(after, &once)
		}
		n += once
	}
	return n
}
