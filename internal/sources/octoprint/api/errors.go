package api

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"

	"github.com/gorilla/websocket"
)

// Kind is what an answer, or the lack of one, means.
type Kind uint8

const (
	// Away is an OctoPrint that is off, boots, or cannot be reached now.
	Away Kind = iota
	// Key is a key that is wrong or was revoked.
	Key
	// Proxy is a proxy in front that wants a user name and a password.
	Proxy
	// Certificate is a server that cannot prove who it is.
	Certificate
	// Foreign is an answer that OctoPrint does not give.
	Foreign
	// Busy is an OctoPrint that was asked too often.
	Busy
	// Refused is what OctoPrint does not do, and says why; or that the key's user
	// may not do.
	Refused
)

// Permission is what a user of OctoPrint may do, by its name there.
type Permission string

// Permissions that are needed: MaySee by each source, others by commands.
const (
	MaySee     Permission = "Status"
	MayPrint   Permission = "Print"
	MayConnect Permission = "Connection"
	MayControl Permission = "Control"
	MayWatch   Permission = "Webcam"
)

// String names a kind.
func (k Kind) String() string {
	return [...]string{Away: "away", Key: "key", Proxy: "proxy", Certificate: "certificate", Foreign: "foreign", Busy: "busy", Refused: "refused"}[k]
}

// Error is what went wrong, in words for people.
type Error struct {
	Kind Kind
	Text string
	// Hint is what to do, for a source that goes on trying; it may be empty.
	Hint string
}

func (e *Error) Error() string {
	if e.Hint == "" {
		return e.Text
	}
	return e.Text + "; " + e.Hint
}

// KindOf returns the kind of an error of this package. An error of another
// kind is one of the network, and so Away.
func KindOf(err error) Kind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return Away
}

// refusal is the error for statuses that mean the same whatever was asked.
func refusal(r *http.Response, body []byte) error {
	html := strings.HasPrefix(r.Header.Get("Content-Type"), "text/html") || strings.HasPrefix(strings.TrimSpace(string(body)), "<")
	switch s := r.StatusCode; {
	case s == http.StatusUnauthorized:
		return &Error{Kind: Proxy}
	case (s == http.StatusBadRequest || s == http.StatusForbidden) && !html:
		return &Error{Kind: Key, Text: fmt.Sprint(s)} // 400 is what OctoPrint says of a wrong key: it takes the request for a browser's
	case s == http.StatusTooManyRequests:
		return &Error{Kind: Busy, Text: "it was asked too often"}
	case s >= 500:
		return &Error{Kind: Away, Text: fmt.Sprintf("status %d", s)}
	case s >= 300 && s < 400:
		return &Error{Kind: Foreign, Text: fmt.Sprintf("it sends elsewhere, to %s; write that address as url", where(r))}
	case s == http.StatusOK && html:
		return &Error{Kind: Away, Text: "a page instead of an answer"} // while it boots
	}
	return nil
}

// where is what a redirect leads to, less what may be secret.
func where(r *http.Response) string {
	u, err := r.Location()
	if err != nil {
		return "an address that cannot be read"
	}
	return Clean((&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String(), maxSaid)
}

// explain says an error in words, and what to do about it.
func (c *Client) explain(err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	say := func(kind Kind, hint, format string, args ...any) error {
		return &Error{kind, fmt.Sprintf("OctoPrint at %s ", c.options.URL) + Clean(fmt.Sprintf(format, args...), maxError), hint}
	}
	e, ok := errors.AsType[*Error](err)
	if !ok {
		if text, hint := certificate(err); text != "" {
			return say(Certificate, hint, "cannot be trusted: %s", text)
		}
		return say(Away, "is it switched on, and url right? event2mqtt connects when it is there", "cannot be reached (%s)", network(err))
	}
	switch e.Kind {
	case Key:
		return say(Key, fmt.Sprintf("get a new one: event2mqtt connect octoprint %s --renew", c.options.URL), "refuses the API key (status %s): it is wrong or was revoked", e.Text)
	case Proxy:
		return say(Proxy, "set username and password", "is behind a proxy that asks for a user name and a password (status 401)")
	case Busy:
		return say(Busy, "event2mqtt tries again", "was asked too often and refuses for now")
	case Away:
		return say(Away, "event2mqtt connects when it is", "is starting, or is not there behind its proxy (%s)", e.Text)
	}
	return say(e.Kind, "is url right, the path included?", "does not answer as OctoPrint does: %s", e.Text)
}

// network says in words what a failed connection failed of.
func network(err error) string {
	if e, ok := errors.AsType[*url.Error](err); ok && !e.Timeout() {
		err = e.Err
	}
	timeout, isNet := errors.AsType[net.Error](err)
	dns, isDNS := errors.AsType[*net.DNSError](err)
	switch {
	case isDNS:
		return "there is no host " + Clean(dns.Name, maxSaid)
	case errors.Is(err, context.DeadlineExceeded), isNet && timeout.Timeout():
		return "no answer"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return "no route to it"
	case errors.Is(err, websocket.ErrBadHandshake):
		return "no WebSocket"
	}
	return Clean(err.Error(), maxSaid) // a header that cannot be read stands in it as it came
}

// certificate says what is wrong with a certificate, if that is it, and what to
// do.
func certificate(err error) (text, hint string) {
	unknown, isUnknown := errors.AsType[x509.UnknownAuthorityError](err)
	name, isName := errors.AsType[x509.HostnameError](err)
	invalid, isInvalid := errors.AsType[x509.CertificateInvalidError](err)
	plain, isPlain := errors.AsType[tls.RecordHeaderError](err)
	switch {
	case isUnknown:
		return Clean(unknown.Error(), maxSaid), "set tls.ca to the authority's certificate, or tls.insecure: true"
	case isName:
		return Clean(name.Error(), maxSaid), "write the certificate's name in url"
	case isInvalid:
		return Clean(invalid.Error(), maxSaid), ""
	case isPlain:
		return plain.Msg, "write http:// in url"
	}
	return "", ""
}
