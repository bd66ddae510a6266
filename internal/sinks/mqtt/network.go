package mqtt

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	"github.com/eclipse/paho.mqtt.golang/packets"
	"github.com/gorilla/websocket"
	"golang.org/x/net/proxy"

	"event2mqtt/internal/mqttclient"
	"event2mqtt/internal/sinks"
)

// dialNetwork connects to the broker whose turn it is, with a client that is
// used once: paho's own reconnecting completes tokens of messages that were
// lost, so AutoReconnect is off, and nothing of its store outlives the
// connection. The journal is the store.
//
// A broker that does not take the will, for its flags or its topic, closes the
// connection and says no more. Whether that is the reason is looked at when it
// has done so several times.
func (s *Sink) dialNetwork(ctx context.Context) (link, error) {
	with := s.opt.Config.Will.Enabled && !s.will.refused
	l, err := s.dialOne(ctx, with)
	if err == nil {
		s.will.closed = 0
		return l, nil
	}
	if !with || !closed(err) {
		return nil, err
	}
	if s.will.closed++; s.will.closed%certain != 0 || !s.willIsRefused(ctx) {
		return nil, err
	}
	if l, err = s.dialOne(ctx, false); err != nil {
		return nil, err
	}
	return l, nil
}

// willIsRefused reports whether a connection without the will lasts, and one
// with it still does not.
func (s *Sink) willIsRefused(ctx context.Context) bool {
	bare, err := s.dialOne(ctx, false)
	if err != nil {
		return false
	}
	err = s.calm(ctx, bare)
	bare.close()
	if err != nil {
		return false
	}
	l, err := s.dialOne(ctx, true)
	if err == nil {
		l.close()
		return false
	}
	if s.will.refused = closed(err); s.will.refused {
		w := s.opt.Config.Will
		s.opt.Log.Error().Msgf("mqtt: the broker closes the connection if it is given a last will (topic %s, QoS %d, retained: %t); going on without. Others will not see when this program dies; change %[4]swill.qos, %[4]swill.retain or %[4]swill.topic", s.willTopic, w.QoS, w.Retain, s.keys().config)
	}
	return s.will.refused
}

// dialOne connects once.
func (s *Sink) dialOne(ctx context.Context, will bool) (link, error) {
	if s.protocol == 5 {
		return s.dialFive(ctx, will)
	}
	o, err := s.clientOptions(s.brokers[s.next])
	if err != nil {
		return nil, err
	}
	if w := s.opt.Config.Will; will {
		o.SetWill(s.willTopic, w.Offline, byte(w.QoS), w.Retain)
	}
	l := &networkLink{ended: make(chan struct{})}
	o.SetConnectionLostHandler(func(_ paho.Client, err error) { l.end(err) })
	l.mail = mailbox{queue: make(chan sinks.Incoming, incomingQueue), tooFast: s.tooFast}
	o.SetDefaultPublishHandler(l.mail.arrived)
	if l.client, l.conn, err = connect(ctx, o, s.opt.Config.Timeout, s.tooLarge); err != nil {
		return nil, err
	}
	l.mail.reading.Go(func() { l.mail.read(ctx, l.ended, s.hear) }) // close waits for it
	return l, nil
}

// connect connects a client, and gives up as soon as ctx ends. skip is told of
// messages that are too large, as conn.skip.
func connect(ctx context.Context, o *paho.ClientOptions, timeout time.Duration, skip func(topic string, bytes int)) (paho.Client, *conn, error) {
	var opened *conn
	stay := func() bool { return true } // stops what closes the connection when ctx ends
	o.SetCustomOpenConnectionFn(func(broker *url.URL, o paho.ClientOptions) (net.Conn, error) {
		c, err := open(ctx, broker, o)
		if err != nil {
			return nil, err
		}
		stay = context.AfterFunc(ctx, func() { _ = c.Close() })
		opened = newConn(c, timeout, skip)
		return opened, nil
	})
	client := paho.NewClient(o)
	t := client.Connect()
	<-t.Done()
	switch alive := stay(); {
	case t.Error() == nil && alive:
		return client, opened, nil
	case ctx.Err() == nil:
		return nil, nil, t.Error()
	}
	client.Disconnect(0)
	return nil, nil, ctx.Err()
}

