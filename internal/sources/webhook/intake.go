package webhook

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"event2mqtt/internal/config"
	"event2mqtt/internal/sources"
	"event2mqtt/internal/web/peer"
)

// This file bounds the memory of bodies that have not come to their end: they
// are there before their sender has proved anything.

const (
	unfinished = 32 << 20         // bytes of unfinished bodies that are not small, of one source
	shares     = 4                // how many addresses it takes to use them up
	patience   = 10 * time.Second // how long a request waits for others' memory
)

// intake shares out memory for bodies while they come. It is safe for
// concurrent use.
type intake struct {
	most, share int64 // bytes for all, and for one address

	mu    sync.Mutex
	held  int64
	by    map[netip.Prefix]int64 // by sender's network
	freed chan struct{}          // closed when something is given back
}

// newIntake returns one in which the largest body has room.
func newIntake(largest config.Size) *intake {
	share := max(unfinished/shares, 2*int64(largest))
	return &intake{most: max(unfinished, share), share: share, by: map[netip.Prefix]int64{}, freed: make(chan struct{})}
}

// acquire waits for n bytes for a sender until ctx ends, whose error it returns.
func (i *intake) acquire(ctx context.Context, from netip.Prefix, n int64) error {
	for {
		i.mu.Lock()
		if i.held+n <= i.most && i.by[from]+n <= i.share {
			i.held += n
			i.by[from] += n
			i.mu.Unlock()
			return nil
		}
		freed := i.freed
		i.mu.Unlock()
		select {
		case <-freed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (i *intake) release(from netip.Prefix, n int64) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.held -= n
	if i.by[from] -= n; i.by[from] == 0 {
		delete(i.by, from)
	}
	close(i.freed)
	i.freed = make(chan struct{})
}

// errBusy says that there was no memory for a body in time.
var errBusy = errors.New("other bodies take all memory")

// reserve waits for memory for a body of up to n bytes, once for each request.
// All of it at once: bodies that each wait for a little more than they have
// would wait for each other. What has its share of the budget does not wait
// either: its body is there, and its budget is what others wait for.
func (q *request) reserve(n int64) error {
	if q.reserved > 0 || q.held > 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(q.ctx, patience)
	defer cancel()
	n = min(n, q.s.intake.share)
	if q.s.intake.acquire(ctx, q.from, n) != nil {
		return errBusy
	}
	q.reserved = n
	return nil
}

func busy() *refusal {
	return later(http.StatusServiceUnavailable, patience, "other large bodies that have not come to their end take the memory there is for them; nothing was kept of this request")
}

// metered is a reader of what is kept in memory. Beyond what is small it
// reserves memory for all that there may be.
type metered struct {
	io.Reader
	q    *request
	n    int64 // bytes that were read
	most int64 // bytes to reserve
}

func (m *metered) Read(p []byte) (int, error) {
	if m.n > small {
		if err := m.q.reserve(m.most); err != nil {
			return 0, err
		}
	} else if room := small + 1 - m.n; int64(len(p)) > room {
		p = p[:room]
	}
	n, err := m.Reader.Read(p)
	m.n += int64(n)
	return n, err
}

const (
	// readAgain is what the journal keeps in memory of the newest events, in
	// bytes. What is larger is read from the disk again to be sent, which
	// takes as much memory as it took to store it.
	readAgain = 2 << 20
	// settling is how long the next large body waits for that: a broker that
	// is away reads nothing.
	settling = 200 * time.Millisecond
)

// settle waits until events of a size in bytes, which were stored, take no
// memory any more, or for settling.
func settle(ctx context.Context, r sources.Receipt, size int) {
	if size <= readAgain {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, settling)
	defer cancel()
	_ = r.Delivered(ctx) // how it went is nothing to the next body
}

// network is who shares one sender's part of the memory.
func network(r *http.Request) netip.Prefix { return peer.Network(peer.Addr(r)) }
