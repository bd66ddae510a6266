package webhook

import (
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"hash"
	"net/http"
	"strconv"
	"strings"
	"time"

	"event2mqtt/internal/config"
	"event2mqtt/internal/event"
)

// Headers of the signature schemes: GitHub's, those of the Standard Webhooks
// specification, and Stripe's.
const (
	headerGitHub            = "X-Hub-Signature-256"
	headerStandardID        = "Webhook-Id"
	headerStandardTime      = "Webhook-Timestamp"
	headerStandardSignature = "Webhook-Signature"
	headerStripe            = "Stripe-Signature"
)

// maxSignatures bounds the signatures that one request may offer.
const maxSignatures = 16

// authenticator checks who a sender is. All comparisons take the same time
// wherever the difference is; answers do not tell what was wrong beyond which
// proof is missing or does not hold.
type authenticator struct {
	config  AuthConfig
	key     []byte           // of the HMAC
	hash    func() hash.Hash // of the HMAC
	decode  func(string) ([]byte, error)
	isBasic bool
}

func newAuthenticator(c AuthConfig) authenticator {
	switch c.HMAC.Scheme {
	case schemeGitHub:
		c.HMAC.Header, c.HMAC.Prefix, c.HMAC.Encoding, c.HMAC.Algorithm = headerGitHub, "sha256=", "hex", "sha256"
	case schemeStandard, schemeStripe:
		c.HMAC.Algorithm = "sha256"
	}
	a := authenticator{config: c, key: []byte(c.HMAC.Secret), isBasic: c.Username != ""}
	a.hash = map[string]func() hash.Hash{"sha1": sha1.New, "sha256": sha256.New, "sha512": sha512.New}[c.HMAC.Algorithm]
	if a.decode = hex.DecodeString; c.HMAC.Encoding == "base64" {
		a.decode = base64.StdEncoding.DecodeString
	}
	if c.HMAC.Scheme == schemeStandard {
		a.key, _ = standardKey(c.HMAC.Secret) // was checked
	}
	return a
}

// signs reports whether bodies must be signed, and so be there as a whole
// before anything is done with them.
func (a *authenticator) signs() bool { return a.config.HMAC.Secret != "" }

func unauthorized(want string) *refusal {
	return refusef(http.StatusUnauthorized, "the request does not carry the credentials that this source wants: %s", want)
}

// option is the option that a secret was set with: auth.secret where the preset
// has put that in the place of another.
func (a *authenticator) option(place string, value config.Secret) string {
	if a.config.Secret != "" && value == a.config.Secret {
		return "auth.secret"
	}
	return place
}

// same compares secrets without telling their length by the time it takes.
func same(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}

// challenge is what a sender without credentials is told to use.
func (a *authenticator) challenge() string {
	if a.isBasic {
		return `Basic realm="event2mqtt"`
	}
	return "Bearer"
}

// request checks what a request proves before its body is read.
func (a *authenticator) request(r *http.Request, query *object) *refusal {
	if a.config.Token != "" {
		scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		if ok := same(token, string(a.config.Token)); !ok || !strings.EqualFold(scheme, "Bearer") {
			return unauthorized("the header Authorization with Bearer and " + a.option("auth.token", a.config.Token))
		}
	}
	if a.isBasic {
		user, password, _ := r.BasicAuth()
		userOK, passwordOK := same(user, a.config.Username), same(password, string(a.config.Password))
		if !userOK || !passwordOK {
			return unauthorized("auth.username and auth.password, by basic authentication")
		}
	}
	if h := a.config.SecretHeader; h.Name != "" && !same(r.Header.Get(h.Name), string(h.Value)) {
		return unauthorized("the header " + h.Name + " with what " + a.option("auth.secret_header", h.Value) + " says")
	}
	if q := a.config.SecretQuery; q.Name != "" && !same(query.take(q.Name), string(q.Value)) {
		return unauthorized("the query parameter " + q.Name + " with what auth.secret_query says")
	}
	return nil
}