// open opens a connection to a broker, through the proxy that $ALL_PROXY names
// unless $NO_PROXY exempts the broker. paho could do that, but not be interrupted.
func open(ctx context.Context, broker *url.URL, o paho.ClientOptions) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, o.ConnectTimeout)
	defer cancel()
	if broker.Scheme == "ws" || broker.Scheme == "wss" {
		return openWebSocket(ctx, broker, o)
	}
	c, err := proxy.Dial(ctx, "tcp", broker.Host)
	if err != nil {
		return nil, err
	}
	if broker.Scheme == "mqtts" {
		secure := tls.Client(c, o.TLSConfig)
		if err := secure.HandshakeContext(ctx); err != nil {
			_ = c.Close()
			return nil, err
		}
		c = secure
	}
	return c, nil
}

// openWebSocket leaves an attempt that cannot be interrupted to its own
// time-out once ctx ends.
func openWebSocket(ctx context.Context, broker *url.URL, o paho.ClientOptions) (net.Conn, error) {
	type result struct {
		net.Conn
		err error
	}
	opened := make(chan result, 1)
	go func() {
		c, err := paho.NewWebsocket(broker.String(), o.TLSConfig, o.ConnectTimeout, o.HTTPHeaders, o.WebsocketOptions)
		opened <- result{c, err}
	}()
	select {
	case r := <-opened:
		return r.Conn, r.err
	case <-ctx.Done():
		go func() {
			if r := <-opened; r.err == nil {
				_ = r.Close()
			}
		}()
		return nil, ctx.Err()
	}
}

func (s *Sink) clientOptions(broker *url.URL) (*paho.ClientOptions, error) {
	c := s.opt.Config
	account, err := s.account()
	if err != nil {
		return nil, err
	}
	o := paho.NewClientOptions()
	o.AddBroker(broker.String())
	o.SetClientID(account.id)
	o.SetUsername(account.user)
	o.SetPassword(account.password)
	o.SetProtocolVersion(min(s.protocol, 4)) // else it falls back to 3.1 by itself; 5 is not paho's
	o.SetCleanSession(true)
	o.SetAutoReconnect(false)
	o.SetConnectRetry(false)
	o.SetKeepAlive(c.KeepAlive)
	o.SetPingTimeout(s.doubt.longest(c.Timeout)) // a ping waits behind what is being sent
	o.SetConnectTimeout(c.Timeout)
	o.SetWriteTimeout(time.Second) // to take a message over; conn bounds writing it
	if s.tls != nil {
		t := s.tls.Clone()
		if t.ServerName == "" {
			t.ServerName = broker.Hostname()
		}
		o.SetTLSConfig(t)
	}
	if len(c.WebSocket.Headers) > 0 {
		h := http.Header{}
		for name, value := range c.WebSocket.Headers {
			h.Set(name, string(value))
		}
		o.SetHTTPHeaders(h)
	}
	return o, nil
}

// probe tries a broker out: it connects, publishes a message and waits until it
// comes back.
func (s *Sink) probe(ctx context.Context, broker *url.URL) (err error) {
	if s.protocol == 5 {
		return s.probeFive(ctx, broker)
	}
	o, err := s.clientOptions(broker)
	if err != nil {
		return err
	}
	o.SetClientID(s.beside(o.ClientID, "-check"))                                    // the bridge that runs keeps its connection
	client, conn, err := connect(ctx, o, s.opt.Config.Timeout, func(string, int) {}) // that of others is not what is waited for
	if err != nil {
		return errors.New(s.explain(err, broker))
	}
	defer client.Disconnect(100)
	if s.opt.Config.bare() {
		return nil
	}
	name := s.opt.Publish.BaseTopic + "/bridge/check"
	text := strings.ToLower(rand.Text())
	back := make(chan struct{}, 1)
	conn.subscribed.Store(true)
	subscribed := client.Subscribe(name, 1, func(_ paho.Client, m paho.Message) {
		if string(m.Payload()) == text {
			select {
			case back <- struct{}{}:
			default:
			}
		}
	})
	qos := byte(min(1, s.opt.Config.MaxQoS))
	for what, t := range map[string]ticket{"subscribe to": subscribed, "publish to": client.Publish(name, qos, false, text)} {
		select {
		case <-t.Done():
			if err := t.Error(); err != nil {
				return fmt.Errorf("connected, but cannot %s %s: %w", what, name, err)
			}
		case <-ctx.Done():
			return fmt.Errorf("connected, but the broker does not answer when asked to %s %s", what, name)
		}
	}
	select {
	case <-back:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("connected, but a message published to %s did not come back; may this user publish there, and subscribe?", name)
	}
}

