package tail

import (
	"fmt"
	"testing"
	"time"
)

// TestCausesThatAreLoggedAreBounded in a minute, and each is logged again after.
func TestCausesThatAreLoggedAreBounded(t *testing.T) {
	var s skips
	now := time.Now()
	for range 2 {
		logged := 0
		for i := range 1000 {
			if s.note(fmt.Sprint("cause ", i), now) {
				logged++
			}
		}
		if logged != maxCauses || len(s.said) != maxCauses {
			t.Errorf("%d were logged, %d remembered", logged, len(s.said))
		}
		now = now.Add(sayAgain)
	}
	if s.count.Load() != 2000 {
		t.Errorf("%d are counted", s.count.Load())
	}
}