// signature checks the signature over the body as it came.
func (a *authenticator) signature(r *http.Request, raw []byte, now time.Time) *refusal {
	if !a.signs() {
		return nil
	}
	switch a.config.HMAC.Scheme {
	case schemeStandard:
		return a.standard(r, raw, now)
	case schemeStripe:
		return a.stripe(r, raw, now)
	}
	h := &a.config.HMAC
	text, ok := strings.CutPrefix(r.Header.Get(h.Header), h.Prefix)
	sent, err := a.decode(strings.TrimSpace(text))
	if !ok || err != nil || !hmac.Equal(sent, a.sum(raw)) {
		return refusef(http.StatusUnauthorized, "the signature in %s is missing or does not match; is the secret the same on both sides?", h.Header)
	}
	return nil
}

// clock checks that a signature's time is near enough.
func (a *authenticator) clock(stamp, where string, now time.Time) *refusal {
	seconds, err := strconv.ParseInt(stamp, 10, 64)
	if err != nil {
		return refusef(http.StatusUnauthorized, "the time in %s is missing or malformed", where)
	}
	if now.Sub(time.Unix(seconds, 0)).Abs() > a.config.HMAC.Tolerance {
		return refusef(http.StatusUnauthorized, "the time in %s is too far from now; is the sender's clock right?", where)
	}
	return nil
}

// standard checks a signature as the Standard Webhooks specification has it:
// over id, time and body, any of several, within a window of time.
func (a *authenticator) standard(r *http.Request, raw []byte, now time.Time) *refusal {
	id, stamp := r.Header.Get(headerStandardID), r.Header.Get(headerStandardTime)
	if id == "" || len(id) > 256 {
		return refusef(http.StatusUnauthorized, "the header webhook-id is missing or malformed")
	}
	if p := a.clock(stamp, "webhook-timestamp", now); p != nil {
		return p
	}
	want := a.sum([]byte(id+"."+stamp+"."), raw)
	n := 0
	for candidate := range strings.FieldsSeq(r.Header.Get(headerStandardSignature)) {
		version, text, _ := strings.Cut(candidate, ",")
		sent, err := base64.StdEncoding.DecodeString(text)
		if version == "v1" && err == nil && hmac.Equal(sent, want) {
			return nil
		}
		if n++; n == maxSignatures {
			break
		}
	}
	return refusef(http.StatusUnauthorized, "no signature in webhook-signature matches; is the secret the same on both sides?")
}

// stripe checks a signature as https://docs.stripe.com/webhooks#verify-manually
// has it: t=TIME,v1=HEX, over time and body, any of several.
func (a *authenticator) stripe(r *http.Request, raw []byte, now time.Time) *refusal {
	stamp, n := "", 0
	var sent [maxSignatures]string
	for part := range strings.SplitSeq(r.Header.Get(headerStripe), ",") {
		switch key, value, _ := strings.Cut(strings.TrimSpace(part), "="); {
		case key == "t":
			stamp = value
		case key == "v1" && n < maxSignatures:
			sent[n] = value
			n++
		}
	}
	if p := a.clock(stamp, headerStripe, now); p != nil {
		return p
	}
	want := a.sum([]byte(stamp+"."), raw)
	for _, text := range sent[:n] {
		if mac, err := hex.DecodeString(text); err == nil && hmac.Equal(mac, want) {
			return nil
		}
	}
	return refusef(http.StatusUnauthorized, "no signature in %s matches; is the secret the same on both sides?", headerStripe)
}

func (a *authenticator) sum(parts ...[]byte) []byte {
	h := hmac.New(a.hash, a.key)
	for _, p := range parts {
		h.Write(p)
	}
	return h.Sum(nil)
}

// body checks a secret that travels in the payload, and takes it out: it must
// not be published, checked or not.
func (a *authenticator) body(payload *[]byte) *refusal {
	key := a.config.BodyKey
	if key == "" {
		return nil
	}
	sent := event.Member(*payload, key)
	if a.config.BodySecret != "" && !same(event.Text(sent), string(a.config.BodySecret)) {
		return unauthorized("the key " + key + " of the body, with " + a.option("auth.body_secret", a.config.BodySecret))
	}
	if sent != nil {
		*payload = event.Without(*payload, key)
	}
	return nil
}
