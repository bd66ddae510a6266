package httpsink

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// This file signs requests as Standard Webhooks 1.0 says (standardwebhooks.com).

// maxKeys bounds the secrets that requests are signed with at a time.
const maxKeys = 10

// parseKeys reads secrets with white space between. The error repeats none.
func parseKeys(text string) (keys [][]byte, err error) {
	for i, field := range strings.Fields(text) {
		key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(field, "whsec_"))
		switch {
		case err != nil:
			return nil, fmt.Errorf("secret %d is not whsec_ and base64, as Standard Webhooks has them", i+1)
		case len(key) < 24 || len(key) > 64:
			return nil, fmt.Errorf("secret %d stands for %d bytes; Standard Webhooks takes 24 to 64", i+1, len(key))
		}
		keys = append(keys, key)
	}
	if len(keys) > maxKeys {
		return nil, fmt.Errorf("there are %d secrets; at most %d are allowed", len(keys), maxKeys)
	}
	if text != "" && keys == nil {
		return nil, errors.New("it holds no secret")
	}
	return keys, nil
}

// sign adds the headers of Standard Webhooks to an attempt that is made now.
func sign(h http.Header, keys [][]byte, id string, now time.Time, body []byte) {
	at := strconv.FormatInt(now.Unix(), 10)
	signatures := make([]string, len(keys))
	for i, key := range keys {
		mac := hmac.New(sha256.New, key)
		_, _ = mac.Write([]byte(id + "." + at + "."))
		_, _ = mac.Write(body)
		signatures[i] = "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
	}
	h.Set("Webhook-Id", id)
	h.Set("Webhook-Timestamp", at)
	h.Set("Webhook-Signature", strings.Join(signatures, " "))
}
