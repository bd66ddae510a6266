package accounts_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"event2mqtt/internal/broker/accounts"
	"event2mqtt/internal/testkit"
)

func rules(t testing.TB, texts ...string) accounts.Rules {
	t.Helper()
	r, err := accounts.ParseRules(texts)
	testkit.OK(t, err)
	return r
}

func TestRulesAllowWhatTheySay(t *testing.T) {
	for _, c := range []struct {
		rules       []string
		topic       string
		read, write bool
	}{
		{nil, "a", false, false}, // nothing is allowed by nothing (CVE-2018-12550)
		{[]string{"#:rw"}, "a/b", true, true},
		{[]string{"#:rw"}, "$SYS/x", false, false},
		{[]string{"#:rw", "$SYS/#:r"}, "$SYS/x", true, false},
		{[]string{"a/#:r"}, "a", true, false},
		{[]string{"a/+:w"}, "a/b", false, true},
		{[]string{"a/+:w"}, "a/b/c", false, false},
		{[]string{"#:rw", "secret/#:deny"}, "secret/x", false, false},
		{[]string{"secret/#:deny", "#:rw", "secret/x:rw"}, "secret/x", false, false},
		{[]string{"a:r", "a:w"}, "a", true, true},
		{[]string{"+/b:r"}, "$x/b", false, false},
	} {
		r := rules(t, c.rules...)
		if r.MayRead(c.topic) != c.read || r.MayWrite(c.topic) != c.write {
			t.Errorf("%v on %s: read %v, write %v", c.rules, c.topic, r.MayRead(c.topic), r.MayWrite(c.topic))
		}
	}
}

// TestNamesCannotWidenRules: CVE-2017-7650.
func TestNamesCannotWidenRules(t *testing.T) {
	r := rules(t, "home/%u/#:rw", "dev/%c:r", "private/%u/#:deny", "#:r")
	for _, name := range []string{"#", "+", "a/b", "+/#", "", "%c", "a#"} {
		got := r.For(name, name)
		for _, topic := range []string{"home/x/y", "home/a/b/c", "home/" + name + "/x"} {
			if got.MayWrite(topic) {
				t.Errorf("%q may write to %s", name, topic)
			}
		}
		if got.MayRead("private/x") {
			t.Errorf("%q may read what a rule denies", name)
		}
	}
	got := r.For("ann", "c1")
	if !got.MayWrite("home/ann/x") || got.MayWrite("home/bob/x") || got.MayRead("private/ann/x") || !got.MayRead("private/bob/x") {
		t.Errorf("got %v", got)
	}
}

func TestSubscriptionsThatCouldReceiveNothingAreTold(t *testing.T) {
	for _, c := range []struct {
		rules  []string
		filter string
		want   bool
	}{
		{[]string{"a/#:r"}, "#", true}, {[]string{"a/#:r"}, "a/b", true}, {[]string{"a/#:r"}, "b/#", false}, {[]string{"a/#:w"}, "a/#", false},
		{[]string{"a/+/c:r"}, "a/b/+", true}, {[]string{"a/+/c:r"}, "a/b/d", false}, {[]string{"a/b:r"}, "a/b/#", true}, {[]string{"a:r"}, "a/b", false},
		{[]string{"#:r", "b/#:deny"}, "b/c", false}, {[]string{"#:r", "b/#:deny"}, "+/c", true}, {[]string{"#:r"}, "$SYS/#", false}, {nil, "#", false},
	} {
		if got := rules(t, c.rules...).MayReadSome(c.filter); got != c.want {
			t.Errorf("%v and %s: %v", c.rules, c.filter, got)
		}
	}
}

// FuzzRules: what a rule is read from, it writes; and rules never allow more
// than the filter matches.
func FuzzRules(f *testing.F) {
	f.Add("a/+/#:rw", "a/b/c")
	f.Add("%u/x:r", "ann/x")
	f.Fuzz(func(t *testing.T, text, topic string) {
		r, err := accounts.ParseRule(text)
		if err != nil {
			return
		}
		again, err := accounts.ParseRule(r.String())
		if err != nil || again != r {
			t.Fatalf("%q became %v: %v", text, again, err)
		}
		if strings.ContainsAny(topic, "+#") || topic == "" {
			return
		}
		one := accounts.Rules{r}
		if one.MayRead(topic) && !one.MayReadSome(topic) {
			t.Fatalf("%q may read %q, and not subscribe to it", text, topic)
		}
	})
}

