package broker

import (
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"event2mqtt/internal/web/origin"
	"event2mqtt/internal/web/peer"
)

// WebSocketPath is where MQTT over WebSocket is spoken.
const WebSocketPath = "/mqtt"

// Gate says who may connect over WebSocket.
type Gate interface {
	// Check returns why the page that a request may be of must not connect.
	Check(r *http.Request) error
	// Sender is who sends a request, also behind a proxy that is trusted: a
	// stranger must not pass for a client on this machine.
	Sender(r *http.Request) netip.Addr
}

// ServeWebSocket accepts clients that speak MQTT over WebSocket on l until l
// or the broker is closed. It closes l.
func (b *Broker) ServeWebSocket(l net.Listener, gate Gate) error {
	defer l.Close()
	if !b.addListener(l) {
		return ErrClosed
	}
	defer b.removeListener(l)
	mux := http.NewServeMux()
	mux.Handle(WebSocketPath, b.WebSocket(gate))
	mux.Handle("/{$}", b.WebSocket(gate)) // what some clients ask for by default
	server := &http.Server{
		Handler: mux, ReadHeaderTimeout: b.limit().ConnectTimeout, ReadTimeout: b.limit().ConnectTimeout,
		MaxHeaderBytes: 8 << 10, ErrorLog: log.New(io.Discard, "", 0), // of peers that do not speak HTTP
		ConnState: b.countHTTP,
	}
	server.SetKeepAlivesEnabled(false)
	err := server.Serve(l)
	_ = server.Close() // those that have not become connections of ours
	if b.isClosed() || errors.Is(err, net.ErrClosed) {
		return ErrClosed
	}
	return err
}

// WebSocket returns a handler for MQTT over WebSocket (section 6). gate says who
// may use it; nil is that of origin.Options' zero value.
func (b *Broker) WebSocket(gate Gate) http.Handler {
	if gate == nil {
		gate = origin.New(origin.Options{})
	}
	upgrader := &websocket.Upgrader{
		HandshakeTimeout: b.limit().ConnectTimeout,
		ReadBufferSize:   1 << 10,
		WriteBufferSize:  4 << 10,
		WriteBufferPool:  &sync.Pool{},
		Subprotocols:     []string{"mqtt", "mqttv3.1"},             // MQTT-6.0.0-4; the other is that of 3.1
		CheckOrigin:      func(*http.Request) bool { return true }, // gate has
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !websocket.IsWebSocketUpgrade(r) {
			http.Error(w, "MQTT is spoken here over WebSocket, sub-protocol mqtt", http.StatusUpgradeRequired)
			return
		}
		if len(websocket.Subprotocols(r)) == 0 { // MQTT-6.0.0-3
			http.Error(w, "the WebSocket sub-protocol mqtt is needed", http.StatusBadRequest)
			return
		}
		if err := gate.Check(r); err != nil {
			b.warn("page "+peer.Network(peer.Connected(r)).String()).Stringer("from", gate.Sender(r)).Msg("broker: a web page was refused: " + err.Error())
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		ws, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			return // the client was told
		}
		if ws.Subprotocol() == "" {
			_ = ws.Close()
			return
		}
		nc := &wsConn{Conn: ws, remote: remoteAddr(gate.Sender(r), ws.RemoteAddr())}
		c := b.admit(nc)
		if c == nil {
			_ = nc.Close()
			return
		}
		go func() { // lets the HTTP server's memory go
			defer b.wg.Done()
			c.run()
		}()
	})
}

// remoteAddr is who connects: the peer, unless it speaks for somebody else.
func remoteAddr(sender netip.Addr, peer net.Addr) net.Addr {
	tcp, ok := peer.(*net.TCPAddr)
	if !ok || !sender.IsValid() || tcp.AddrPort().Addr().Unmap().WithZone("") == sender {
		return peer
	}
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(sender, 0))
}

// wsConn makes a stream of a WebSocket: packets need not begin or end with its
// messages (MQTT-6.0.0-2).
type wsConn struct {
	*websocket.Conn
	remote net.Addr
	reader io.Reader // of the current message

	mu  sync.Mutex
	end *time.Timer // closes the connection at the write deadline
}

func (c *wsConn) RemoteAddr() net.Addr { return c.remote }

func (c *wsConn) Read(p []byte) (int, error) {
	for {
		if c.reader == nil {
			kind, r, err := c.NextReader()
			if err != nil {
				if websocket.IsCloseError(err, websocket.CloseNormalClosure, websocket.CloseGoingAway) {
					err = io.EOF
				}
				return 0, err
			}
			if kind != websocket.BinaryMessage {
				return 0, errors.New("a WebSocket message is not binary") // MQTT-6.0.0-1
			}
			c.reader = r
		}
		n, err := c.reader.Read(p)
		if errors.Is(err, io.EOF) {
			c.reader, err = nil, nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

func (c *wsConn) Write(p []byte) (int, error) {
	if err := c.WriteMessage(websocket.BinaryMessage, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// SetWriteDeadline has the connection closed at t: the library's own deadline
// is for one goroutine, and does not end a write that is under way.
func (c *wsConn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.end != nil {
		c.end.Stop()
		c.end = nil
	}
	if !t.IsZero() {
		c.end = time.AfterFunc(time.Until(t), func() { _ = c.NetConn().Close() })
	}
	return nil
}

func (c *wsConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// CloseWrite says goodbye as WebSockets do.
func (c *wsConn) CloseWrite() error {
	return c.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(farewell))
}

func (c *wsConn) Close() error {
	_ = c.SetWriteDeadline(time.Time{})
	_ = c.CloseWrite()
	return c.Conn.Close()
}

// ConnectionState is that of TLS, or zero without it.
func (c *wsConn) ConnectionState() tls.ConnectionState {
	if t, ok := c.NetConn().(*tls.Conn); ok {
		return t.ConnectionState()
	}
	return tls.ConnectionState{}
}