// Probe tries out every broker of a configuration, and calls tell with each
// one's address and what is wrong with it, or nil.
func Probe(ctx context.Context, c Config, p PublishConfig, tell func(broker string, err error)) error {
	s, err := New(Options{Config: c, Publish: p}, sinks.Deps{ClientID: "event2mqtt"})
	if err != nil {
		return err
	}
	for _, broker := range s.brokers {
		ctx, cancel := context.WithTimeout(ctx, c.Timeout)
		tell(broker.Redacted(), s.probe(ctx, broker))
		cancel()
	}
	return nil
}

type networkLink struct {
	client paho.Client
	conn   *conn
	mail   mailbox
	// handing is held while a message is handed to paho; it guards handed.
	handing sync.Mutex
	handed  int64
	ended   chan struct{}
	once    sync.Once
	cause   error
}

func (l *networkLink) end(err error) {
	l.once.Do(func() {
		l.cause = err
		close(l.ended)
	})
}

// publish waits until paho can take a message over at once: it has one that it
// writes, and one behind that. In paho the wait could not be interrupted, by
// ctx or by the end of the connection.
func (l *networkLink) publish(ctx context.Context, m message) ticket {
	l.handing.Lock()
	defer l.handing.Unlock()
	if err := l.room(ctx, 1); err != nil {
		return done{err}
	}
	l.handed++
	return l.client.Publish(m.topic, m.qos, m.retain, m.payload)
}

func (l *networkLink) hold() { l.conn.hold() }

func (l *networkLink) release() { l.conn.release() }

