// Package page is the page that people look at in a browser, and the one that
// they log in with. It serves files and asks who may see them; what the page
// shows comes from the API. All addresses are relative to the page's, so that it
// works below any path of a proxy.
package page

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"html"
	"net/http"
	"path"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"event2mqtt/internal/web/problem"
)

//go:embed ui
var built embed.FS

// Options say who may see the page.
type Options struct {
	// Admit returns why a request may not see the page, or nil. 401 leads to the
	// login page.
	Admit func(*http.Request) *problem.Details
	// Login opens a session for who sends the right token, with a cookie, or
	// returns why it does not.
	Login func(w http.ResponseWriter, r *http.Request, token string) *problem.Details
}

// Page serves. Make it with New; it is safe for concurrent use.
type Page struct {
	opt    Options
	served func() *served // made when somebody asks first
}

// served is what is served.
type served struct {
	files map[string]file // by path
	login string          // HTML, with places for what is said
}

// file is served as it is.
type file struct {
	body []byte
	kind string // its media type
	etag string
}

const (
	root      = "/"
	loginPath = "/login"
	loginBody = 4096 // bytes of a login form, at most
)

// policy lets nothing run that this package does not serve, and no text become
// markup (https://www.w3.org/TR/CSP3, https://www.w3.org/TR/trusted-types).
// Home Assistant shows the page in a frame of its own origin.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; " +
	"base-uri 'none'; form-action 'self'; frame-ancestors 'self'; require-trusted-types-for 'script'; trusted-types 'none'"

// mediaTypes are those of the files. What the system knows is not asked: on some
// it says that scripts are plain text.
var mediaTypes = map[string]string{
	".html": "text/html; charset=utf-8",
	".css":  "text/css; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
}

// folder is where the files are in what was built in.
const folder = "ui"

// New returns a Page. Nothing is made of the files until somebody asks for them.
func New(o Options) *Page { return &Page{o, sync.OnceValue(load)} }

// names are those of the files, sorted.
func names() (all []string) {
	entries, err := built.ReadDir(folder)
	if err != nil {
		panic(fmt.Sprintf("reading what was built in: %v", err))
	}
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

// pathOf is the path that a file is served at.
func pathOf(name string) string {
	switch name {
	case "index.html":
		return root
	case "login.html":
		return loginPath
	}
	return root + name
}

// load makes what is served of the files.
func load() *served {
	s := &served{files: map[string]file{}}
	texts, all := map[string][]byte{}, sha256.New()
	for _, name := range names() {
		text, err := built.ReadFile(folder + "/" + name)
		if err != nil {
			panic(fmt.Sprintf("reading what was built in: %v", err))
		}
		texts[name] = text
		_, _ = all.Write(text) // a hash takes everything
	}
	version := hex.EncodeToString(all.Sum(nil)[:4])
	for name, text := range texts {
		text = versioned(lean().ReplaceAll(text, nil), version)
		switch path.Ext(name) {
		case ".css":
			text = bytes.ReplaceAll(text, []byte("\n"), nil) // no rule of ours is of lines
		case ".js":
			text = joined().ReplaceAll(text, []byte("$1"))
		}
		sum := sha256.Sum256(text)
		if at := pathOf(name); at == loginPath {
			s.login = string(text)
		} else {
			s.files[at] = file{text, mediaTypes[path.Ext(name)], strconv.Quote(hex.EncodeToString(sum[:12]))}
		}
	}
	return s
}

// lean is what only people who read the files need: indentation, empty lines,
// lines that are comments, and comments at the ends of lines.
var lean = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`(?m)^(?:\s+|//.*\n|/\*.*\*/\n)+|[ \t]+// .*$`)
})

// joined is the end of a line of a script that goes on as well on the same line:
// what it ends with leaves nothing for JavaScript to complete. No text of ours
// has more than one line.
var joined = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`([;,{(\[])\n`) })

// reference is where one of the files is named in another.
var reference = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`((?:from '\./|href="|src=")[a-z]+\.(?:js|css))(['"])`)
})

// versioned adds the version to the names of files, so that no cache answers
// with those of another version of the program.
func versioned(text []byte, version string) []byte {
	return reference().ReplaceAll(text, []byte("$1?v="+version+"$2"))
}

// Paths are what ServeHTTP serves, each a whole path.
func (p *Page) Paths() (all []string) {
	for _, name := range names() {
		all = append(all, pathOf(name))
	}
	return all
}

// ServeHTTP implements http.Handler.
func (p *Page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	if r.URL.Path == loginPath {
		p.serveLogin(w, r)
		return
	}
	f, ok := p.served().files[r.URL.Path]
	switch {
	case !ok:
		problem.New(http.StatusNotFound, "nothing is here").Write(w)
		return
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		h.Set("Allow", "GET, HEAD")
		problem.New(http.StatusMethodNotAllowed, "this path is for GET").Write(w)
		return
	}
	if r.URL.Path == root {
		if why := p.opt.Admit(r); why != nil {
			p.refuse(w, why, "")
			return
		}
	}
	// A copy may be kept, and is asked for each time: whoever has logged out, or
	// runs another version, does not see it.
	h.Set("Cache-Control", "no-cache")
	h.Set("ETag", f.etag)
	h.Set("Content-Type", f.kind)
	if known(r.Header.Get("If-None-Match"), f.etag) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	h.Set("Content-Length", strconv.Itoa(len(f.body)))
	_, _ = w.Write(f.body) // the browser may be gone
}

// known reports whether a browser has what an ETag names (RFC 9110, section
// 13.1.2). Some proxies make it a weak one.
func known(header, etag string) bool {
	for _, one := range strings.Split(header, ",") {
		if strings.TrimPrefix(strings.TrimSpace(one), "W/") == etag {
			return true
		}
	}
	return false
}

// serveLogin takes the login form. It works without scripts.
func (p *Page) serveLogin(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		away(w)
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, loginBody)
	if err := r.ParseForm(); err != nil {
		p.refuse(w, problem.New(http.StatusBadRequest, "the form cannot be read"), "")
		return
	}
	if why := p.opt.Login(w, r, r.PostForm.Get("token")); why != nil {
		p.refuse(w, why, sentence(why.Detail))
		return
	}
	away(w)
}

// away leads to the page, wherever a proxy has put it.
func away(w http.ResponseWriter) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Location", "./")
	w.WriteHeader(http.StatusSeeOther)
}

// refuse answers with the login page, or with why there is none to log in to.
func (p *Page) refuse(w http.ResponseWriter, why *problem.Details, said string) {
	h := w.Header()
	h.Set("Content-Type", mediaTypes[".html"])
	h.Set("Cache-Control", "no-store")
	if why.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int(why.RetryAfter.Seconds())+1))
	}
	form := ""
	if why.Status == http.StatusForbidden {
		said, form = sentence(why.Detail), " hidden"
	}
	w.WriteHeader(why.Status)
	_, _ = strings.NewReplacer("{{said}}", html.EscapeString(said), "{{hidden}}", form).WriteString(w, p.served().login) // the browser may be gone
}

// sentence is a detail with a capital letter and a full stop.
func sentence(text string) string {
	if text == "" {
		return ""
	}
	return strings.ToUpper(text[:1]) + text[1:] + "."
}
