package api

import (
	"context"
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"event2mqtt/internal/event"
	"event2mqtt/internal/journal"
	"event2mqtt/internal/web/problem"
)

// This file is what there is: devices, topics, clients, the configuration, and
// what can be done with each.

func (a *API) getDevices(w http.ResponseWriter, _ call) error {
	return answer(w, http.StatusOK, map[string]any{"devices": a.state().Devices})
}

// pictures are the types that a browser shows and runs nothing of.
var pictures = []string{"image/jpeg", "image/png", "image/gif", "image/webp"}

func (a *API) getPicture(w http.ResponseWriter, c call) error {
	picture, kind, err := a.o.Program.Picture(c.PathValue("device"))
	if err != nil {
		return err
	}
	if !slices.Contains(pictures, kind) {
		return notFound("what this device gives as its picture is none that a page may show")
	}
	w.Header().Set("Content-Type", kind)
	_, _ = w.Write(picture) // the sender may be gone
	return nil
}

// postCommand has a device do something.
func (a *API) postCommand(w http.ResponseWriter, c call) error {
	payload, err := body(w, c, 8<<10)
	if err != nil {
		return err
	}
	device, command := c.PathValue("device"), c.PathValue("action")
	ctx, cancel := context.WithCancel(c.Context())
	defer cancel()
	defer context.AfterFunc(a.ending, cancel)()
	a.done(c, fmt.Sprintf("asks device %q for command %q", short(device), short(command)))
	reply, err := a.o.Program.Do(ctx, device, command, payload, c.who.Name)
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, map[string]any{"result": "done", "reply": reply})
}

// Bounds of a list of topics.
const (
	maxTopics = 2000
	maxValue  = 1024 // bytes of a value
)

// topicEntry is the last value of a topic.
type topicEntry struct {
	Topic    string `json:"topic"`
	Value    string `json:"value"`
	Time     *Time  `json:"time"`  // null if nobody knows
	Count    int    `json:"count"` // in the part of the journal that was looked at
	Size     int    `json:"size"`  // bytes of the value
	Retained bool   `json:"retained"`
}

// getTopics answers the last values of topics: what the bundled broker retains,
// and what this program has published as far as memory and one look at the
// journal tell.
func (a *API) getTopics(w http.ResponseWriter, c call) error {
	prefix := c.FormValue("prefix")
	found, cut := map[string]*topicEntry{}, false
	add := func(t topicEntry) *topicEntry {
		e := found[t.Topic]
		if e == nil {
			if len(found) >= maxTopics {
				cut = true
				return nil
			}
			e = &topicEntry{Topic: t.Topic}
			found[t.Topic] = e
		}
		e.Value, e.Size = t.Value, t.Size
		if t.Time != nil {
			e.Time = t.Time
		}
		return e
	}
	if b := a.o.Program.Broker(); b != nil {
		b.Retained(prefix, func(m Received) bool {
			t := topicEntry{Topic: m.Topic, Value: value(m.Payload), Size: len(m.Payload)}
			if !m.Received.IsZero() {
				t.Time = &Time{m.Received}
			}
			e := add(t)
			if e != nil {
				e.Retained = true
			}
			return e != nil
		})
	}
	const looked = 2000 // events
	last := a.o.Journal.Stats().Last
	err := a.read(c.Context(), last-min(last, looked)+1, last, func(e *journal.Entry) bool {
		route := a.o.Program.Route(e)
		if route.Topic == "" || !strings.HasPrefix(route.Topic, prefix) {
			return true
		}
		payload := e.Payload
		if e.Route.Raw {
			payload, _ = event.Raw(e.Payload)
		}
		if before := found[route.Topic]; before != nil && before.Retained {
			before.Count++
			return true // the broker has what is newest
		}
		if t := add(topicEntry{Topic: route.Topic, Value: value(payload), Time: &Time{e.Time}, Size: len(payload)}); t != nil {
			t.Count++
		}
		return true
	})
	if err != nil {
		return err
	}
	all := make([]*topicEntry, 0, len(found))
	for _, t := range found {
		all = append(all, t)
	}
	slices.SortFunc(all, func(x, y *topicEntry) int { return strings.Compare(x.Topic, y.Topic) })
	return answer(w, http.StatusOK, map[string]any{"topics": all, "left_out": cut})
}

// value is a payload as people read it.
func value(payload []byte) string {
	cut := payload[:min(len(payload), maxValue)]
	return strings.ToValidUTF8(string(cut), "\uFFFD")
}

