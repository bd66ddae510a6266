package main

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/spf13/cobra"

	"event2mqtt/internal/bridge"
	"event2mqtt/internal/sources/octoprint/api"
	"event2mqtt/internal/sources/octoprint/octotest"
	"event2mqtt/internal/testkit"
)

// setup is a folder with a configuration, and a state folder.
type setup struct {
	t      *testing.T
	config string
	state  string
}

func newSetup(t *testing.T, text string) setup {
	t.Helper()
	s := setup{t, filepath.Join(t.TempDir(), "config.yaml"), t.TempDir()}
	if text != "" {
		testkit.Write(t, s.config, text)
	}
	return s
}

func (s setup) run(args ...string) (out, says string, err error) {
	s.t.Helper()
	return execute(s.t, append(args, "--config", s.config, "--state-dir", s.state)...)
}

func (s setup) text() string {
	text, err := os.ReadFile(s.config)
	if err != nil {
		return "none"
	}
	return string(text)
}

// files are those beside the configuration, with their modes.
func (s setup) files() (all []string) {
	entries, err := os.ReadDir(filepath.Dir(s.config))
	testkit.OK(s.t, err)
	for _, e := range entries {
		info, err := e.Info()
		testkit.OK(s.t, err)
		all = append(all, e.Name()+" "+info.Mode().String())
	}
	return all
}

// TestConnectAddsTheSourceAndItsKey to a configuration, whose comments stay; the
// key is for its owner alone. A second printer gets another name.
func TestConnectAddsTheSourceAndItsKey(t *testing.T) {
	octo, other := octotest.New(t, octotest.Options{Prefix: "/octoprint"}), octotest.New(t, octotest.Options{})
	s := newSetup(t, "# mine\nlog: {level: info}   # quiet\nsources:\n  # the door\n  - {name: door, type: webhook}\n")
	testkit.OK(t, os.Chmod(s.config, 0o640))
	out, says, err := s.run("connect", "octoprint", octo.URL+"/", "--user", "ann")
	dir := filepath.Dir(s.config)
	item := "  - name: octoprint\n    type: octoprint\n    url: " + octo.URL + "\n    api_key: {file: " + dir + "/octoprint.key}\n"
	if want := "# mine\nlog: {level: info}   # quiet\nsources:\n  # the door\n  - {name: door, type: webhook}\n" + item; err != nil || s.text() != want {
		t.Fatalf("%v\n%s\n%s", err, says, s.text())
	}
	if key, err := os.ReadFile(dir + "/octoprint.key"); err != nil || string(key) != octotest.Key+"\n" {
		t.Errorf("%q, %v", key, err)
	}
	if want := []string{"config.yaml -rw-r-----", "octoprint.key -rw-------"}; !slices.Equal(s.files(), want) {
		t.Errorf("%v", s.files())
	}
	if !slices.Equal(octo.Asked(), []string{"ann"}) {
		t.Error(octo.Asked())
	}
	for _, want := range []string{octo.URL + "/plugin/appkeys/auth/T-_1", "OctoPrint 1.11.8 accepts the key of user admin"} {
		if !strings.Contains(says, want) {
			t.Errorf("it does not say %s:\n%s", want, says)
		}
	}
	if want := "the source octoprint is in " + s.config + "\nevent2mqtt does not run yet; start it: event2mqtt --config " + s.config + " --state-dir " + s.state + "\nwatch it: mosquitto_sub -v -t 'event2mqtt/#'\n"; out != want {
		t.Error(out)
	}
	if strings.Contains(out+says, octotest.Key) {
		t.Error("the key is printed")
	}

	if _, says, err = s.run("connect", "octoprint", other.URL, "--compat", "octoprint-mqtt"); err != nil || !strings.Contains(s.text(), "name: octoprint-2\n") || !strings.Contains(s.text(), "/octoprint-2.key}\n    compat: octoprint-mqtt\n") {
		t.Errorf("a second one: %v %s\n%s", err, says, s.text())
	}
	before := s.text()
	_, _, err = s.run("connect", "octoprint", octo.URL)
	if err == nil || !strings.Contains(err.Error(), "already: octoprint; nothing was changed; to get it a new key: e2m connect octoprint "+octo.URL+" --renew") || s.text() != before {
		t.Errorf("once more: %v", err)
	}
	if out, _, err := execute(t, "check", "--config", s.config, "--state-dir", s.state); err != nil {
		t.Errorf("%s %v", out, err)
	}
}

