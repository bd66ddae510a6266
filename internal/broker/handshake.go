package broker

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"event2mqtt/internal/broker/accounts"
	"event2mqtt/internal/wire"
)

// handshake reads CONNECT, decides whether the client is let in, opens its
// session and answers.
func (c *conn) handshake() (*wire.Connect, error) {
	deadline := time.Now().Add(c.b.limit().ConnectTimeout)
	if err := c.nc.SetDeadline(deadline); err != nil {
		return nil, err
	}
	if c.b.isClosed() {
		return nil, ErrClosed // and the deadline that drain has set is gone
	}
	ctx, cancel := context.WithDeadline(context.Background(), deadline)
	defer cancel()
	if t, ok := c.nc.(interface{ HandshakeContext(context.Context) error }); ok {
		if err := t.HandshakeContext(ctx); err != nil {
			return nil, fmt.Errorf("TLS: %w", err)
		}
	}
	header, body, done, err := c.firstPacket()
	defer done()
	if err != nil {
		return nil, err
	}
	if wire.Type(header>>4) != wire.CONNECT {
		return nil, fmt.Errorf("first packet is %s", wire.Type(header>>4)) // MQTT-3.1.0-1
	}
	p, err := wire.DecodeConnect(body)
	ack := wire.Connack{TopicAliasMax: aliases}
	switch {
	case err == nil:
		c.version, c.maxSend = p.Version, int(p.MaximumPacket)
		if err = c.check(p); err == nil && p.ClientID == "" {
			p.ClientID = assignedID()
			ack.AssignedID = p.ClientID
		}
		if err == nil {
			err = c.login(ctx, p)
		}
	case wire.CodeOf(err) == wire.UnsupportedVersion:
		c.version = wire.V311 // the answer that older clients understand
	default:
		return nil, err
	}
	if err != nil {
		_ = c.nc.SetWriteDeadline(time.Now().Add(farewell)) // all its time may have gone by while it waited to log in
		_ = c.answer(wire.Connack{Code: wire.CodeOf(err), Reason: err.Error()})
		return p, err
	}
	if err = c.agree(p, &ack); err != nil {
		_ = c.answer(wire.Connack{Code: wire.CodeOf(err)})
		return p, err
	}
	if err := c.nc.SetDeadline(time.Now().Add(c.b.limit().ConnectTimeout)); err != nil { // a login may take its time
		return nil, err
	}
	if ack.SessionPresent, err = c.b.open(c, p); err != nil {
		_ = c.answer(wire.Connack{Code: wire.CodeOf(err), Reason: err.Error()})
		return p, err
	}
	err = c.answer(ack)
	if err == nil {
		err = c.nc.SetDeadline(time.Time{})
	}
	if err != nil {
		c.b.release(c, p.Will)
		return nil, err
	}
	c.start()
	return p, nil
}

// agree settles what holds for the connection: what the client asks for, within
// the limits, of which ack tells it. The client may not take an answer as
// large as that.
func (c *conn) agree(p *wire.Connect, ack *wire.Connack) error {
	if bounded := c.b.boundExpiry(p.SessionExpiry); bounded != p.SessionExpiry {
		p.SessionExpiry = bounded
		ack.SessionExpiry = &bounded
	}
	if longest := c.b.limit().KeepAlive; longest > 0 && (p.KeepAlive == 0 || time.Duration(p.KeepAlive)*time.Second > longest) {
		p.KeepAlive = uint16(max(1, longest/time.Second))
		ack.ServerKeep = &p.KeepAlive
	}
	ack.ReceiveMaximum = uint16(min(c.b.limit().Inflight, 65535))
	ack.MaximumPacket = uint32(c.b.limit().PacketSize)
	if fits := c.maxSend; fits > 0 && wire.ConnackSize(c.version, *ack) > fits { // MQTT-3.1.2-24
		return &wire.Error{Code: wire.PacketTooLarge, Reason: fmt.Sprintf("the client takes packets of at most %d bytes, which is less than the answer to its CONNECT has", fits)}
	}
	c.noProblems = p.NoProblems
	c.window = min(int(p.ReceiveMaximum), c.b.limit().Inflight)
	c.aliasMax = min(int(p.TopicAliasMax), aliases)
	if p.Will != nil {
		c.will = p.Will.Topic
	}
	c.timeout = time.Duration(p.KeepAlive) * time.Second * 3 / 2 // 3.1.2.10
	c.reader.Version = p.Version
	c.reader.SetLimit(c.b.limit().PacketSize)
	c.reader.Compact()
	return nil
}

// firstPacket reads what should be a CONNECT. done has to be called when its
// body is of no more use.
func (c *conn) firstPacket() (header byte, body []byte, done func(), err error) {
	done = func() {}
	header, body, err = c.reader.Next()
	if other := c.reader.OtherProtocol(); other != "" {
		return 0, nil, done, otherProtocol(other)
	}
	var large *wire.TooLarge
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = fmt.Errorf("it did not say CONNECT within %s (broker.connect_timeout): %w", c.b.limit().ConnectTimeout, err)
	}
	if !errors.As(err, &large) || large.Type != wire.CONNECT {
		return header, body, done, err
	}
	refusal := &wire.Error{Code: wire.PacketTooLarge, Reason: fmt.Sprintf("a CONNECT of %d bytes; at most %d are allowed", large.Size, largeConnect)}
	if large.Size <= largeConnect {
		if c.b.takeLarge(c) {
			done = func() { c.b.giveLarge(c) }
			c.reader.SetLimit(largeConnect)
			header, body, err = c.reader.Next()
			return header, body, done, err
		}
		refusal = &wire.Error{Code: wire.ServerBusy, Reason: fmt.Sprintf("too many clients connect with more than %d bytes at once; try again", maxConnect)}
	}
	if c.version = c.reader.PeekVersion(); c.version != 0 {
		_ = c.answer(wire.Connack{Code: refusal.Code, Reason: refusal.Reason})
		c.linger()
	}
	return 0, nil, done, refusal
}

