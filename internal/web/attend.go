package web

import (
	"bytes"
	"fmt"
	"net/http"
	"time"
)

// This file is what becomes of connections that there is no room for.

// attend looks what a connection asks for: the health check is answered, others
// are let in once there is room, or told to come again.
func (d *door) attend(c *waiter, why full) {
	const lineLimit = 1 << 10
	deadline := time.Now().Add(d.server.times.wait)
	_ = c.SetReadDeadline(deadline)
	buf := make([]byte, lineLimit)
	n := 0
	for !bytes.Contains(buf[:n], []byte("\n")) && n < len(buf) {
		got, err := c.Conn.Read(buf[n:])
		n += got
		if err != nil {
			d.refuse(c, why)
			return
		}
	}
	if asksForHealth(buf[:n]) {
		d.server.counts.add(http.StatusOK)
		d.answer(c, "200 OK", "text/plain; charset=utf-8", healthy, buf[0] == 'H')
		return
	}
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	again := time.NewTicker(stalled / 10) // what is stuck tells nobody
	defer again.Stop()
	d.server.room.wanted.Add(1)
	defer d.server.room.wanted.Add(-1)
	for {
		ok, full, freed := d.server.room.admit(c.conn)
		if ok {
			c.head = buf[:n]
			_ = c.SetReadDeadline(time.Time{})
			d.deliver(accepted{c.conn, nil})
			return
		}
		why = full
		select {
		case <-freed:
			continue
		case <-again.C:
			continue
		case <-timer.C:
		case <-c.hurry:
		case <-d.closing:
		}
		d.refuse(c, why)
		return
	}
}

// asksForHealth reports whether a request begins like that for the health check.
func asksForHealth(head []byte) bool {
	line, _, _ := bytes.Cut(head, []byte("\n"))
	words := bytes.Fields(line)
	if len(words) < 2 || string(words[0]) != http.MethodGet && string(words[0]) != http.MethodHead {
		return false
	}
	path, _, _ := bytes.Cut(words[1], []byte("?"))
	return string(path) == healthPath
}

// refuse tells a client to come again, and the log why.
func (d *door) refuse(c *waiter, why full) {
	d.server.counts.add(http.StatusServiceUnavailable)
	if why.share {
		d.server.Warn("share "+c.network.String()).Stringer("from", c.addr).Int("connections", why.most).
			Msg("http: this address has as many connections as one may, a quarter of http.max_connections; more are refused. If it is a proxy, add it to http.trusted_proxies")
	} else {
		d.server.Warn("full").Int("connections", why.most).Msg("http: there are as many connections as http.max_connections (and the system's limit of open files) allow, all of them busy; more are refused")
	}
	const text = `{"status":503,"title":"Service Unavailable","detail":"there are as many connections as are allowed; try again in a moment"}` + "\n"
	d.answer(c, "503 Service Unavailable\r\nRetry-After: 1", "application/problem+json", text, false)
}

// answer writes a whole answer, and ends the connection.
func (d *door) answer(c *waiter, status, kind, text string, headOnly bool) {
	head := fmt.Sprintf("HTTP/1.1 %s\r\nContent-Type: %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n", status, kind, len(text))
	if headOnly {
		text = ""
	}
	_ = c.Conn.SetWriteDeadline(time.Now().Add(time.Second)) // it fits in the socket
	_, _ = c.Conn.Write([]byte(head + text))
	// What is unread when a connection is closed resets it, and takes the answer with it.
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		_ = c.Conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		_, _ = c.Conn.Read(make([]byte, 4<<10))
	}
	_ = c.Close()
}