// TestConnectMakesAConfigurationThatIsNotThere, and says that the default
// webhook goes.
func TestConnectMakesAConfigurationThatIsNotThere(t *testing.T) {
	s := newSetup(t, "")
	octo := octotest.New(t, octotest.Options{TLS: true, Proxy: true})
	ca := testkit.Write(t, filepath.Join(t.TempDir(), "ca.pem"), octo.CA)
	password := testkit.Write(t, filepath.Join(t.TempDir(), "pw"), "pw\n")
	_, says, err := s.run("connect", "octoprint", octo.URL, "--name", "ender", "--ca", ca, "--proxy-user", "proxy", "--proxy-password-file", password)
	dir := filepath.Dir(s.config)
	want := "sources:\n  - name: ender\n    type: octoprint\n    url: " + octo.URL + "\n    api_key: {file: " + dir + "/ender.key}\n    username: proxy\n    password: {file: " + password + "}\n    tls: {ca: " + ca + "}\n"
	if err != nil || s.text() != want || !strings.Contains(says, `the webhook "default" is there only while no source is configured`) {
		t.Errorf("%v %s\n%s", err, says, s.text())
	}
	if want := []string{"config.yaml -rw-r--r--", "ender.key -rw-------"}; !slices.Equal(s.files(), want) {
		t.Errorf("%v", s.files())
	}
}

// TestConnectFollowsALinkAndOverwritesNoFile: neither the link nor a key file
// that is there, whosever that is.
func TestConnectFollowsALinkAndOverwritesNoFile(t *testing.T) {
	octo := octotest.New(t, octotest.Options{})
	s := newSetup(t, "")
	real := testkit.Write(t, filepath.Join(t.TempDir(), "real.yaml"), "# real\n")
	testkit.OK(t, os.Symlink(real, s.config))
	theirs := testkit.Write(t, filepath.Join(filepath.Dir(s.config), "octoprint.key"), "THEIRS\n")
	if _, says, err := s.run("connect", "octoprint", octo.URL); err != nil {
		t.Fatalf("%v %s", err, says)
	}
	if link, err := os.Readlink(s.config); err != nil || link != real {
		t.Errorf("the link: %s %v", link, err)
	}
	if key, _ := os.ReadFile(theirs); string(key) != "THEIRS\n" || !strings.Contains(s.text(), "/octoprint-2.key}") || !strings.HasPrefix(s.text(), "# real\n") {
		t.Errorf("%s\n%s", key, s.text())
	}
}

// TestAKeyFileThatIsThereIsUsed, without asking for a key, if OctoPrint takes it.
func TestAKeyFileThatIsThereIsUsed(t *testing.T) {
	octo := octotest.New(t, octotest.Options{NoAppKeys: true})
	s := newSetup(t, "# mine\n")
	key := filepath.Join(t.TempDir(), "key")
	testkit.Write(t, key, "WRONG\n")
	if _, _, err := s.run("connect", "octoprint", octo.URL, "--key-file", key); err == nil || exitStatus(err) != exitRefused || !strings.Contains(err.Error(), "refuses the API key") || !strings.Contains(err.Error(), key) {
		t.Errorf("a wrong one: %v", err)
	}
	testkit.Write(t, key, octotest.Key)
	if _, _, err := s.run("connect", "octoprint", octo.URL, "--key-file", key); err != nil || !strings.Contains(s.text(), "api_key: {file: "+key+"}") {
		t.Errorf("%v\n%s", err, s.text())
	}
	if text, _ := os.ReadFile(key); string(text) != octotest.Key {
		t.Errorf("the file was changed: %q", text)
	}
}

