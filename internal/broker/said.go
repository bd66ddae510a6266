package broker

import (
	"errors"
	"io"
	"maps"
	"net"
	"os"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"event2mqtt/internal/broker/accounts"
	"event2mqtt/internal/wire"
)

// This file is what the log says of clients: who comes, why they go, why they
// are refused. Clients that come and go all the time must not fill the disk
// with it, so every line has a budget.

// Budgets of log lines, for each client id and for each address: so many at
// once, and then one in every so long.
const (
	linesOfClient, pauseOfClient   = 8, 15 * time.Second
	linesOfAddress, pauseOfAddress = 256, 2 * time.Second
	refusalsOfAddress              = 16
	maxBudgets                     = 4096
)

// budgets counts log lines by key.
type budgets struct {
	mu     sync.Mutex
	spent  map[string]*budget
	silent uint64 // lines left out since the last that was written
}

type budget struct {
	used int
	last time.Time // when used was brought up to date
}

// take reports whether a line may be written for all keys; a key may have
// lines[i] at once and one in every pauses[i] later.
func (b *budgets) take(now time.Time, keys []string, lines []int, pauses []time.Duration) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, key := range keys {
		e := b.spent[key]
		if e == nil {
			continue
		}
		back := int(now.Sub(e.last) / pauses[i])
		e.used = max(0, e.used-back)
		e.last = e.last.Add(time.Duration(back) * pauses[i])
		if e.used >= lines[i] {
			b.silent++
			return false
		}
	}
	for _, key := range keys {
		e := b.spent[key]
		if e == nil {
			if len(b.spent) >= maxBudgets {
				maps.DeleteFunc(b.spent, func(_ string, e *budget) bool { return now.Sub(e.last) > time.Minute })
			}
			if len(b.spent) >= maxBudgets {
				b.silent++
				return false
			}
			if b.spent == nil {
				b.spent = map[string]*budget{}
			}
			e = &budget{last: now}
			b.spent[key] = e
		}
		e.used++
	}
	return true
}

// leftOut returns how many lines were not written since it was last asked.
func (b *budgets) leftOut() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := b.silent
	b.silent = 0
	return n
}

// mayTell reports whether a line about c's coming or going is within the
// budget of its client id and of its address.
func (c *conn) mayTell() bool {
	return c.b.lines.take(time.Now(), []string{"client " + c.session.key, "address " + c.network.String()},
		[]int{linesOfClient, linesOfAddress}, []time.Duration{pauseOfClient, pauseOfAddress})
}

// who adds what tells one client from another to a line.
func (c *conn) who(e *zerolog.Event) *zerolog.Event {
	e = e.Str("client", c.session.id).Stringer("from", c.nc.RemoteAddr())
	if c.session.user != "" {
		e = e.Str("user", c.session.user)
	}
	return e
}

// tellLeftOut adds how many lines were left out before this one, if any were.
func (b *Broker) tellLeftOut(e *zerolog.Event) *zerolog.Event {
	if n := b.lines.leftOut(); n > 0 {
		e = e.Uint64("lines_left_out", n)
	}
	return e
}

// tellConnected says who connected.
func (c *conn) tellConnected(p *wire.Connect) {
	e := c.b.log.Debug()
	if c.told = c.mayTell(); c.told {
		e = c.b.tellLeftOut(c.b.log.Info())
	}
	c.who(e).Str("version", versionName(p.Version)).Uint16("keepalive", p.KeepAlive).Bool("clean", p.CleanStart).
		Msg("broker: client connected")
}

func versionName(v byte) string {
	switch v {
	case wire.V31:
		return "3.1"
	case wire.V311:
		return "3.1.1"
	}
	return "5"
}

