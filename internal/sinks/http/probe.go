package httpsink

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"
)

// probePatience bounds a try.
const probePatience = 10 * time.Second

// Probe implements sinks.Prober: whether the host, or the proxy before it, takes
// connections, and shows a certificate that is trusted. It sends no request: to
// many destinations any request is an event.
func (s *Sink) Probe(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, min(s.opt.Timeout, probePatience))
	defer cancel()
	transport := s.client.Transport.(*http.Transport)
	proxy, err := transport.Proxy(&http.Request{URL: s.url.base})
	if err != nil {
		return "", errors.New("the proxy that the environment names is not a URL")
	}
	at, secure, what := s.url.base, s.url.base.Scheme == "https", s.host
	if proxy != nil {
		at, secure, what = proxy, false, "the proxy "+proxy.Host
	}
	port := at.Port()
	if port == "" {
		port = map[string]string{"https": "443", "socks5": "1080"}[at.Scheme]
	}
	if port == "" {
		port = "80"
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(at.Hostname(), port))
	if err != nil {
		return "", errors.New(s.why(err))
	}
	defer conn.Close()
	if secure {
		c := transport.TLSClientConfig.Clone()
		if c.ServerName == "" {
			c.ServerName = at.Hostname()
		}
		if err := tls.Client(conn, c).HandshakeContext(ctx); err != nil {
			return "", errors.New(s.why(err))
		}
	}
	detail := fmt.Sprintf("%s takes connections; nothing was sent", what)
	if s.opt.Preset == "homeassistant" {
		detail += "; Home Assistant answers 200 also where there is no such webhook, so try it with an automation"
	}
	return detail, nil
}