func TestHashesOfOthersAreUnderstood(t *testing.T) {
	bc, err := bcrypt.GenerateFromPassword([]byte("secret"), 4)
	testkit.OK(t, err)
	for name, hash := range map[string]string{
		"own":        accounts.Hash("secret"),
		"plain":      accounts.PlainHash("secret"),
		"bcrypt":     string(bc),
		"mosquitto":  mosquittoHash,
		"mosquitto6": mosquittoOldHash,
	} {
		if err := accounts.CheckHash(hash); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if !accounts.Verify(hash, "secret") {
			t.Errorf("%s: the password is refused", name)
		}
		for _, wrong := range []string{"", "Secret", "secret ", hash} {
			if accounts.Verify(hash, wrong) {
				t.Errorf("%s: %q is let in", name, wrong)
			}
		}
	}
}

// TestDamagedHashesLetNobodyIn: CVE-2018-12551, and hashes that would keep the
// machine busy.
func TestDamagedHashesLetNobodyIn(t *testing.T) {
	for _, hash := range []string{
		"", "secret", "$", "$7$", "$7$101$$", "$7$101$AAAA$", "$7$999999999$AAAA$AAAAAAAAAAAAAAAAAAAAAA==", "$6$$", "$2y$", "$2y$31$aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
		"$argon2id$v=19$m=4096,t=3,p=1$$", "$argon2id$v=19$m=99999999,t=3,p=1$AAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA", "$argon2id$v=19$m=4096,t=0,p=0$AAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA",
	} {
		if accounts.CheckHash(hash) == nil || accounts.Verify(hash, "") || accounts.Verify(hash, hash) {
			t.Errorf("%q is taken for a hash", hash)
		}
	}
}

// Made of "secret" by mosquitto_passwd 2.0.11, the second one with -H sha512.
const (
	mosquittoHash    = "$7$101$ioWdNBfYg30hpJ86$iaxw8mEYJnJOHvecwJc6m04TUVIqK71cnyqRP+iyOdih/O3UkBa/OjeUrntIBk1HNHA6szBSAaZ6Cr4VA9xOvg=="
	mosquittoOldHash = "$6$U+LcXxCT1el8+zk1$+d0M3li8t2Tgb2CuwfXlc9DeS9svnWjsTzVnT8l09sJJo0yCNDPyVwGywWZTHpE2IL7lvvKNO0pAcdzpw+vyMQ=="
)

var somewhere, elsewhere = netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("198.51.100.7")

func newAccounts(t testing.TB, o accounts.Options) *accounts.Accounts {
	t.Helper()
	if o.Delay == 0 {
		o.Delay = time.Millisecond
	}
	a, err := accounts.New(o)
	testkit.OK(t, err)
	return a
}

func login(a *accounts.Accounts, from netip.Addr, user, password string) error {
	_, err := a.Login(context.Background(), accounts.Attempt{Address: from, User: user, HasUser: user != "", Password: password, ClientID: "c"})
	return err
}

func users(names ...string) (out []accounts.User) {
	for _, n := range names {
		out = append(out, accounts.User{Name: n, Hash: accounts.PlainHash(n + "-secret"), Allow: []string{"#:rw"}})
	}
	return out
}

func TestAnonymousClientsComeFromThisMachineWhileThereAreNoUsers(t *testing.T) {
	none := newAccounts(t, accounts.Options{})
	for from, want := range map[string]error{"127.0.0.1": nil, "::1": nil, "192.0.2.7": accounts.ErrAnonymous, "fe80::1": accounts.ErrAnonymous} {
		if err := login(none, netip.MustParseAddr(from), "", ""); !errors.Is(err, want) {
			t.Errorf("%s: %v", from, err)
		}
	}
	if err := login(none, netip.Addr{}, "", ""); err != nil {
		t.Errorf("by a unix socket: %v", err)
	}
	some := newAccounts(t, accounts.Options{Configured: users("ann")})
	if err := login(some, netip.MustParseAddr("127.0.0.1"), "", ""); !errors.Is(err, accounts.ErrAnonymous) {
		t.Errorf("with users: %v", err)
	}
	open := newAccounts(t, accounts.Options{Configured: users("ann"), AllowAnonymous: true})
	if err := login(open, somewhere, "", ""); err != nil {
		t.Errorf("allowed: %v", err)
	}
}

