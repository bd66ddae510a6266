package httpsink

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"unicode"

	"event2mqtt/internal/journal"
)

// maxURL bounds an event's URL, in bytes: most servers take 8,000 (RFC 9112,
// section 3).
const maxURL = 8000

// address is where requests go. Its host is the same for all events, and so is
// how many levels its path has.
type address struct {
	base  *url.URL // without path, query and the like
	parts template
}

// origin is a URL's scheme and authority.
var origin = regexp.MustCompile(`^(?i:https?)://[^/?#\\]*`)

// parseAddress reads a URL with placeholders behind its host. No error repeats
// it: it may hold a secret. The text behind is added to its path.
func parseAddress(text string, behind part) (a address, err error) {
	text = strings.TrimSpace(text)
	at := origin.FindString(text)
	if at == "" {
		return a, errors.New("it does not begin with http:// or https://; write for example https://host.example/path")
	}
	if strings.ContainsAny(at, "{}") {
		return a, errors.New("a placeholder must be behind the host: an event may not choose where it is sent")
	}
	if a.base, err = url.Parse(at); err != nil {
		return a, errors.New("its host is not one; write for example https://host.example/path")
	}
	switch n, err := strconv.Atoi(a.base.Port()); {
	case a.base.Hostname() == "":
		return a, errors.New("it names no host; write for example https://host.example/path")
	case a.base.Port() != "" && (err != nil || n < 1 || n > 65535):
		return a, fmt.Errorf("it names port %s; there are 1 to 65535", a.base.Port())
	case a.base.User != nil:
		return a, errors.New("it holds a user; set username and password instead")
	}
	rest := text[len(at):]
	if strings.Contains(rest, "#") {
		return a, errors.New("it has a #, and what is behind that is never sent; write %23 for the character itself")
	}
	if strings.ContainsFunc(rest, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }) {
		return a, errors.New("it holds white space; write %20 for a space")
	}
	path, query, hasQuery := strings.Cut(rest, "?")
	if behind.value != nil {
		path = strings.TrimRight(path, "/")
	} else if path == "" {
		path = "/"
	}
	if a.parts, err = parse(path, asURL); err != nil {
		return a, err
	}
	if behind.value != nil {
		a.parts = append(a.parts, behind)
	}
	if hasQuery {
		more, err := parse("?"+query, asURL)
		if err != nil {
			return a, err
		}
		a.parts = append(a.parts, more...)
	}
	for segment := range strings.SplitSeq(path, "/") {
		if dots(segment) {
			return a, errors.New("its path goes up or stays with . or ..; write the path that it leads to")
		}
	}
	sample, err := url.Parse(a.base.String() + placeholder.ReplaceAllString(rest, "x"))
	if err != nil || sample.Host != a.base.Host {
		return a, errors.New("what is behind the host is not part of a URL; a % must be followed by two hexadecimal digits")
	}
	return a, nil
}

// placeholder is one, in a text that was parsed.
var placeholder = regexp.MustCompile(`\{[A-Za-z][^}]*\}`)

// render returns the URL of an event.
func (a *address) render(e *journal.Entry, id string) (*url.URL, error) {
	rendered, _ := a.parts.render(e, id)
	path, query, hasQuery := strings.Cut(string(rendered), "?")
	segments := strings.Split(path, "/")
	for i, s := range segments {
		if dots(s) { // made of values: parseAddress has refused it in literals
			segments[i] = "_"
		}
	}
	text := a.base.String() + strings.Join(segments, "/")
	if hasQuery {
		text += "?" + query
	}
	if len(text) > maxURL {
		return nil, fmt.Errorf("its URL would have %d bytes; at most %d are sent", len(text), maxURL)
	}
	u, err := url.Parse(text)
	if err != nil || u.Host != a.base.Host || u.Scheme != a.base.Scheme || u.User != nil {
		return nil, errors.New("its URL would not be one of the host that is configured")
	}
	return u, nil
}

// dots reports whether a segment of a path would change its levels: servers
// resolve them also where they are percent-encoded (RFC 3986, section 6.2.2).
func dots(segment string) bool {
	plain, err := url.PathUnescape(segment)
	return err == nil && (plain == "." || plain == "..")
}

// appendSegment writes a value into a path: in one level, whatever it holds.
func appendSegment(out []byte, text string) []byte {
	if text == "" {
		return append(out, '_')
	}
	// An encoded slash is a slash to many servers.
	safe := strings.Map(func(r rune) rune {
		if r == '/' || r == '\\' || unicode.IsControl(r) {
			return '_'
		}
		return r
	}, strings.ToValidUTF8(text, "_"))
	return append(out, url.PathEscape(safe)...)
}

func appendQuery(out []byte, text string) []byte {
	return append(out, url.QueryEscape(strings.ToValidUTF8(text, "_"))...)
}

// secrets are the parts of a URL that may be some: all that is behind its host,
// and what of it is long enough not to be a word.
func (a *address) secrets() (all []string) {
	for _, p := range a.parts {
		if len(p.literal) > len("/") {
			all = append(all, p.literal)
		}
		for _, s := range strings.FieldsFunc(p.literal, func(r rune) bool { return strings.ContainsRune("/?&=", r) }) {
			if len(s) < minSecret {
				continue
			}
			all = append(all, s, strings.TrimPrefix(s, "bot")) // of Telegram
			if plain, err := url.PathUnescape(s); err == nil && plain != s {
				all = append(all, plain)
			}
		}
	}
	return all
}

// minSecret is how long a part of a URL must be to be kept out of messages.
const minSecret = 8
