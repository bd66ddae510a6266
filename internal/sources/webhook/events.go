package webhook

import (
	"bytes"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/tidwall/gjson"

	"event2mqtt/internal/event"
)

// maxBeside bounds the keys that each item of a split array gets from beside
// that array.
const maxBeside = 100

// items yields what events are made of: the values of the body, and of arrays
// their items.
func (c content) items() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		one := func(value []byte) bool {
			if len(value) == 0 || value[0] != '[' {
				return yield(value)
			}
			for item := range event.Items(value) {
				if !yield(item) {
					return false
				}
			}
			return true
		}
		if !c.several {
			one(c.json)
			return
		}
		for value := range values(c.json) {
			if !one(value) {
				return
			}
		}
	}
}

// maker makes the events of one request.
type maker struct {
	s      *Source
	name   string    // from the URL or the header
	at     time.Time // unless the payload tells
	now    time.Time
	names  []string // of what stands beside: parameters of the query, and headers
	beside [][]byte
	many   bool
	left   int64 // bytes that the events may yet hold
	events []event.Event
}

// events makes events of a request. They are counted before they are made.
func (s *Source) events(r *http.Request, q *request, body content) ([]event.Event, *refusal) {
	m := &maker{s: s, now: q.now, left: int64(s.config.MaxUnpacked)}
	var p *refusal
	if m.name, p = s.nameInURL(r); p != nil {
		return nil, p
	}
	if m.name == "" && s.config.Event.Header != "" {
		m.name = r.Header.Get(s.config.Event.Header)
	}
	m.many = body.several || len(body.json) > 0 && body.json[0] == '['
	n := 1
	if m.many {
		n = 0
		for range body.items() {
			if n++; n > s.config.MaxEvents {
				return nil, s.tooMany()
			}
		}
	}
	m.at = s.time(r, q)
	if p := m.addBeside(r, q); p != nil {
		return nil, p
	}
	m.events = make([]event.Event, 0, n)
	if !m.many {
		p := m.add(body.json)
		return m.events, p
	}
	i := 0
	for value := range body.items() {
		if p := m.add(value); p != nil {
			p.Detail = fmt.Sprintf("item %d: %s", i, p.Detail)
			return nil, p
		}
		i++
	}
	return m.events, nil
}

// time returns when a request's events happened, as far as it tells beside
// their payload.
func (s *Source) time(r *http.Request, q *request) time.Time {
	if name := s.config.TimeHeader; name != "" {
		if text := r.Header.Get(name); text != "" {
			return s.clock.Read(text, "time_header "+name, q.now).In(q.now.Location())
		}
	}
	if name := s.config.TimeQuery; name != "" {
		if text := q.query.text(name); text != "" {
			return s.clock.Read(text, "time_query "+name, q.now).In(q.now.Location())
		}
	}
	return q.now
}

// addBeside collects what of the query and the headers joins the payload.
func (m *maker) addBeside(r *http.Request, q *request) *refusal {
	c := &m.s.config
	if q.query != nil && (c.Query || r.Method == http.MethodGet) {
		m.names, m.beside = q.query.members()
	}
	for _, name := range c.Headers {
		if text := r.Header.Get(name); text != "" {
			text, err := m.s.field(text, m.s.charset)
			if err != nil {
				return refusef(http.StatusBadRequest, "the header %s is not in the character set of encoding", name)
			}
			f := field{strings.ToLower(name), []string{text}}
			m.names, m.beside = append(m.names, f.name), append(m.beside, f.member())
		}
	}
	if len(m.beside) == 0 {
		return nil
	}
	_, p := checked(beside([]byte("{}"), m.names, m.beside)) // for its depth
	return p
}

// nameInURL returns what stands behind /hooks/SOURCE/.
func (s *Source) nameInURL(r *http.Request) (string, *refusal) {
	path := strings.TrimPrefix(r.URL.EscapedPath(), "/")
	parts := strings.SplitN(path, "/", 3) // hooks, SOURCE, EVENT
	if len(parts) < 3 || parts[2] == "" {
		return "", nil
	}
	name, err := url.PathUnescape(parts[2])
	if err != nil || strings.Contains(parts[2], "/") {
		return "", refusef(http.StatusNotFound, "the path is /hooks/SOURCE or /hooks/SOURCE/EVENT; write %%2F for a slash in an event's name")
	}
	return name, nil
}