// TestNothingTellsWhetherAUserExists: neither what is said nor when.
func TestNothingTellsWhetherAUserExists(t *testing.T) {
	const delay = 150 * time.Millisecond
	bc, err := bcrypt.GenerateFromPassword([]byte("x"), 4)
	testkit.OK(t, err)
	a := newAccounts(t, accounts.Options{Delay: delay, Failures: 100, Configured: append(users("ann"),
		accounts.User{Name: "fast", Hash: string(bc)}, accounts.User{Name: "cert"},
		accounts.User{Name: "device", Hash: accounts.PlainHash("p"), ClientID: "its-own"})})
	for _, user := range []string{"ann", "fast", "cert", "device", "nobody"} {
		began := time.Now()
		err := login(a, somewhere, user, "p")
		if !errors.Is(err, accounts.ErrRefused) || err.Error() != accounts.ErrRefused.Error() {
			t.Errorf("%s: %v", user, err)
		}
		if took := time.Since(began); took < delay {
			t.Errorf("%s was refused after %s", user, took)
		}
	}
}

func TestAddressesThatGuessAreLockedOutAndOthersAreNot(t *testing.T) {
	a := newAccounts(t, accounts.Options{Configured: users("ann", "bob", "eve"), Failures: 3, LockOut: 200 * time.Millisecond})
	testkit.OK(t, login(a, somewhere, "bob", "bob-secret")) // behind the same router
	for range 3 {
		if err := login(a, somewhere, "ann", "guess"); !errors.Is(err, accounts.ErrRefused) {
			t.Fatal(err)
		}
	}
	if err := login(a, somewhere, "ann", "ann-secret"); !errors.Is(err, accounts.ErrLockedOut) {
		t.Errorf("the right password while locked out: %v", err)
	}
	testkit.OK(t, login(a, somewhere, "eve", "eve-secret")) // another name: somebody else's mistakes are not its own
	testkit.OK(t, login(a, somewhere, "bob", "bob-secret")) // known: lets itself not be disturbed
	testkit.OK(t, login(a, netip.MustParseAddr("192.0.2.8"), "ann", "ann-secret"))
	deadline := time.Now().Add(10 * time.Second)
	for login(a, somewhere, "ann", "ann-secret") != nil {
		if time.Now().After(deadline) {
			t.Fatal("locked out for good")
		}
		time.Sleep(10 * time.Millisecond)
	}
	// One subscriber has a whole IPv6 network.
	for i := range 3 {
		_ = login(a, netip.MustParseAddr(fmt.Sprintf("2001:db8::%d", i+1)), "ann", "guess")
	}
	if err := login(a, netip.MustParseAddr("2001:db8::ffff"), "ann", "x"); !errors.Is(err, accounts.ErrLockedOut) {
		t.Errorf("the same network: %v", err)
	}
}

func TestDevicesUseTheirOwnClientID(t *testing.T) {
	a := newAccounts(t, accounts.Options{Configured: []accounts.User{{Name: "d", Hash: accounts.PlainHash("p"), ClientID: "d-1", Allow: []string{"tele/%c/#:w"}}}})
	attempt := accounts.Attempt{Address: somewhere, User: "d", HasUser: true, Password: "p", ClientID: "other"}
	if _, err := a.Login(context.Background(), attempt); !errors.Is(err, accounts.ErrRefused) {
		t.Errorf("another client id: %v", err)
	}
	attempt.ClientID = "d-1"
	for range 2 { // the second time it is known
		g, err := a.Login(context.Background(), attempt)
		testkit.OK(t, err)
		if !g.Rules.MayWrite("tele/d-1/x") || g.Rules.MayWrite("tele/other/x") {
			t.Errorf("got %v", g.Rules)
		}
		attempt.ClientID = "other"
		if _, err := a.Login(context.Background(), attempt); !errors.Is(err, accounts.ErrRefused) {
			t.Errorf("another client id: %v", err)
		}
		attempt.ClientID = "d-1"
	}
}

