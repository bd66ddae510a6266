package mqttest

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// WebSocket returns a function for Options.Dial that speaks MQTT over
// WebSocket. Each write is cut into messages of at most frame bytes, if that is
// not 0. TLS is used if secure is given.
func WebSocket(path string, frame int, secure *tls.Config, header http.Header) func(addr string) (net.Conn, error) {
	return func(addr string) (net.Conn, error) {
		d := websocket.Dialer{Subprotocols: []string{"mqtt"}, TLSClientConfig: secure, HandshakeTimeout: Patience}
		scheme := "ws://"
		if secure != nil {
			scheme = "wss://"
		}
		ws, _, err := d.Dial(scheme+addr+path, header)
		if err != nil {
			return nil, err
		}
		return &wsConn{Conn: ws, frame: frame}, nil
	}
}

type wsConn struct {
	*websocket.Conn
	frame  int
	reader io.Reader
	mu     sync.Mutex // one write at a time
}

func (c *wsConn) Read(p []byte) (int, error) {
	for {
		if c.reader == nil {
			_, r, err := c.NextReader()
			if err != nil {
				if websocket.IsCloseError(err, websocket.CloseNormalClosure) {
					err = io.EOF
				}
				return 0, err
			}
			c.reader = r
		}
		n, err := c.reader.Read(p)
		if err == io.EOF {
			c.reader, err = nil, nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

func (c *wsConn) Write(p []byte) (n int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for n < len(p) {
		part := p[n:]
		if c.frame > 0 && len(part) > c.frame {
			part = part[:c.frame]
		}
		if err := c.WriteMessage(websocket.BinaryMessage, part); err != nil {
			return n, err
		}
		n += len(part)
	}
	return n, nil
}

func (c *wsConn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}
