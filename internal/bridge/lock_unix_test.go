//go:build unix

package bridge

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// TestALockThatIsGivenUpInTimeIsWaitedFor, and one that is not is named.
func TestALockThatIsGivenUpInTimeIsWaitedFor(t *testing.T) {
	dir := t.TempDir()
	unlock, err := lockDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	_, err = lockDir(dir)
	if err == nil || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), fmt.Sprintf("process %d", os.Getpid())) {
		t.Errorf("a second one: %v", err)
	}
	time.AfterFunc(20*time.Millisecond, unlock)
	again, err := lockDir(dir)
	if err != nil {
		t.Fatalf("after it was given up: %v", err)
	}
	again()
}
