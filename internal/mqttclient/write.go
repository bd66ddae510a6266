package mqttclient

import (
	"runtime"
	"time"

	"event2mqtt/internal/wire"
)

// write writes what is handed over until the connection ends. Whatever is
// appended while it writes goes out with the next write.
func (c *Client) write() {
	w := writer{Client: c, wrote: time.Now(), timer: time.NewTimer(time.Hour)}
	defer w.timer.Stop()
	w.arm(w.wrote)
	for {
		last := w.take()
		if len(w.buf) == 0 {
			if last {
				_ = c.conn.Close()
				return
			}
			select {
			case <-c.wake:
				// Whoever woke this goroutine often has more to hand over; with
				// that in the same write, a message costs two thirds of the CPU.
				runtime.Gosched()
			case <-w.timer.C:
				w.tick()
			case <-c.done:
				return
			}
			continue
		}
		if err := w.flush(); err != nil {
			c.breakOff(err)
			for _, t := range w.unsent {
				t.finish(0, err)
			}
			return
		}
		select { // also while there is always something to write
		case <-w.timer.C:
			w.tick()
		default:
		}
	}
}

// writer is the state of the goroutine that writes.
type writer struct {
	*Client
	buf    []byte
	unsent []*Ticket
	asked  []*ping
	wrote  time.Time // when the last packet went out
	timer  *time.Timer
}

// take takes what is to be written, and reports whether that is all for ever.
// If it is nothing, the next to append wakes the writer.
func (w *writer) take() (last bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.held && !w.urgent && len(w.out) < writeChunk {
		w.buf, w.idle = w.buf[:0], true
		return false
	}
	w.urgent = false
	w.buf, w.out = w.out, w.buf[:0]
	w.unsent, w.Client.unsent = w.Client.unsent, w.unsent[:0]
	w.asked, w.Client.asked = w.Client.asked, nil
	if w.room != nil {
		close(w.room)
		w.room = nil
	}
	w.idle = len(w.buf) == 0
	return w.leaving
}

// flush writes what was taken. It fails when no chunk goes out within the
// time-out.
func (w *writer) flush() error {
	for n := 0; n < len(w.buf); {
		if err := w.conn.SetWriteDeadline(time.Now().Add(w.opt.Timeout)); err != nil {
			return err
		}
		m, err := w.conn.Write(w.buf[n:min(n+writeChunk, len(w.buf))])
		n += m
		w.wrote = time.Now()
		w.moved.Store(w.wrote.UnixNano())
		if err != nil {
			return err
		}
	}
	for _, t := range w.unsent {
		t.finish(wire.Success, nil)
	}
	clear(w.unsent)
	if len(w.asked) > 0 {
		w.mu.Lock()
		for _, p := range w.asked {
			p.written = w.wrote
		}
		w.mu.Unlock()
		w.arm(w.wrote)
	}
	if cap(w.buf) > 2*gathered {
		w.buf = nil
	}
	return nil
}

// breakOff notes that nothing can be written any more. What the broker has said
// before is still read, for a moment.
func (c *Client) breakOff(err error) {
	c.mu.Lock()
	c.broken = err
	if c.room != nil {
		close(c.room)
		c.room = nil
	}
	c.mu.Unlock()
	_ = c.conn.SetReadDeadline(time.Now().Add(lastWords))
}

// tick looks at whether a ping is due, or one has stayed without an answer.
func (w *writer) tick() {
	now := time.Now()
	w.mu.Lock()
	if len(w.pings) > 0 {
		late := !w.pings[0].written.IsZero() && now.Sub(w.lastSign(w.pings[0])) >= w.opt.PingTimeout
		w.mu.Unlock()
		if late {
			w.giveUp(ErrNoPong)
			return
		}
	} else {
		if keep := w.limits.KeepAlive; keep > 0 && now.Sub(w.quietSince()) >= keep && !w.leaving {
			w.appendPing(&ping{})
		}
		w.mu.Unlock()
	}
	w.arm(now)
}

// lastSign is when the broker has last shown that it is there since a ping.
func (w *writer) lastSign(p *ping) time.Time {
	if heard := time.Unix(0, w.heard.Load()); heard.After(p.written) {
		return heard
	}
	return p.written
}

// quietSince is when there was last something in that direction in which there
// was nothing for longer.
func (w *writer) quietSince() time.Time {
	if heard := time.Unix(0, w.heard.Load()); heard.Before(w.wrote) {
		return heard
	}
	return w.wrote
}

// arm sets the timer to when there is next something to look at.
func (w *writer) arm(now time.Time) {
	next := time.Hour
	w.mu.Lock()
	switch keep := w.limits.KeepAlive; {
	case len(w.pings) > 0 && w.pings[0].written.IsZero(): // it is about to be written
	case len(w.pings) > 0:
		next = w.opt.PingTimeout - now.Sub(w.lastSign(w.pings[0]))
	case keep > 0:
		next = keep - now.Sub(w.quietSince())
	}
	w.mu.Unlock()
	w.timer.Reset(max(next, time.Millisecond))
}

// giveUp has the reader end the connection for a reason that the writer has.
func (w *writer) giveUp(err error) {
	w.mu.Lock()
	w.broken = err
	w.mu.Unlock()
	_ = w.conn.Close()
}