// room waits until paho has at most so many messages to write. handing is held.
func (l *networkLink) room(ctx context.Context, most int64) error {
	for l.handed-l.conn.published.Load() > most {
		select {
		case <-l.conn.wrote:
		case <-l.ended:
			return l.cause
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (l *networkLink) moved() time.Time {
	return time.Unix(0, max(l.conn.moved.Load(), l.conn.skipped.Load()))
}

func (l *networkLink) ping(ctx context.Context) error {
	err := l.conn.ping(ctx, l.ended)
	if errors.Is(err, errDown) {
		return l.err()
	}
	return err
}

func (l *networkLink) down() <-chan struct{} { return l.ended }

func (l *networkLink) err() error { return l.cause }

func (l *networkLink) close() {
	l.client.Disconnect(uint(closeTimeout.Milliseconds()))
	l.end(errors.New("disconnected"))
	l.mail.reading.Wait()
}

// explain says in words why a connection failed, and what to look at. secure
// is whether it was one with TLS.
func (k keys) explain(err error, secure bool) string {
	var (
		authority x509.UnknownAuthorityError
		hostname  x509.HostnameError
		invalid   x509.CertificateInvalidError
		record    tls.RecordHeaderError
		pin       *pinError
		dns       *net.DNSError
		netErr    net.Error
	)
	switch {
	case err == nil:
		return "the connection ended"
	case errors.Is(err, errNothingTaken):
		return err.Error()
	case explainFive(err, k.config) != "":
		return explainFive(err, k.config)
	case errors.Is(err, packets.ErrorRefusedBadUsernameOrPassword):
		return fmt.Sprintf("the broker refused the login: wrong user name or password (%[1]susername, %[1]spassword)", k.config)
	case errors.Is(err, packets.ErrorRefusedNotAuthorised):
		return fmt.Sprintf("the broker refused the login: not authorized; some brokers say so of a wrong password too (%[1]susername, %[1]spassword, %[1]sclient_id)", k.config)
	case errors.Is(err, packets.ErrorRefusedIDRejected):
		return fmt.Sprintf("the broker refused the client id (%[1]sclient_id)", k.config)
	case errors.Is(err, packets.ErrorRefusedBadProtocolVersion):
		return fmt.Sprintf("the broker does not speak this version of MQTT (%[1]sprotocol)", k.config)
	case errors.Is(err, packets.ErrorRefusedServerUnavailable):
		return "the broker says that it is unavailable"
	case errors.As(err, &pin):
		return fmt.Sprintf("the broker's certificate is none of those of %stls.pin: it has the fingerprint sha256:%x; if the broker has a new certificate, write that", k.config, pin.got)
	case errors.As(err, &authority):
		return fmt.Sprintf("the broker's certificate is signed by an authority that is not trusted here (%v); put that authority's certificate into %[2]stls.ca", authority, k.config)
	case errors.As(err, &hostname) && namesNothing(hostname.Certificate):
		return fmt.Sprintf("the broker's certificate has no subjectAltName, only the common name %q, which no longer counts; have a new one issued that names %q there", hostname.Certificate.Subject.CommonName, hostname.Host)
	case errors.As(err, &hostname):
		return fmt.Sprintf("the broker's certificate is for another name (%v); correct %[2]surl or set %[2]stls.server_name", hostname, k.config)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return fmt.Sprintf("the broker's certificate has expired or is not valid yet (%v); is this machine's clock right?", invalid)
	case errors.As(err, &invalid):
		return fmt.Sprintf("the broker's certificate is not valid (%v)", invalid)
	case errors.As(err, &record):
		return "the broker does not speak TLS on this port; is it mqtt:// instead of mqtts://?"
	case strings.Contains(err.Error(), "remote error: tls: "):
		_, alert, _ := strings.Cut(err.Error(), "remote error: tls: ")
		return fmt.Sprintf("the broker refused the TLS connection (%s); does it want a client certificate (%[2]stls.cert) or another version (%[2]stls.min_version)?", alert, k.config)
	case errors.As(err, &dns):
		return fmt.Sprintf("the name %q is not known (%s)", dns.Name, dns.Err)
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nothing listens there (connection refused)"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return "the host cannot be reached; is the network up?"
	case closed(err) && secure:
		return fmt.Sprintf("the broker closed the connection (it was stopped, does not take this protocol on this port, or another client uses the same %[1]sclient_id; if this port is one without TLS, write mqtt:// instead of mqtts://)", k.config)
	case closed(err):
		return fmt.Sprintf("the broker closed the connection (it was stopped, does not take this protocol on this port, or another client uses the same %[1]sclient_id)", k.config)
	case errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &netErr) && netErr.Timeout():
		return "the broker does not answer (time-out)"
	case strings.HasPrefix(err.Error(), "connection lost before "): // paho's, which has no type for it
		return "the broker took a message and closed the connection without acknowledging it (a cluster that is choosing a leader does)"
	case strings.Contains(err.Error(), "bad handshake"):
		return fmt.Sprintf("the server there refused the websocket; is the path in %[1]surl right?", k.config)
	}
	return err.Error()
}

// explain says in words why a connection to a broker failed.
func (s *Sink) explain(err error, broker *url.URL) string {
	return s.keys().explain(err, broker.Scheme == "mqtts" || broker.Scheme == "wss")
}

// namesNothing reports whether a certificate is for no name or address at all:
// since RFC 6125, one that has a common name only is.
func namesNothing(c *x509.Certificate) bool {
	return len(c.DNSNames)+len(c.IPAddresses)+len(c.URIs)+len(c.EmailAddresses) == 0
}

func closed(err error) bool {
	var frame *websocket.CloseError
	var told *mqttclient.Disconnected
	if errors.As(err, &frame) || errors.As(err, &told) {
		return true
	}
	for _, e := range []error{io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