// TestWithPrintNothingIsWritten.
func TestWithPrintNothingIsWritten(t *testing.T) {
	octo := octotest.New(t, octotest.Options{})
	s := newSetup(t, "# mine\n")
	out, _, err := s.run("connect", "octoprint", octo.URL, "--print")
	if want := "sources:\n  - name: octoprint\n    type: octoprint\n    url: " + octo.URL + "\n    api_key: " + octotest.Key + "\n"; err != nil || out != want || s.text() != "# mine\n" || len(s.files()) != 1 {
		t.Errorf("%v\n%s\n%v", err, out, s.files())
	}
	key := filepath.Join(filepath.Dir(s.config), "k")
	out, _, err = s.run("connect", "octoprint", octo.URL, "--print", "--key-file", key)
	if err != nil || !strings.Contains(out, "api_key: {file: "+key+"}") || len(s.files()) != 2 || s.files()[1] != "k -rw-------" {
		t.Errorf("with a key file: %v\n%s\n%v", err, out, s.files())
	}
}

// TestRenewReplacesTheKeyAlone, in the file that the configuration names.
func TestRenewReplacesTheKeyAlone(t *testing.T) {
	octo := octotest.New(t, octotest.Options{TLS: true})
	ca := testkit.Write(t, filepath.Join(t.TempDir(), "ca.pem"), octo.CA)
	key := testkit.Write(t, filepath.Join(t.TempDir(), "key"), "OLD")
	testkit.OK(t, os.Chmod(key, 0o640))
	s := newSetup(t, "sources: [{name: o, type: octoprint, url: '"+octo.URL+"/', api_key: {file: "+key+"}, tls: {ca: "+ca+"}}]\n")
	before := s.text()
	out, says, err := s.run("connect", "octoprint", octo.URL, "--renew")
	text, _ := os.ReadFile(key)
	info, _ := os.Stat(key)
	if err != nil || string(text) != octotest.Key+"\n" || info.Mode().Perm() != 0o640 || s.text() != before || !strings.Contains(out, "the new key is in "+key) {
		t.Errorf("%v %s %s\n%s %v", err, out, says, text, info.Mode())
	}
	if out, _, err = s.run("connect", "octoprint", octo.URL, "--renew"); err != nil || !strings.Contains(out, "has given the key that is in "+key+" already") || strings.Count(out, "\n") != 1 {
		t.Errorf("the same key: %v %s", err, out)
	}
	inline := newSetup(t, "sources: [{name: o, type: octoprint, url: '"+octo.URL+"/', api_key: OLD, tls: {ca: "+ca+"}}]\n")
	if _, _, err = inline.run("connect", "octoprint", octo.URL, "--renew"); err == nil || !strings.Contains(err.Error(), "write into "+inline.config+": api_key: {file: "+filepath.Dir(inline.config)+"/o.key}") {
		t.Errorf("a key that is written out: %v", err)
	}
	for want, args := range map[string][]string{
		"has no source for":             {"http://127.0.0.1:1", "--renew"},
		"has other sources for":         {octo.URL, "--renew", "--name", "x"},
		"leave out --key-file":          {octo.URL, "--renew", "--key-file", "x"},
		"give one of them":              {octo.URL, "--renew", "--print"},
		"there is octoprint-mqtt alone": {octo.URL, "--compat", "x"},
	} {
		if _, _, err := s.run(append([]string{"connect", "octoprint"}, args...)...); err == nil || exitStatus(err) != exitUsage || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v", args, err)
		}
	}
}

