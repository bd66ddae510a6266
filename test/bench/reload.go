package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
)

// reload changes one of 500 sources again and again, and asks how long each
// reload took.
func (b *bench) reload() error {
	const count, times = 500, 41
	sources := func(changed int) string {
		var s strings.Builder
		s.WriteString("sources:\n")
		for i := range count {
			token := "t"
			if i == count/2 {
				token = fmt.Sprint("t", changed)
			}
			fmt.Fprintf(&s, "  - {name: s%d, type: webhook, auth: {token: %s}}\n", i, token)
		}
		return s.String()
	}
	p, err := b.startBridge(sources(0))
	if err != nil {
		return err
	}
	defer p.end()
	var took []float64
	for i := range times {
		text := fmt.Sprintf("http: {listen: %q}\n%s", p.http, sources(i+1))
		if err := os.WriteFile(p.config, []byte(text), 0o600); err != nil {
			return err
		}
		r, err := http.Post("http://"+p.http+"/api/v1/reload", "", nil)
		if err != nil {
			return err
		}
		var answer struct {
			OK      bool
			TookMS  float64 `json:"took_ms"`
			Changed []string
		}
		err = json.NewDecoder(r.Body).Decode(&answer)
		_ = r.Body.Close()
		if err != nil || !answer.OK || len(answer.Changed) != 1 {
			return fmt.Errorf("reload %d: %+v, %w", i, answer, err)
		}
		took = append(took, answer.TookMS)
	}
	slices.Sort(took)
	b.add("reload of 500 sources, one changed, ms", fmt.Sprintf("%.0f", took[len(took)/2]), "<= 100", fmt.Sprintf("at least %.0f, at most %.0f", took[0], took[len(took)-1]))
	return nil
}
