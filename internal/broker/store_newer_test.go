package broker_test

import (
	"errors"
	"strings"
	"testing"

	"event2mqtt/internal/broker"
	"event2mqtt/internal/event"
	"event2mqtt/internal/journal"
	"event2mqtt/internal/testkit"
)

// TestAStoreOfANewerVersionIsRefused: to skip what it does not know would lose
// messages and bring back sessions that ended.
func TestAStoreOfANewerVersionIsRefused(t *testing.T) {
	dir := journal.DirFS(t.TempDir())
	j, err := journal.Open(journal.Options{FS: dir, MaxAge: 1, Memory: 1, MaxSize: 1 << 20})
	testkit.OK(t, err)
	_, err = j.Cursor("snapshot")
	testkit.OK(t, err)
	p, err := j.Submit(event.Event{Name: "will", Payload: []byte("of a newer version")})
	testkit.OK(t, err)
	_, err = p.Wait()
	testkit.OK(t, err)
	testkit.OK(t, j.Close())
	before, err := dir.List()
	testkit.OK(t, err)

	refused := func(err error) {
		t.Helper()
		if !errors.Is(err, journal.ErrNewer) || !strings.Contains(err.Error(), "will") || strings.Contains(err.Error(), "\n") {
			t.Fatalf("got %v", err)
		}
	}
	refused(broker.CheckFolder(dir))
	b, err := broker.New(broker.Options{Folder: dir})
	if err == nil {
		b.Close(t.Context())
	}
	refused(err)
	after, err := dir.List()
	testkit.OK(t, err)
	if len(before) != len(after) {
		t.Fatalf("the files were %v and are %v", before, after)
	}
	for i := range before {
		if before[i] != after[i] {
			t.Errorf("%v is now %v", before[i], after[i])
		}
	}
}