// otherProtocol is why a client is refused that speaks another protocol than
// MQTT, with where to find what speaks it.
func otherProtocol(name string) error {
	where := "TLS is spoken at broker.tls.listen"
	if name == "HTTP" {
		where = "webhooks, the API and MQTT over WebSocket are at http.listen"
	}
	return &wire.Error{Code: wire.Malformed, Reason: fmt.Sprintf("this port is for plain MQTT, and the client speaks %s; %s", name, where)}
}

// takeLarge reports whether c may send a CONNECT above maxConnect.
func (b *Broker) takeLarge(c *conn) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	total := 0
	for _, n := range b.large {
		total += n
	}
	if total >= largeConnects || b.large[c.network] >= largeOfAddress {
		return false
	}
	b.large[c.network]++
	return true
}

func (b *Broker) giveLarge(c *conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.large[c.network]--; b.large[c.network] == 0 {
		delete(b.large, c.network)
	}
}

// linger lets the client read its answer: closing over what it still sends
// would reset the connection and take the answer with it.
func (c *conn) linger() {
	half, ok := c.nc.(interface{ CloseWrite() error })
	if !ok {
		return
	}
	_ = half.CloseWrite()
	_ = c.nc.SetReadDeadline(time.Now().Add(farewell))
	_, _ = io.CopyN(io.Discard, c.nc, 4*largeConnect)
}

func (c *conn) answer(ack wire.Connack) error {
	ack.Fits = c.maxSend
	packet := wire.AppendConnack(nil, c.version, ack)
	if c.maxSend > 0 && len(packet) > c.maxSend {
		return errors.New("the client takes no packet as large as a CONNACK") // MQTT-3.1.2-24
	}
	_, err := c.nc.Write(packet)
	return err
}

// check refuses what a CONNECT must not ask for.
func (c *conn) check(p *wire.Connect) error {
	const maxID = 256 // bytes; twice as much as anything in use
	switch {
	case p.AuthMethod != "":
		return &wire.Error{Code: wire.BadAuthMethod, Reason: "enhanced authentication is not supported"}
	case p.ClientID == "" && !p.CleanStart && p.Version < wire.V5, p.ClientID == "" && p.Version == wire.V31:
		return &wire.Error{Code: wire.BadClientID, Reason: "a client without an id must ask for a clean session"} // MQTT-3.1.3-8
	case len(p.ClientID) > maxID:
		return &wire.Error{Code: wire.BadClientID, Reason: fmt.Sprintf("the client id has more than %d bytes", maxID)}
	case p.Will != nil && !c.b.publishable(p.Will.Topic):
		return &wire.Error{Code: wire.BadTopic, Reason: "the will's topic is not allowed"}
	}
	return nil
}

// login asks the accounts whether the client is let in.
func (c *conn) login(ctx context.Context, p *wire.Connect) error {
	if c.b.accounts == nil {
		return nil
	}
	attempt := accounts.Attempt{Address: c.addr, ClientID: p.ClientID, User: p.Username, HasUser: p.HasUser, Password: string(p.Password)}
	if t, ok := c.nc.(interface{ ConnectionState() tls.ConnectionState }); ok {
		if chains := t.ConnectionState().VerifiedChains; len(chains) > 0 {
			attempt.Certificate = chains[0][0].Subject.CommonName
		}
	}
	var err error
	c.grant, err = c.b.accounts.Login(ctx, attempt)
	code := wire.NotAuthorized
	switch {
	case err == nil && p.Will != nil && !c.grant.Rules.MayWrite(p.Will.Topic):
		err = errors.New("the user may not publish to the will's topic")
	case err == nil:
		return nil
	case errors.Is(err, accounts.ErrRefused), errors.Is(err, accounts.ErrNoAccounts), errors.As(err, new(*accounts.CertificateError)):
		code = wire.BadCredentials
	case errors.Is(err, accounts.ErrLockedOut):
		code = wire.Banned // older clients are told 3: some take 4 and 5 for good
	case errors.Is(err, accounts.ErrBusy):
		code = wire.ServerBusy
	}
	c.b.counters.refusedLogins.Add(1)
	c.loginError = err
	return &wire.Error{Code: code, Reason: err.Error()}
}

// rules are what the client may do; nil is everything.
func (c *conn) rules() *accounts.Rules {
	if c.b.accounts == nil {
		return nil
	}
	rules := c.grant.Rules // a pointer into c would keep all of it
	return &rules
}

func (b *Broker) boundExpiry(seconds uint32) uint32 {
	return min(seconds, uint32(b.limit().SessionExpiry/time.Second))
}