// TestADevicesClientIDIsNobodyElses: whoever had it could take what waits for
// the device.
func TestADevicesClientIDIsNobodyElses(t *testing.T) {
	a := newAccounts(t, accounts.Options{AllowAnonymous: true, Configured: append(users("ann"), accounts.User{Name: "cert"},
		accounts.User{Name: "d", Hash: accounts.PlainHash("p"), ClientID: "d-1"})})
	for name, attempt := range map[string]accounts.Attempt{
		"a user": {User: "ann", HasUser: true, Password: "ann-secret"}, "a certificate": {Certificate: "cert"}, "nobody": {},
	} {
		attempt.Address = somewhere
		for id, want := range map[string]bool{"another": true, "d-1": false} {
			attempt.ClientID = id
			if _, err := a.Login(context.Background(), attempt); (err == nil) != want {
				t.Errorf("%s as %s: %v", name, id, err)
			}
		}
	}
}

// TestGuessingAtOnceIsGuessing: attempts that wait for their hash are counted
// among those that lock out.
func TestGuessingAtOnceIsGuessing(t *testing.T) {
	const failures, atOnce = 3, 40
	a := newAccounts(t, accounts.Options{Failures: failures, Delay: time.Millisecond, Configured: []accounts.User{{Name: "ann", Hash: accounts.Hash("x")}}})
	var wg sync.WaitGroup
	var refused atomic.Int64
	for i := range atOnce {
		wg.Go(func() {
			if err := login(a, somewhere, "ann", fmt.Sprint("guess ", i)); !errors.Is(err, accounts.ErrLockedOut) {
				refused.Add(1)
			}
		})
	}
	wg.Wait()
	if n := refused.Load(); n > failures+2 { // two are hashed at a time
		t.Errorf("%d of %d guesses were looked at", n, atOnce)
	}
}

func TestChangesTakeEffectWithoutARestart(t *testing.T) {
	file := accounts.File(filepath.Join(t.TempDir(), "accounts.json"))
	a := newAccounts(t, accounts.Options{File: file})
	ctx, cancel := context.WithCancel(context.Background())
	changed := make(chan struct{}, 100)
	var wg sync.WaitGroup
	wg.Go(func() { a.Watch(ctx, func() { changed <- struct{}{} }) })
	defer wg.Wait()
	defer cancel()
	update := func(f func([]accounts.User) ([]accounts.User, error)) {
		t.Helper()
		testkit.OK(t, file.Update(f))
		select {
		case <-changed:
		case <-time.After(20 * time.Second):
			t.Fatal("not noticed")
		}
	}
	update(func([]accounts.User) ([]accounts.User, error) { return users("ann", "bob"), nil })
	g, err := a.Login(context.Background(), accounts.Attempt{Address: somewhere, User: "ann", HasUser: true, Password: "ann-secret"})
	testkit.OK(t, err)
	if _, still := a.Still(g, "c", somewhere); !still {
		t.Error("not let in any more")
	}
	update(func(u []accounts.User) ([]accounts.User, error) { u[0].Allow = []string{"x:r"}; return u, nil })
	if r, still := a.Still(g, "c", somewhere); !still || r.MayWrite("x") || !r.MayRead("x") {
		t.Errorf("rules are now %v, %v", r, still)
	}
	update(func(u []accounts.User) ([]accounts.User, error) { u[0].Hash = accounts.Hash("new"); return u, nil })
	if _, still := a.Still(g, "c", somewhere); still {
		t.Error("let in with the old password")
	}
	if login(a, somewhere, "ann", "ann-secret") == nil || login(a, somewhere, "ann", "new") != nil {
		t.Error("the password was not changed")
	}
	// A file that cannot be used changes nothing.
	testkit.OK(t, os.WriteFile(string(file), []byte("{"), 0o600))
	if _, err := a.Reload(); err == nil {
		t.Error("a damaged file was taken")
	}
	testkit.OK(t, login(a, somewhere, "bob", "bob-secret"))
	if login(a, somewhere, "", "") == nil {
		t.Error("a damaged file lets everybody in")
	}
}