// tellEnd says why a connection ended. goodbye is the client's DISCONNECT, err
// why nothing more was read from it.
func (c *conn) tellEnd(goodbye *wire.Disconnect, err error) {
	var large *wire.TooLarge
	if errors.As(err, &large) {
		c.who(c.b.warn("packet "+c.session.key)).Str("packet", large.Type.String()).Int64("size", large.Size).Int("max_packet", large.Limit).
			Msg("broker: cut off a client: it sent a packet larger than broker.max_packet allows; raise broker.max_packet or send less at a time")
		return
	}
	e := c.b.log.Debug()
	if !c.b.isClosed() && (c.told || c.mayTell()) {
		e = c.b.tellLeftOut(c.b.log.Info())
	}
	e = c.who(e).Stringer("after", time.Since(c.born).Round(time.Second))
	switch {
	case c.endReason != "":
		e.Str("why", c.endReason).Msg("broker: client was cut off")
	case goodbye != nil && goodbye.Code == wire.Success:
		e.Str("why", "it disconnected normally").Msg("broker: client disconnected")
	case goodbye != nil:
		e.Str("why", "it disconnected and asked for its will to be published").Msg("broker: client disconnected")
	case c.b.isClosed():
		e.Str("why", "the broker is shutting down").Msg("broker: client disconnected")
	case errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF):
		e.Str("why", "it closed the connection without a DISCONNECT").Msg("broker: client lost")
	default:
		e.AnErr("why", err).Msg("broker: client lost")
	}
}

// fightWindow is how soon after it came a client is ended by the next with its
// id, if the two fight over it.
const fightWindow = 5 * time.Minute

// takesFrom notes that c ends old, which has the same client id, and warns if
// that goes on: two clients that both come back whenever they are ended.
func (c *conn) takesFrom(old *conn) {
	if time.Since(old.born) > fightWindow {
		return
	}
	if c.takeovers = old.takeovers + 1; c.takeovers < 2 {
		return // a client that lost its connection and came back
	}
	c.b.warn("takeover "+old.session.key).Str("client", old.session.id).Str("user", old.session.user).
		Stringer("from", c.nc.RemoteAddr()).Stringer("other", old.nc.RemoteAddr()).Int("times", c.takeovers).
		Msg("broker: two clients use the same client id and end each other's connection again and again; give each a client id of its own")
}

// tellRefused says why a connection came to nothing. p is its CONNECT, or nil.
func (c *conn) tellRefused(p *wire.Connect, err error) {
	user, client := "", ""
	if p != nil {
		user, client = p.Username, p.ClientID
	}
	e := c.b.log.Debug()
	if worthTelling(p, err) && !c.b.isClosed() && !errors.Is(c.loginError, accounts.ErrNoAccounts) { // the accounts have said that
		key, cause := "refused "+c.network.String(), wire.CodeOf(err).String()
		var known *wire.Error
		if p == nil && errors.As(err, &known) {
			cause = known.Reason // no client id tells one from another
		}
		if c.b.lines.take(time.Now(), []string{key}, []int{refusalsOfAddress}, []time.Duration{pauseOfClient}) {
			e = c.b.warn(clip(key + " " + cause + " " + user + " " + client))
		}
	}
	e = e.Stringer("from", c.nc.RemoteAddr())
	if p != nil {
		e = e.Str("client", clip(client)).Str("user", clip(user)).Str("version", versionName(p.Version))
	}
	var cert *accounts.CertificateError
	if errors.As(c.loginError, &cert) {
		e = e.Str("certificate", clip(cert.Name))
	}
	e.AnErr("why", err).Msg("broker: a client was refused")
}

// clip keeps what a peer says of itself short.
func clip(s string) string {
	const longest = 128
	if len(s) > longest {
		return s[:longest] + "..."
	}
	return s
}

// worthTelling leaves out those who say nothing, such as port scanners and the
// checks of monitoring programs.
func worthTelling(p *wire.Connect, err error) bool {
	if p != nil {
		return true
	}
	return !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, net.ErrClosed) && !errors.Is(err, ErrClosed) &&
		!isReset(err)
}

// isReset reports whether the peer has broken the connection off; what it says
// as it leaves, such as a TLS alert, is something else.
func isReset(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && (op.Op == "read" || op.Op == "write") && !errors.Is(err, os.ErrDeadlineExceeded)
}
