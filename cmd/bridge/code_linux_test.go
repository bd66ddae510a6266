package main

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"event2mqtt/internal/testkit"
)

// TestCodeThatIsNotNeededIsGivenBack, and comes back where it is.
func TestCodeThatIsNotNeededIsGivenBack(t *testing.T) {
	resident := func() (kB int) {
		text, err := os.ReadFile("/proc/self/status")
		testkit.OK(t, err)
		_, rest, _ := strings.Cut(string(text), "\nRssFile:")
		_, err = fmt.Sscan(rest, &kB)
		testkit.OK(t, err)
		return kB
	}
	before := resident()
	giveBackCode()
	after := resident()
	if after > before*3/4 {
		t.Errorf("%d kB of files are in memory, and were %d", after, before)
	}
	if got := fmt.Sprintf("%08.3f %q", 3.14159, []string{"still", "works"}); got != `0003.142 ["still" "works"]` {
		t.Error(got)
	}
}