func TestNamesOfUsers(t *testing.T) {
	for name, want := range map[string]bool{
		"ann": true, "Ann Lee": true, "k\u00fcche_1": true, "a@b.example": true, "": false, " a": false, "a ": false, "-a": false, "a/b": false, "a+": false, "#": false,
		"%u": false, "a\x00": false, "a\n": false, "\xff": false, strings.Repeat("x", 64): true, strings.Repeat("x", 65): false,
	} {
		if (accounts.CheckName(name) == nil) != want {
			t.Errorf("%q: %v", name, !want)
		}
	}
}

func TestFilesThatAreDamagedAreErrors(t *testing.T) {
	file := accounts.File(filepath.Join(t.TempDir(), "accounts.json"))
	for _, text := range []string{
		"", "[]", "{", `{"format":2,"users":[]}`, `{"format":1,"users":[{"name":"a","hash":"x","allow":[]}]}`, `{"format":1,"users":[{"name":"a/b","allow":[]}]}`,
		`{"format":1,"users":[{"name":"a","allow":["x"]}]}`, `{"format":1,"users":[{"name":"a","allow":[]},{"name":"a","allow":[]}]}`, `{"format":1,"users":[],"more":1}`,
	} {
		testkit.OK(t, os.WriteFile(string(file), []byte(text), 0o600))
		if _, err := file.Load(); err == nil {
			t.Errorf("%q was taken", text)
		}
		if _, err := accounts.New(accounts.Options{File: file}); err == nil {
			t.Errorf("%q: started", text)
		}
		if err := file.Update(func(u []accounts.User) ([]accounts.User, error) { return u, nil }); err == nil {
			t.Errorf("%q was written over", text)
		}
	}
}

func TestManyChangesAtOnceAreAllKept(t *testing.T) {
	file := accounts.File(filepath.Join(t.TempDir(), "accounts.json"))
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			if err := file.Update(func(u []accounts.User) ([]accounts.User, error) {
				return append(u, accounts.User{Name: fmt.Sprint("u", i)}), nil
			}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	got, err := file.Load()
	testkit.OK(t, err)
	if len(got) != 20 {
		t.Errorf("%d accounts", len(got))
	}
	if info, err := os.Stat(string(file)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestUsersOfOthersAreImported(t *testing.T) {
	bc, err := bcrypt.GenerateFromPassword([]byte("secret"), 4)
	testkit.OK(t, err)
	for name, text := range map[string]string{
		"mosquitto":      "# a comment\nann:" + mosquittoHash + "\nold:" + mosquittoOldHash + "\nplain:secret\nno hash\nb/d:" + mosquittoHash + "\n",
		"home assistant": `{"version":1,"key":"auth_provider.homeassistant","data":{"users":[{"username":"ann","password":"` + base64.StdEncoding.EncodeToString(bc) + `"},{"username":"old","password":"` + base64.StdEncoding.EncodeToString(bc) + `"},{"username":"x","password":"!"}]}}`,
	} {
		got, skipped, err := accounts.Import([]byte(text))
		testkit.OK(t, err)
		if len(got) != 2 || len(skipped) == 0 {
			t.Errorf("%s: %v, skipped %v", name, got, skipped)
			continue
		}
		for _, u := range got {
			if !accounts.Verify(u.Hash, "secret") || len(u.Allow) == 0 {
				t.Errorf("%s: %+v", name, u)
			}
		}
	}
	if _, _, err := accounts.Import([]byte("{nonsense")); err == nil {
		t.Error("nonsense was taken")
	}
}

// BenchmarkLogin is the cost of the first login of a client, which a Raspberry
// Pi pays too: less than 100 ms and 8 MiB there.
func BenchmarkLogin(b *testing.B) {
	hash := accounts.Hash("secret")
	b.ReportAllocs()
	for b.Loop() {
		if !accounts.Verify(hash, "secret") {
			b.Fatal("refused")
		}
	}
}
