package broker

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"time"

	"event2mqtt/internal/broker/accounts"
	"event2mqtt/internal/broker/wire"
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
	header, body, err := c.reader.Next()
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
		_ = c.answer(wire.Connack{Code: wire.CodeOf(err), Reason: err.Error()})
		return p, err
	}
	if bounded := c.b.boundExpiry(p.SessionExpiry); bounded != p.SessionExpiry {
		p.SessionExpiry = bounded
		ack.SessionExpiry = &bounded
	}
	if longest := c.b.limit().KeepAlive; longest > 0 && (p.KeepAlive == 0 || time.Duration(p.KeepAlive)*time.Second > longest) {
		p.KeepAlive = uint16(max(1, longest/time.Second))
		ack.ServerKeep = &p.KeepAlive
	}
	c.noProblems = p.NoProblems
	c.window = min(int(p.ReceiveMaximum), c.b.limit().Inflight)
	c.aliasMax = min(int(p.TopicAliasMax), aliases)
	c.timeout = time.Duration(p.KeepAlive) * time.Second * 3 / 2 // 3.1.2.10
	c.reader.Version = p.Version
	c.reader.SetLimit(c.b.limit().PacketSize)
	if err := c.nc.SetDeadline(time.Now().Add(c.b.limit().ConnectTimeout)); err != nil { // a login may take its time
		return nil, err
	}
	if ack.SessionPresent, err = c.b.open(c, p); err != nil {
		_ = c.answer(wire.Connack{Code: wire.CodeOf(err), Reason: err.Error()})
		return p, err
	}
	ack.ReceiveMaximum = uint16(min(c.b.limit().Inflight, 65535))
	ack.MaximumPacket = uint32(c.b.limit().PacketSize)
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

func (c *conn) answer(ack wire.Connack) error {
	ack.Fits = c.maxSend
	_, err := c.nc.Write(wire.AppendConnack(nil, c.version, ack))
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
