package api

import (
	"context"
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"slices"

	"event2mqtt/internal/web/problem"
)

// This file is what there is: devices, clients, the configuration, and
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
	id, user := c.PathValue("client"), c.param("user")
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
	a.done(c, fmt.Sprintf("deals with refused events: %q", short(string(text))))
	return answer(w, done(ok), outcome)
}

func (a *API) postLeftover(w http.ResponseWriter, c call) error {
	text, err := body(w, c, 64<<10)
	if err != nil {
		return err
	}
	report, ok, err := a.o.Program.ClearLeftover(c.Context(), text)
	if err != nil {
		return err
	}
	a.done(c, fmt.Sprintf("deals with what OctoPrint-HomeAssistant has left: %q", short(string(text))))
	return answer(w, done(ok), report)
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