// add makes events of one value: one, or where it is split as many as there
// are items.
func (m *maker) add(value []byte) *refusal {
	c := &m.s.config
	name, payload := m.name, value
	if c.Preset == "octoprint" && name == "" && isObject(payload) {
		if inner := event.Member(payload, "event"); len(inner) > 0 && inner[0] == '{' { // the push API's form
			name, payload = event.Text(event.Member(inner, "type")), event.Member(inner, "payload")
		}
	}
	switch {
	case isObject(payload):
		if p := m.s.auth.body(&payload); p != nil {
			return p
		}
		if len(c.Parse) > 0 {
			payload = event.Open(payload, c.Parse...)
		}
	case c.Auth.BodySecret != "":
		return unauthorized("the key " + c.Auth.BodyKey + " of the body, with auth.body_secret")
	}
	payload = m.join(payload)
	if c.Split == "" || !isObject(payload) {
		return m.one(name, payload)
	}
	array := event.Find(payload, c.Split)
	if len(array) == 0 || array[0] != '[' {
		return m.one(name, payload)
	}
	n := len(m.events)
	for range event.Items(array) {
		if n++; n > c.MaxEvents {
			return m.s.tooMany()
		}
	}
	names, members, p := outside(payload, c.Split)
	if p != nil {
		return p
	}
	for item := range event.Items(array) {
		if !isObject(item) {
			item = append(append([]byte(`{"`+event.ValueField+`":`), item...), '}')
		}
		if p := m.one(name, beside(item, names, members)); p != nil {
			return p
		}
	}
	return nil
}

// join adds what stands beside to a payload. One that is no object goes under
// "value" then, where Normalise would have put it.
func (m *maker) join(payload []byte) []byte {
	if len(m.beside) == 0 {
		return payload
	}
	switch {
	case len(payload) == 0 || string(payload) == "null":
		payload = []byte("{}")
	case payload[0] != '{':
		payload = append(append([]byte(`{"`+event.ValueField+`":`), payload...), '}')
	}
	return beside(payload, m.names, m.beside)
}

// outside lists the members of an object but the one that a path leads into.
func outside(object []byte, path string) (names []string, members [][]byte, p *refusal) {
	if event.Member(object, path) == nil {
		path = path[:strings.IndexAny(path+".", ".[")]
	}
	taken := map[string]bool{path: true}
	gjson.ParseBytes(object).ForEach(func(key, value gjson.Result) bool {
		if name := key.String(); !taken[name] {
			if len(names) == maxBeside {
				p = refusef(http.StatusRequestEntityTooLarge, "the body has more than %d keys beside the array of split", maxBeside)
				return false
			}
			taken[name] = true
			names, members = append(names, name), append(members, []byte(key.Raw+":"+value.Raw))
		}
		return true
	})
	return names, members, p
}

// one makes one event.
func (m *maker) one(name string, payload []byte) *refusal {
	c := &m.s.config
	if m.left -= int64(len(payload)); m.left < 0 {
		return refusef(http.StatusRequestEntityTooLarge, "the events of the body hold more than %s together; send fewer at a time, or raise max_unpacked", c.MaxUnpacked)
	}
	e := event.Event{Source: c.Name, Time: m.at, Payload: payload, Checked: true}
	var object []byte
	if isObject(payload) {
		object = c.numbered(payload)
		e.Time, e.Payload = m.s.clock.Time(object, m.at), c.lifted(object)
	}
	if e.Name = c.Event.Name(name, object); e.Name == "" {
		return refusef(http.StatusBadRequest, "the event has no name; put it into the URL (/hooks/%s/NAME), the header %s, or one of the keys %s; or set event.keys, event.default or a preset",
			c.Name, c.Event.Header, strings.Join(c.Event.Keys, ", "))
	}
	m.events = append(m.events, e)
	return nil
}

func isObject(value []byte) bool {
	value = bytes.TrimLeft(value, " \t\r\n")
	return len(value) > 0 && value[0] == '{'
}
