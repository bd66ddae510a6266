package lines_test

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"event2mqtt/internal/config"
	"event2mqtt/internal/event"
	"event2mqtt/internal/sources/tail/lines"
)

var update = flag.Bool("update", false, "write the messages of docs/tail-formats.md anew; read them before you commit them")

// example is one of the document's: options, a log, and its messages.
var example = regexp.MustCompile("(?s)```yaml\n(.*?)```\n\n```text\n(.*?)```\n\n```messages\n(.*?)```\n")

// TestDocumentedFormats runs the examples of docs/tail-formats.md.
func TestDocumentedFormats(t *testing.T) {
	const name = "../../../../docs/tail-formats.md"
	doc, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	found := example.FindAllSubmatchIndex(doc, -1)
	if n := bytes.Count(doc, []byte("```")); len(found) == 0 || n != 6*len(found) {
		t.Fatalf("%d examples, and %d fences, of which each should have 6", len(found), n)
	}
	var out []byte
	last := 0
	seen := map[string]bool{}
	for _, m := range found {
		c, got := messages(t, doc[m[2]:m[3]], doc[m[4]:m[5]])
		seen[c.Format] = true
		if want := string(doc[m[6]:m[7]]); got != want && !*update {
			t.Errorf("%sgives\n%swant\n%s", doc[m[2]:m[3]], got, want)
		}
		out = append(append(out, doc[last:m[6]]...), got...)
		last = m[7]
	}
	for _, format := range strings.Split(formats(t), ",") {
		if !seen[format] {
			t.Errorf("format %s has no example", format)
		}
	}
	if *update {
		if err := os.WriteFile(name, append(out, doc[last:]...), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// formats are the values that format may have.
func formats(t *testing.T) string {
	for _, o := range config.Describe(lines.Config{}) {
		if o.Name == "format" {
			return strings.Join(o.OneOf, ",")
		}
	}
	t.Fatal("there is no option format")
	return ""
}

// messages are those of a log that is read with options, as a subscriber sees
// them.
func messages(t *testing.T, options, log []byte) (lines.Config, string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(file, options, 0o600); err != nil {
		t.Fatal(err)
	}
	c := lines.Defaults()
	d, err := config.Load(file, nil, &c)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Decode(&c); err != nil {
		t.Fatal(err)
	}
	c.Prepare()
	r, err := lines.New(c, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	cs, bom := r.Charset(log)
	header, _, _ := bytes.Cut(log[bom:], []byte("\n"))
	var out strings.Builder
	for _, entry := range split(t, r, cs, log[bom:]) {
		events, why := r.Events(cs, []byte(entry), header, false)
		if why != "" {
			fmt.Fprintf(&out, "(skipped: %s)\n", why)
		}
		for _, e := range events {
			now := !e.Time.Before(begin)
			if err := (event.Normaliser{}).Normalise(&e); err != nil {
				t.Fatal(err)
			}
			payload := string(e.Payload)
			if now {
				payload = strings.Replace(payload, fmt.Sprintf(`"_timestamp":%d`, e.Time.Unix()), `"_timestamp":…`, 1)
			}
			fmt.Fprintf(&out, "event2mqtt/event/%s %s\n", e.Name, payload)
		}
	}
	return c, out.String()
}

// TestEveryOptionIsDescribed holds that no option is hidden by another whose
// field has the same name.
func TestEveryOptionIsDescribed(t *testing.T) {
	var names []string
	for _, o := range config.Describe(lines.Config{}) {
		names = append(names, o.Name)
	}
	const want = "format pattern delimiter multiline encoding parse event time_key time_format max_line"
	if got := strings.Join(names, " "); got != want {
		t.Errorf("%s\nnot %s", got, want)
	}
}
