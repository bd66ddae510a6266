package mqtt

import (
	"fmt"
	"path/filepath"
	"testing"
)

// TestTheListIsBounded: in brokers, of which those that were used last are kept,
// in topics, and in bytes.
func TestTheListIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "list.json")
	b, err := openLedger(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 * maxBrokers {
		for _, broker := range []string{"always", fmt.Sprint(i)} {
			if err := b.at(broker).add(map[string]owner{"a/k": {Source: "a", Key: "k"}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if b, err = openLedger(path); err != nil || len(b.content.Brokers) != maxBrokers {
		t.Fatalf("%d brokers are listed, %v", len(b.content.Brokers), err)
	}
	s := b.at("always")
	if len(s.Topics) != 1 {
		t.Error("a broker that is used is forgotten")
	}
	o := owner{Source: "a", Key: "k"}
	if !s.fits("t", o, maxTopics-2, 0) || s.fits("t", o, maxTopics-1, 0) || s.fits("t", o, 0, maxLedgerBytes) {
		t.Error("topics are not bounded")
	}
	s.forget("a/k")
	s.tidy()
	if s.bytes != 0 {
		t.Errorf("%d bytes are left of nothing", s.bytes)
	}
	if b, err = openLedger(path); err != nil || len(b.at("always").Topics) != 0 {
		t.Errorf("what was forgotten is listed, %v", err)
	}
}