// bundled is the bundled broker, or why there is none.
func (a *API) bundled() (Bundled, error) {
	if b := a.o.Program.Broker(); b != nil {
		return b, nil
	}
	return nil, notFound("events go to another broker; only the bundled one tells this")
}

func (a *API) getRetained(w http.ResponseWriter, c call) error {
	b, err := a.bundled()
	if err != nil {
		return err
	}
	name := c.PathValue("topic")
	var found *Received
	b.Retained(name, func(m Received) bool {
		if m.Topic == name {
			found = &m
			return false
		}
		return true
	})
	if found == nil {
		return notFound("nothing is retained for this topic")
	}
	found.Stored = true
	return answer(w, http.StatusOK, json.RawMessage(found.json()))
}

// deleteRetained removes one retained message.
func (a *API) deleteRetained(w http.ResponseWriter, c call) error {
	b, err := a.bundled()
	if err != nil {
		return err
	}
	name := c.PathValue("topic")
	ok, err := b.Unretain(c.Context(), name)
	if err != nil {
		return err
	}
	if !ok {
		return notFound("nothing is retained for this topic")
	}
	a.done(c, fmt.Sprintf("removes the retained message of %q", name))
	return answer(w, http.StatusOK, json.RawMessage("{}"))
}

func (a *API) getClients(w http.ResponseWriter, _ call) error {
	b, err := a.bundled()
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, map[string]any{"clients": b.Clients(), "accounts": b.Accounts()})
}

// deleteClient ends a client's connection.
func (a *API) deleteClient(w http.ResponseWriter, c call) error {
	b, err := a.bundled()
	if err != nil {
		return err
	}
	id, user := c.PathValue("client"), c.FormValue("user")
	if !b.Kick(id, user) {
		return notFound("no client with this id is connected")
	}
	a.done(c, fmt.Sprintf("ends the connection of MQTT client %q", short(id)))
	return answer(w, http.StatusOK, json.RawMessage("{}"))
}

func (a *API) getConfig(w http.ResponseWriter, _ call) error {
	return answer(w, http.StatusOK, map[string]any{"options": a.o.Program.Config()})
}

func (a *API) getSchema(w http.ResponseWriter, _ call) error {
	w.Header().Set("Content-Type", "application/schema+json")
	_, _ = w.Write(a.o.Program.Schema()) // the sender may be gone
	return nil
}

// postReload answers when the reload is over: 200, or 422 with what is wrong.
func (a *API) postReload(w http.ResponseWriter, c call) error {
	outcome, ok, err := a.o.Program.Reload(c.Context())
	if err != nil {
		return problem.New(http.StatusServiceUnavailable, err.Error())
	}
	a.done(c, "has reloaded the configuration")
	return answer(w, done(ok), outcome)
}

// done is the status of what was done, or in part.
func done(ok bool) int {
	if ok {
		return http.StatusOK
	}
	return http.StatusUnprocessableEntity
}

func (a *API) getRefused(w http.ResponseWriter, _ call) error {
	list, ok := a.o.Program.Refused()
	return answer(w, done(ok), list)
}

func (a *API) postRefused(w http.ResponseWriter, c call) error {
	text, err := body(w, c, 1<<20)
	if err != nil {
		return err
	}
	outcome, ok, err := a.o.Program.DoRefused(c.Context(), text)
	if err != nil {
		return err
	}
	return answer(w, done(ok), outcome)
}

// postSession logs in: with JSON, which is answered with it, or with a form,
// which leads back to the page.
func (a *API) postSession(w http.ResponseWriter, c call) error {
	text, err := body(w, c, 4096)
	if err != nil {
		return err
	}
	kind, _, _ := mime.ParseMediaType(c.Header.Get("Content-Type"))
	if kind == "application/x-www-form-urlencoded" {
		form, err := url.ParseQuery(string(text))
		if err != nil {
			return problem.New(http.StatusBadRequest, "the form cannot be read")
		}
		if why := a.o.Access.Login(w, c.Request, form.Get("token")); why != nil {
			return why
		}
		w.Header().Set("Location", "../../") // wherever a proxy has put the page
		w.WriteHeader(http.StatusSeeOther)
		return nil
	}
	var r struct {
		Token string `json:"token"`
	}
	if err := decode(text, &r); err != nil {
		return err
	}
	if why := a.o.Access.Login(w, c.Request, r.Token); why != nil {
		return why
	}
	return answer(w, http.StatusOK, json.RawMessage("{}"))
}

func (a *API) deleteSession(w http.ResponseWriter, c call) error {
	a.o.Access.Logout(w, c.Request)
	return answer(w, http.StatusOK, json.RawMessage("{}"))
}