// TestASourceIsFoundHoweverItsAddressIsWritten, so that none is added twice.
func TestASourceIsFoundHoweverItsAddressIsWritten(t *testing.T) {
	plan := &bridge.Plan{Config: bridge.Config{Sources: []any{map[string]any{"type": "octoprint", "url": "http://Octopi.local:80/"}}}}
	for address, want := range map[string]int{"http://octopi.local": 1, "http://octopi.local.": 1, "http://octopi.local:5000": 0, "http://octopi.local/b": 0, "https://octopi.local": 0} {
		u, err := api.ParseURL(address)
		testkit.OK(t, err)
		if got := len(octoPrintAt(plan, u)); got != want {
			t.Errorf("%s: %d sources, want %d", address, got, want)
		}
	}
}

// TestWhatIsInTheWayOfAKeyIsSaid, with what to do, and nothing is changed.
func TestWhatIsInTheWayOfAKeyIsSaid(t *testing.T) {
	for name, c := range map[string]struct {
		options octotest.Options
		args    []string
		want    string
		status  int
	}{
		"refused":             {octotest.Options{Deny: true}, nil, "nobody allowed the request", exitRefused},
		"timed out":           {octotest.Options{Pending: true}, []string{"--timeout", "1s"}, "nobody has allowed it within 1s; nothing was changed; try again", exitRefused},
		"timed out of a user": {octotest.Options{Pending: true}, []string{"--timeout", "1s", "--user", "nosuch"}, "is there a user nosuch in OctoPrint", exitRefused},
		"of no use":           {octotest.Options{Powerless: true}, nil, "user admin, who lacks the permission Status", exitRefused},
		"no application keys": {octotest.Options{NoAppKeys: true}, nil, "or make a key there under User Settings", 1},
		"another program":     {octotest.Options{Other: true}, nil, "does not answer as OctoPrint does", 1},
		"booting":             {octotest.Options{Booting: true}, nil, "is starting", 1},
		"too often":           {octotest.Options{Busy: true}, nil, "three requests for a key in a minute, five in ten minutes and ten in an hour, those that nobody allowed included", 1},
		"a certificate":       {octotest.Options{TLS: true}, nil, "give --ca FILE", 1},
		"a proxy":             {octotest.Options{Proxy: true}, nil, "give --proxy-user", 1},
		"a path is missing":   {octotest.Options{Prefix: "/octoprint"}, []string{"/nowhere"}, "is the address right, the path included?", 1},
	} {
		t.Run(name, func(t *testing.T) {
			octo, s := octotest.New(t, c.options), newSetup(t, "# mine\n")
			url, args := octo.URL, c.args
			if len(args) == 1 {
				url, args = strings.TrimSuffix(url, c.options.Prefix)+args[0], nil
			}
			_, says, err := s.run(append([]string{"connect", "octoprint", url}, args...)...)
			if err == nil || !strings.Contains(err.Error(), c.want) || exitStatus(err) != c.status || s.text() != "# mine\n" || len(s.files()) != 1 {
				t.Errorf("%v; want %s, %d\n%s", err, c.want, c.status, says)
			}
		})
	}
	s := newSetup(t, "# mine\n")
	if _, _, err := s.run("connect", "octoprint", "http://"+testkit.FreeAddress(t)); err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("nobody there: %v", err)
	}
	for address, want := range map[string]string{"http://u:p@h": `"http://u:xxxxx@h" holds a user; give --proxy-user and --proxy-password-file instead`, "https://h": "--ca: open /nowhere: no such file"} {
		if _, _, err := s.run("connect", "octoprint", address, "--ca", "/nowhere"); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v", address, err)
		}
	}
	for _, args := range [][]string{{"octopi.local"}, {"http://u:p@h"}, {}, {"a", "b"}, {"http://h", "--timeout", "0s"}, {"http://h", "--proxy-user", "u"}, {"http://h", "--ca", "/nowhere"}, {"http://h", "--bogus"}} {
		if _, _, err := s.run(append([]string{"connect", "octoprint"}, args...)...); err == nil || exitStatus(err) != exitUsage {
			t.Errorf("%v: %v", args, err)
		}
	}
}

