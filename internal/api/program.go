package api

import (
	"context"
	"encoding/json"
	"time"

	"event2mqtt/internal/journal"
)

// Program is what the API is about, and does what is asked for. Its errors are
// *problem.Details where the sender can do something about it.
type Program interface {
	// State is how the program is; Now, Host, Replay and curves are set here.
	State() State
	// Run names this run of the program.
	Run() string
	// MainSink is the name of the sink whose deliveries are shown.
	MainSink() string
	// Acked is the number of the newest event up to which that sink is done.
	Acked() uint64
	// RefusedIDs are the ids of events that no broker takes.
	RefusedIDs() map[string]struct{}
	// Refusal says why the main sink's broker does not take an event whose id is
	// one of RefusedIDs, and "" if it is another sink that has refused it. It
	// reads a file.
	Refusal(id string) (why string)
	// Route is how the main sink publishes an event.
	Route(*journal.Entry) Route
	// TimestampField is the member of a payload that holds its time.
	TimestampField() string
	// MaxPayload bounds a payload, in bytes.
	MaxPayload() int

	// Emit sends an event through the rules, as a source does. source may be
	// empty.
	Emit(ctx context.Context, source, name string, payload []byte) (Emitted, error)
	// Try tells what would become of an event, without sending it.
	Try(source, name string, payload []byte) (Tried, error)
	// Publish stores a message that is published as it is.
	Publish(ctx context.Context, m Message) (Emitted, error)
	// Again stores an event once more.
	Again(ctx context.Context, e *journal.Entry) error

	// Broker is the bundled one; nil if there is none.
	Broker() Bundled
	// Subscribe gives messages of a filter to use, on one goroutine, until
	// cancel returns. lost, if it is not nil, is closed when none will come
	// any more.
	Subscribe(ctx context.Context, filter string, use func(Received)) (lost <-chan struct{}, cancel func(), err error)

	// Do has a thing do something, and returns what it says.
	Do(ctx context.Context, device, command string, payload []byte, by string) (json.RawMessage, error)
	// Picture is the newest one of a thing, and its media type.
	Picture(device string) (picture []byte, mediaType string, err error)

	Config() []Option
	Schema() []byte
	Reload(ctx context.Context) (outcome any, ok bool, err error)
	Refused() (list any, ok bool)
	DoRefused(ctx context.Context, request []byte) (outcome any, ok bool, err error)
	// ClearLeftover clears at the broker what the plugin OctoPrint-HomeAssistant
	// has left there, or looks for it.
	ClearLeftover(ctx context.Context, request []byte) (report any, ok bool, err error)
}

// Emitted is an event that was accepted.
type Emitted struct {
	ID   string
	Seq  uint64 // 0 if it is not stored
	Fate Fate
	// Delivered waits until the event is delivered.
	Delivered func(context.Context) error
}

// Tried is what would become of an event.
type Tried struct {
	Steps   []Step     `json:"steps"`
	Publish *Published `json:"publish"`
}

// Step is what one rule does.
type Step struct {
	Rule Rule   `json:"rule"`
	Does string `json:"does"`
}

// Published is a message as it would be published.
type Published struct {
	Topic   string          `json:"topic"`
	QoS     byte            `json:"qos"`
	Retain  bool            `json:"retain"`
	Payload json.RawMessage `json:"payload"`
}

// Message is one that is published as it is.
type Message struct {
	Topic    string
	Payload  []byte
	Encoding string // of package event
	QoS      byte
	Retain   bool
}

// Received is a message as a subscription gets it.
type Received struct {
	Topic    string
	Payload  []byte
	QoS      byte
	Retain   bool
	Stored   bool // it was retained before the subscription
	Received time.Time
}

// Bundled is the bundled broker.
type Bundled interface {
	Clients() []Client
	Kick(id, user string) bool
	// Retained calls use with what is retained and begins with a prefix, in the
	// order of topics, until it returns false.
	Retained(prefix string, use func(Received) bool)
	// Unretain removes what a topic retains, and reports whether it did.
	Unretain(ctx context.Context, topic string) (bool, error)
	Accounts() []Account
}

// Client is one that is connected to the bundled broker.
type Client struct {
	ID            string   `json:"id"`
	User          string   `json:"user"`
	Address       string   `json:"address"`
	Protocol      string   `json:"protocol"` // 3.1, 3.1.1 or 5
	Session       string   `json:"session"`  // kept or clean
	KeepAlive     int      `json:"keep_alive"`
	Subscriptions []string `json:"subscriptions"` // at most 100
	Filters       int      `json:"filters"`       // how many there are
	Queue         int      `json:"queue"`         // messages
	Since         Time     `json:"since"`
	Will          string   `json:"will,omitempty"` // the topic of its last will
}

// Account is one that may log in to the bundled broker.
type Account struct {
	Name string `json:"name"`
	Kind string `json:"kind"` // user or device
	Seen *Time  `json:"seen"` // when it logged in last
}

// Option is an option as it is in use. Secrets are masked.
type Option struct {
	Key    string `json:"key"`
	Value  string `json:"value"`
	Origin string `json:"origin"`
}
