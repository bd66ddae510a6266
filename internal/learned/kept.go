package learned

import (
	"context"
	"fmt"
	"slices"

	"event2mqtt/internal/event"
)

// Store keeps positions: the journal does.
type Store interface {
	Append(ctx context.Context, events ...event.Event) (uint64, error)
	Positions(source string) map[string][]byte
	Forget(source, key string)
}

// Kept are Names that outlive the program: each is the key of a position in a
// store. Only a name that is new makes a write.
type Kept struct {
	*Names
	Store Store
	// Changed is called when names were learned or forgotten. May be nil.
	Changed func()
}

// storedAs is the source of the positions. No source has this name.
const storedAs = "\x00names"

// forgotten is the value of a position whose name was forgotten; others have
// none. It is there until the segment that has the name is gone.
var forgotten = []byte("-")

// Pass learns the names of events that pass. On error the next event of a name
// tries again.
func (k *Kept) Pass(ctx context.Context, events []event.Event) error {
	fresh := k.Unknown(events)
	if fresh == nil {
		return nil
	}
	if err := k.append(ctx, fresh, nil); err != nil {
		return fmt.Errorf("keep the names of events: %w", err)
	}
	for _, name := range k.Learn(fresh...) {
		k.Store.Forget(storedAs, name.Key())
	}
	k.tell()
	return nil
}

// Reopen takes back what was learned when the program ended.
func (k *Kept) Reopen() {
	var keys []string
	for key, value := range k.Store.Positions(storedAs) {
		if len(value) > 0 {
			k.Store.Forget(storedAs, key)
		} else {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	for _, key := range k.Restore(keys) {
		k.Store.Forget(storedAs, key)
	}
	k.tell()
}

// Only is Keep, and forgets for good: also if the program is killed, and the
// source comes back. On error names are forgotten, but would come back.
func (k *Kept) Only(ctx context.Context, sources []string, maxBytes int) error {
	names := k.Keep(sources, maxBytes)
	if len(names) == 0 {
		return nil
	}
	err := k.append(ctx, names, forgotten)
	for _, name := range names {
		k.Store.Forget(storedAs, name.Key())
	}
	k.tell()
	if err != nil {
		return fmt.Errorf("forget the names of events: %w", err)
	}
	return nil
}

func (k *Kept) append(ctx context.Context, names []Name, value []byte) error {
	records := make([]event.Event, len(names))
	for i, name := range names {
		records[i] = event.Event{Source: storedAs, Position: event.Position{Key: name.Key(), Value: value}}
	}
	_, err := k.Store.Append(ctx, records...)
	return err
}

func (k *Kept) tell() {
	if k.Changed != nil {
		k.Changed()
	}
}