// TestWhatIsNotChangedAutomaticallyIsShown: a file that is written in an unusual
// way, and a folder. A file with mistakes is found before anybody is asked.
func TestWhatIsNotChangedAutomaticallyIsShown(t *testing.T) {
	octo := octotest.New(t, octotest.Options{})
	s := newSetup(t, "{log: {level: info}}\n")
	out, says, err := s.run("connect", "octoprint", octo.URL)
	key := filepath.Dir(s.config) + "/octoprint.key"
	if err == nil || !strings.Contains(err.Error(), "is written in a way") || !strings.Contains(out, "api_key: {file: "+key+"}") || s.text() != "{log: {level: info}}\n" || len(s.files()) != 2 || !strings.Contains(says, "what to write is shown at the end") {
		t.Errorf("%v\n%s\n%s\n%v", err, out, says, s.files())
	}
	folder := newSetup(t, "log: {level: info}\n")
	folder.config = filepath.Dir(folder.config)
	if out, _, err = folder.run("connect", "octoprint", octo.URL); err == nil || !strings.Contains(err.Error(), "write into "+folder.config+"/octoprint.yaml") || !strings.Contains(out, "{file: "+folder.config+"/octoprint.key}") {
		t.Errorf("%v\n%s", err, out)
	}
	asked := len(octo.Asked())
	bad := newSetup(t, "log: {level: loud}\n")
	if _, _, err = bad.run("connect", "octoprint", octo.URL); err == nil || !strings.Contains(err.Error(), bad.config+":1:7: log.level") || !strings.Contains(err.Error(), "correct this first") {
		t.Errorf("%v", err)
	}
	taken := newSetup(t, "sources: [{name: bridge2, type: webhook}]\n")
	if _, _, err = taken.run("connect", "octoprint", octo.URL, "--name", "bridge"); err == nil || !strings.Contains(err.Error(), taken.config+":1:44: sources[1].name") {
		t.Errorf("%v", err)
	}
	if _, _, err = taken.run("connect", "octoprint", octo.URL, "--name", "bridge2"); err == nil || exitStatus(err) != exitUsage {
		t.Errorf("%v", err)
	}
	if len(octo.Asked()) != asked {
		t.Error("a key was asked for in vain")
	}
}

// TestTheConfigurationIsFound: that of the running program, else that of the
// service; else it has to be named.
func TestTheConfigurationIsFound(t *testing.T) {
	state, service := t.TempDir(), filepath.Join(t.TempDir(), "config.yaml")
	find := func(service string) string {
		path, err := findConfig(&flags{}, state, service, &strings.Builder{})
		if err != nil {
			return err.Error()
		}
		return path
	}
	if got := find("/nowhere/config.yaml"); !strings.Contains(got, "name its file with --config FILE") {
		t.Error(got)
	}
	if got := find(service); got != service {
		t.Error(got)
	}
	for content, want := range map[string]string{`{"url":"http://127.0.0.1:1","config":"/x/y.yaml"}`: "/x/y.yaml", `{"url":"http://127.0.0.1:1"}`: "has no configuration file"} {
		testkit.Write(t, filepath.Join(state, "control.json"), content)
		if got := find(service); !strings.Contains(got, want) {
			t.Errorf("%s: %s", content, got)
		}
	}
}

