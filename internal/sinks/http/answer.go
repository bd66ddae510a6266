package httpsink

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// This file is what answers mean.

// verdict is what becomes of a request.
type verdict byte

const (
	done  verdict = iota
	again         // the destination is away, or busy
	never         // it refuses this request for what it is
	wrong         // it is not the right one, or does not let us in: nothing gets there
)

// answer is the outcome of one attempt.
type answer struct {
	verdict verdict
	// cause says what happened, the same each time for the same; advice what
	// to do, and said what the destination wrote.
	cause, advice, said string
	after               time.Duration // how long it asks to wait; 0 if it does not
	began               time.Time
}

func (a *answer) Error() string {
	text := a.cause
	if a.said != "" {
		text += fmt.Sprintf(" (%s)", a.said)
	}
	return text
}

// Bounds of what is read of an answer.
const (
	maxAnswer       = 64 << 10
	maxAnswerHeader = 64 << 10
	maxSaid         = 200 // bytes of it in messages
	// bodyPatience is how long a body may take behind a status that says it all.
	bodyPatience = time.Second
	// longestAfter bounds what Retry-After asks for.
	longestAfter = time.Hour
)

// attempt sends a request once.
func (s *Sink) attempt(ctx context.Context, m *message) answer {
	began := time.Now()
	// What is on its way when ctx ends may still be answered.
	actx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.opt.Timeout)
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(s.pauses.grace, cancel) })()
	r, err := http.NewRequestWithContext(actx, s.opt.Method, m.url.String(), bytes.NewReader(m.body))
	if err != nil {
		return answer{verdict: never, cause: "its request cannot be made: " + s.redact.Replace(bare(err).Error()), began: began}
	}
	r.Header = m.header.Clone()
	if len(s.keys) > 0 {
		sign(r.Header, s.keys, m.id, began, m.body)
	}
	response, err := s.client.Do(r)
	if err != nil {
		return answer{verdict: again, cause: s.why(err), began: began}
	}
	defer response.Body.Close()
	a := s.judge(response)
	a.began = began
	if response.StatusCode < 200 {
		return a // no answer: behind a 101 there is another protocol
	}
	patience := time.AfterFunc(bodyPatience, cancel)
	body, _ := io.ReadAll(io.LimitReader(response.Body, maxAnswer)) // what came counts
	patience.Stop()
	s.look(&a, response.StatusCode, body)
	return a
}

// bare is an error without the URL that net/http puts before it.
func bare(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		return u.Err
	}
	return err
}

// why says what is wrong between here and the destination.
func (s *Sink) why(err error) string {
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Sprintf("%s did not answer within %s", s.host, s.opt.Timeout)
	}
	return fmt.Sprintf("%s: %s", s.host, s.redact.Replace(bare(err).Error()))
}

// judge says what a status means.
func (s *Sink) judge(r *http.Response) answer {
	status := strconv.Itoa(r.StatusCode)
	if text := http.StatusText(r.StatusCode); text != "" {
		status += " " + text
	}
	a := answer{cause: fmt.Sprintf("%s answers %s", s.host, status)}
	switch code := r.StatusCode; {
	case code >= 200 && code < 300:
		a.verdict = done
	case code == 408 || code == 425 || code == 429 || code >= 500 || code < 200:
		a.verdict = again
		a.after = retryAfter(r.Header.Get("Retry-After"), time.Now())
	case code < 400:
		a.verdict, a.advice = wrong, s.elsewhere(r)
	default:
		if advice, known := advices[code]; known {
			a.verdict, a.advice = wrong, advice
		} else {
			a.verdict = never
		}
	}
	return a
}

// advices are what to do about answers that are about no event.
var advices = map[int]string{
	401: "correct username and password, token, or signing",
	403: "give this user or token the right to send there, or correct it",
	404: "nothing takes events there; correct url",
	405: "correct method or url",
	407: "the proxy wants a user and a password; write them into the variable HTTPS_PROXY or HTTP_PROXY",
	410: "it is gone for good; correct url, or remove this sink",
}

// elsewhere is the advice about a redirect.
func (s *Sink) elsewhere(r *http.Response) string {
	to, err := r.Location()
	switch {
	case err != nil:
		return "redirects are not followed; correct url"
	case to.Host == r.Request.URL.Host && to.Scheme == r.Request.URL.Scheme:
		return "it redirects to another path of the same host, and redirects are not followed; correct url"
	}
	return fmt.Sprintf("it redirects to %s, and redirects are not followed, since what is sent may be secret; correct url if that is right", cut(printable(s.redact.Replace(to.Scheme+"://"+to.Host)), maxSaid))
}

// retryAfter reads the header, seconds or a date; 0 is none (RFC 9110, section
// 10.2.3).
func retryAfter(text string, now time.Time) time.Duration {
	text = strings.TrimSpace(text)
	if seconds, err := strconv.ParseFloat(text, 64); err == nil {
		return bounded(seconds)
	}
	if at, err := http.ParseTime(text); err == nil {
		return bounded(at.Sub(now).Seconds())
	}
	return 0
}

func bounded(seconds float64) time.Duration {
	switch {
	case !(seconds > 0):
		return 0
	case seconds > longestAfter.Seconds():
		return longestAfter
	}
	return time.Duration(seconds * float64(time.Second))
}

// look adds what a body says.
func (s *Sink) look(a *answer, status int, body []byte) {
	if status == 429 && a.after == 0 {
		a.after = bodyAfter(body)
	}
	text := strings.TrimSpace(string(body))
	if s.opt.Preset == presetHealthchecks && a.verdict == done {
		// It says so behind a 200, so that those who retry on errors do not.
		switch {
		case strings.Contains(text, "(not found)"):
			a.verdict, a.cause, a.advice = wrong, s.host+" answers that there is no such check", "correct url"
		case strings.Contains(text, "(rate limited)"):
			a.verdict, a.cause, a.after = again, s.host+" answers that pings come too fast", time.Minute
		}
	}
	if s.opt.Preset == presetHealthchecks && status == 409 { // the slug is that of several checks
		a.verdict, a.advice = wrong, "correct url: write the UUID of the check"
	}
	if a.verdict != done && !strings.HasPrefix(text, "<") { // not a page
		a.said = cut(printable(s.redact.Replace(cut(text, maxAnswer))), maxSaid)
	}
}

// bodyAfter is how long a 429 of Discord or Telegram asks to wait.
func bodyAfter(body []byte) time.Duration {
	var v struct {
		RetryAfter float64 `json:"retry_after"`
		Parameters struct {
			RetryAfter float64 `json:"retry_after"`
		} `json:"parameters"`
	}
	if json.Unmarshal(body, &v) != nil {
		return 0
	}
	return bounded(max(v.RetryAfter, v.Parameters.RetryAfter))
}

func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "_"))
}
