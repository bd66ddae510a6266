package webhook

import (
	"net/http"
	"strings"

	"event2mqtt/internal/web/origin"
)

// ofBrowser refuses a GET that a browser may have sent for a web page. Browsers
// say which site is behind a request (Sec-Fetch-Site) only to addresses that
// they trust, and http://192.168.1.7 is none, so without it an image in a page
// cannot be told from an address that somebody typed in: both are refused.
func ofBrowser(r *http.Request) *refusal {
	site := r.Header.Get("Sec-Fetch-Site")
	if site == "none" || site == "same-origin" || !origin.FromBrowser(r) || ofProgram(r) {
		return nil
	}
	return refusef(http.StatusForbidden, "a browser sent this GET, and a web page may have made it do so; call the URL from a device or with curl, or send POST")
}

// ofProgram reports whether a request is of a program whose library sends some
// of what browsers send. No page can send one of these names: to another site
// only a request that asks first (CORS) may change User-Agent, and to a name
// that was made to point here none comes through origin.Guard.
func ofProgram(r *http.Request) bool {
	for _, key := range []string{"Origin", "Referer", "Cookie", "Sec-Fetch-Site", "Sec-Fetch-Dest", "Upgrade-Insecure-Requests"} {
		if len(r.Header[key]) > 0 {
			return false
		}
	}
	agent := r.Header.Get("User-Agent")
	if agent == "node" || agent == "undici" || strings.Contains(agent, "PowerShell/") {
		return true
	}
	return strings.HasPrefix(agent, "Deno/") || strings.HasPrefix(agent, "Java/")
}