// meanwhile is an OctoPrint that has something done each time before it answers
// a request for a key.
func meanwhile(t *testing.T, octo *octotest.Server, do func()) string {
	t.Helper()
	to, err := url.Parse(octo.URL)
	testkit.OK(t, err)
	proxy := httputil.NewSingleHostReverseProxy(to)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/plugin/appkeys/request" {
			do()
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// TestWhatIsConnectedMeanwhileStays: while somebody decides about a key, another
// source of the same name is added with its key. None of the two is lost.
func TestWhatIsConnectedMeanwhileStays(t *testing.T) {
	one, two := octotest.New(t, octotest.Options{}), octotest.New(t, octotest.Options{})
	s := newSetup(t, "# mine\n")
	dir := filepath.Dir(s.config)
	address := meanwhile(t, one, func() {
		if _, says, err := s.run("connect", "octoprint", two.URL); err != nil {
			t.Errorf("%v\n%s", err, says)
		}
		testkit.OK(t, os.WriteFile(dir+"/octoprint.key", []byte("THEIRS"), 0o600))
	})
	out, says, err := s.run("connect", "octoprint", address)
	if err != nil || !strings.Contains(out, "the source octoprint-2 is in") || strings.Count(s.text(), "name: octoprint") != 2 || !strings.Contains(s.text(), "octoprint-2.key") {
		t.Errorf("%v\n%s%s\n%s", err, out, says, s.text())
	}
	if key, _ := os.ReadFile(dir + "/octoprint.key"); string(key) != "THEIRS" {
		t.Errorf("the other's key is now %s", key)
	}
	if out, _, err := s.run("check"); err != nil {
		t.Errorf("%s %v", out, err)
	}

	named := newSetup(t, "# mine\n")
	key := filepath.Join(filepath.Dir(named.config), "k")
	address = meanwhile(t, one, func() { testkit.OK(t, os.WriteFile(key, []byte("THEIRS"), 0o600)) })
	if _, _, err = named.run("connect", "octoprint", address, "--key-file", key); err == nil || !strings.Contains(err.Error(), key+" holds another key than before") || named.text() != "# mine\n" {
		t.Errorf("a key file that is made meanwhile: %v\n%s", err, named.text())
	}
	if text, _ := os.ReadFile(key); string(text) != "THEIRS" {
		t.Errorf("it was overwritten: %s", text)
	}
	same := newSetup(t, "")
	address = meanwhile(t, one, func() {
		testkit.Write(t, same.config, "sources: [{name: x, type: octoprint, url: '"+address+"', api_key: K}]\n")
	})
	if _, _, err = same.run("connect", "octoprint", address); err == nil || !strings.Contains(err.Error(), "already: x; nothing was changed") || len(same.files()) != 1 {
		t.Errorf("the same printer: %v %v", err, same.files())
	}
}

// TestManyMayConnectAtOnce: each source and each key is there afterwards.
func TestManyMayConnectAtOnce(t *testing.T) {
	const many = 5
	s := newSetup(t, "")
	var wg sync.WaitGroup
	for range many {
		octo := octotest.New(t, octotest.Options{})
		wg.Go(func() {
			if _, says, err := s.run("connect", "octoprint", octo.URL); err != nil {
				t.Errorf("%v\n%s", err, says)
			}
		})
	}
	wg.Wait()
	if strings.Count(s.text(), "name: octoprint") != many || len(s.files()) != many+1 {
		t.Errorf("%v\n%s", s.files(), s.text())
	}
	for n := 2; n <= many; n++ {
		if !strings.Contains(s.text(), fmt.Sprintf("/octoprint-%d.key}", n)) {
			t.Errorf("key %d:\n%s", n, s.text())
		}
	}
}

// TestItIsSaidWhatSpeaksNoHTTPS: a server that waits for HTTP while TLS is
// expected just gives no answer.
func TestItIsSaidWhatSpeaksNoHTTPS(t *testing.T) {
	c := octoPrintSetup{url: &url.URL{Scheme: "https", Host: "h"}}
	if err := c.explain(&api.Error{Kind: api.Away, Text: "OctoPrint at https://h cannot be reached (no answer)"}); !strings.Contains(err.Error(), "does it speak https? if not, write http://") {
		t.Error(err)
	}
	c.url.Scheme = "http"
	if err := c.explain(&api.Error{Kind: api.Away, Text: "OctoPrint at http://h cannot be reached (no answer)"}); strings.Contains(err.Error(), "https") {
		t.Error(err)
	}
}

// TestWhatToWriteByHandFitsTheFile: what is printed, put where it says, is what
// the program takes, with the source that was there.
func TestWhatToWriteByHandFitsTheFile(t *testing.T) {
	for name, c := range map[string]struct{ text, where, at string }{
		"anchors":      {"sources: &all\n  - {name: w, type: webhook}\nx: *all\n", "add below sources: in ", "sources: &all\n"},
		"flow":         {"{sources: [{name: w, type: webhook}]}\n", "add to the list sources in ", ""},
		"flow without": {"{log: {level: info}}\n", "add to ", ""},
	} {
		file := &configFile{path: "/c.yaml", text: []byte(c.text)}
		cmd := &cobra.Command{}
		var out, says strings.Builder
		cmd.SetOut(&out)
		cmd.SetErr(&says)
		setup := octoPrintSetup{cmd: cmd, name: "octoprint", url: &url.URL{Scheme: "http", Host: "h"}}
		err := setup.byHand(file, setup.item("K", nil), errors.New("it is so"))
		if err == nil || says.String() != c.where+"/c.yaml:\n" || !strings.Contains(err.Error(), c.where+"/c.yaml what is printed above") {
			t.Errorf("%s: %v %s", name, err, says.String())
		}
		text := strings.Replace(c.text, "x: *all\n", "", 1)
		switch name {
		case "anchors":
			text = strings.Replace(text, c.at, c.at+out.String(), 1)
		case "flow":
			text = strings.Replace(text, "}]", "}, "+strings.TrimSpace(out.String())+"]", 1)
		default:
			text = strings.Replace(text, "}}", "}, "+strings.TrimSpace(out.String())+"}", 1)
		}
		s := newSetup(t, text)
		if printed, _, err := s.run("check", "--print"); err != nil || !strings.Contains(printed, "octoprint") {
			t.Errorf("%s: %v\n%s", name, err, text)
		}
	}
}

// TestTheCommandThatStartsItIsWhole, and a shell takes it.
func TestTheCommandThatStartsItIsWhole(t *testing.T) {
	c := configFile{path: "/my files/c.yaml", flags: &flags{stateDir: "/s", set: []string{"log.level=debug", "mqtt.password=it's $1"}}}
	if want := `event2mqtt --config '/my files/c.yaml' --state-dir /s --set log.level=debug --set 'mqtt.password=it'\''s $1'`; c.start() != want {
		t.Error(c.start())
	}
}

// TestAFileThatWasChangedMeanwhileIsLeftAlone, by people and where there are no
// locks: one that was written to, made or removed since it was read.
func TestAFileThatWasChangedMeanwhileIsLeftAlone(t *testing.T) {
	for want, c := range map[string]struct {
		before string
		change func(path string) error
	}{
		"was changed meanwhile": {"# one\n", func(path string) error { return os.WriteFile(path, []byte("# two\n"), 0o600) }},
		"was made meanwhile":    {"", func(path string) error { return os.WriteFile(path, []byte("# two\n"), 0o600) }},
		"was removed meanwhile": {"# one\n", os.Remove},
	} {
		s := newSetup(t, c.before)
		file, err := openConfig(&flags{}, s.state, s.config)
		testkit.OK(t, err)
		testkit.OK(t, c.change(s.config))
		changed := s.text()
		err = file.replace(func(text []byte) ([]byte, error) { return append(text, "log: {level: debug}\n"...), nil })
		if err == nil || !strings.Contains(err.Error(), want) || s.text() != changed {
			t.Errorf("%s: %v\n%s", want, err, s.text())
		}
	}
}
