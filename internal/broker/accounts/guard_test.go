package accounts_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"event2mqtt/internal/broker/accounts"
	"event2mqtt/internal/format"
	"event2mqtt/internal/testkit"
)

// TestFailuresOfOneNameDoNotLockOutAnother behind the same address.
func TestFailuresOfOneNameDoNotLockOutAnother(t *testing.T) {
	a := newAccounts(t, accounts.Options{Configured: users("ann"), Failures: 3, LockOut: time.Hour})
	for range 4 {
		_ = login(a, somewhere, "foo", "guess")
	}
	if err := login(a, somewhere, "foo", "guess"); !errors.Is(err, accounts.ErrLockedOut) {
		t.Errorf("foo: %v", err)
	}
	testkit.OK(t, login(a, somewhere, "ann", "ann-secret"))
}

func TestManyNamesFromOneAddressLockItOut(t *testing.T) {
	a := newAccounts(t, accounts.Options{Configured: users("ann", "bob"), Failures: 3, LockOut: time.Hour})
	testkit.OK(t, login(a, somewhere, "ann", "ann-secret"))
	for i := range 30 {
		if err := login(a, somewhere, fmt.Sprint("name", i), "guess"); !errors.Is(err, accounts.ErrRefused) {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"name99", "bob", strings.Repeat("x", 60000)} {
		if err := login(a, somewhere, name, name+"-secret"); !errors.Is(err, accounts.ErrLockedOut) {
			t.Errorf("%.10s: %v", name, err)
		}
	}
	testkit.OK(t, login(a, somewhere, "ann", "ann-secret"))
}

// TestALockOutDoesNotTellWhoWasThere: from an address that is locked out, a name
// that has logged in from there, one that has not and one that does not exist get
// the same answer after the same time, and so do they when it is over.
func TestALockOutDoesNotTellWhoWasThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const delay, lockOut = time.Second, 20 * time.Minute
		a := newAccounts(t, accounts.Options{Configured: users("ann", "bob"), Failures: 3, Delay: delay, LockOut: lockOut})
		guess := func(name string) error {
			began := time.Now()
			err := login(a, somewhere, name, "guess")
			if took := time.Since(began); took != delay {
				t.Errorf("%s is answered after %s", name, took)
			}
			return err
		}
		testkit.OK(t, login(a, somewhere, "ann", "ann-secret"))
		for i := range 30 {
			_ = guess(fmt.Sprint("name", i))
		}
		over := time.Now().Add(lockOut)
		names := []string{"ann", "bob", "nobody"}
		for i := range 20 { // more than anybody's tries
			for _, name := range names {
				if err := guess(name); !errors.Is(err, accounts.ErrLockedOut) {
					t.Fatalf("guess %d of %s: %v", i, name, err)
				}
			}
		}
		time.Sleep(time.Until(over))
		for i, want := range []error{accounts.ErrRefused, accounts.ErrRefused, accounts.ErrRefused, accounts.ErrLockedOut, accounts.ErrLockedOut} {
			for _, name := range names {
				if err := guess(name); !errors.Is(err, want) {
					t.Errorf("guess %d of %s after the lock-out: %v, want %v", i, name, err, want)
				}
			}
		}
		// She gets in, also when her password has to be checked again.
		anew := func() accounts.Options {
			return accounts.Options{Configured: []accounts.User{{Name: "ann", Hash: accounts.Hash("ann-secret")}}, Failures: 3, LockOut: lockOut}
		}
		a.SetOptions(anew())
		testkit.OK(t, changed(a.Reload()))
		testkit.OK(t, login(a, somewhere, "ann", "ann-secret"))
		// Only so many guesses are checked; nothing else shows that.
		a.SetOptions(anew())
		testkit.OK(t, changed(a.Reload()))
		for range 35 {
			_ = guess("ann")
		}
		if err := login(a, somewhere, "ann", "ann-secret"); !errors.Is(err, accounts.ErrLockedOut) {
			t.Errorf("after guessing: %v", err)
		}
		time.Sleep(10 * time.Second)
		testkit.OK(t, login(a, somewhere, "ann", "ann-secret"))
	})
}

func changed(news bool, err error) error {
	if !news && err == nil {
		return errors.New("the accounts stayed as they were")
	}
	return err
}

// TestWhoLoggedInBeforeIsKnownAfterARestart and gets in with the right
// password, though others lock its name out from its address.
func TestWhoLoggedInBeforeIsKnownAfterARestart(t *testing.T) {
	file := filepath.Join(t.TempDir(), accounts.LoginsName)
	o := accounts.Options{Configured: users("ann", "bob"), Failures: 3, LockOut: time.Hour, Logins: file}
	a := newAccounts(t, o)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() { a.Watch(ctx, func() {}) })
	testkit.OK(t, login(a, somewhere, "ann", "ann-secret"))
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		if text, err := os.ReadFile(file); err == nil && strings.Contains(string(text), "ann") { // also if it is killed now
			if strings.Contains(string(text), "secret") {
				t.Errorf("the file holds the password: %s", text)
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("not written")
		}
	}
	cancel()
	wg.Wait()

	a = newAccounts(t, o)
	for range 4 {
		_ = login(a, somewhere, "ann", "guess")
		_ = login(a, somewhere, "bob", "guess")
	}
	testkit.OK(t, login(a, somewhere, "ann", "ann-secret"))
	if err := login(a, somewhere, "bob", "bob-secret"); !errors.Is(err, accounts.ErrLockedOut) {
		t.Errorf("one who was never here: %v", err)
	}
	// Guessing the password of one who was here before gets no further.
	a = newAccounts(t, o)
	looked := 0
	for range 100 {
		if !errors.Is(login(a, somewhere, "ann", "guess"), accounts.ErrLockedOut) {
			looked++
		}
	}
	if looked > 20 {
		t.Errorf("%d of 100 guesses were looked at", looked)
	}
}

func TestADamagedFileOfLoginsIsAsIfThereWereNone(t *testing.T) {
	file := filepath.Join(t.TempDir(), accounts.LoginsName)
	for _, text := range []string{"", "{", "[]", `{"format":0}`, `{"format":1,"logins":[{"address":"x"}]}`, strings.Repeat(" ", 2<<20)} {
		testkit.OK(t, os.WriteFile(file, []byte(text), 0o600))
		a := newAccounts(t, accounts.Options{Configured: users("ann"), Logins: file})
		testkit.OK(t, login(a, somewhere, "ann", "ann-secret"))
	}
	const newer = `{"format":2,"logins":"otherwise"}`
	testkit.OK(t, os.WriteFile(file, []byte(newer), 0o600))
	if _, err := accounts.New(accounts.Options{Logins: file}); !errors.Is(err, format.ErrNewer) {
		t.Errorf("one of a newer version: %v", err)
	}
	testkit.OK(t, os.Remove(file))
	testkit.OK(t, os.Mkdir(file, 0o700))
	testkit.OK(t, login(newAccounts(t, accounts.Options{Configured: users("ann"), Logins: file}), somewhere, "ann", "ann-secret"))
}

func TestAUserNameWhereThereAreNoAccountsIsNoGuess(t *testing.T) {
	a := newAccounts(t, accounts.Options{Failures: 2})
	for range 100 {
		if err := login(a, somewhere, "ann", "x"); !errors.Is(err, accounts.ErrNoAccounts) {
			t.Fatal(err)
		}
	}
}

func TestACertificateWithoutAnAccountIsNamedAndNoGuess(t *testing.T) {
	a := newAccounts(t, accounts.Options{Failures: 2, Configured: users("ann")})
	for range 5 {
		_, err := a.Login(context.Background(), accounts.Attempt{Address: somewhere, Certificate: "fridge", ClientID: "c"})
		var cert *accounts.CertificateError
		if !errors.As(err, &cert) || cert.Name != "fridge" || !strings.Contains(err.Error(), "fridge") {
			t.Fatal(err)
		}
	}
}

// TestALoginThatIsNotLookedAtInTimeIsBusy and no wrong password.
func TestALoginThatIsNotLookedAtInTimeIsBusy(t *testing.T) {
	a := newAccounts(t, accounts.Options{Configured: []accounts.User{{Name: "ann", Hash: accounts.Hash("x")}}, Failures: 1000})
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	busy := false
	for range 100 { // a free place may be taken all the same
		_, err := a.Login(ctx, accounts.Attempt{Address: somewhere, User: "ann", HasUser: true, Password: "y"})
		busy = busy || errors.Is(err, accounts.ErrBusy)
		if err != nil && !errors.Is(err, accounts.ErrBusy) && !errors.Is(err, accounts.ErrRefused) {
			t.Fatal(err)
		}
	}
	if !busy {
		t.Error("never busy")
	}
}

// TestWhoLoggedInBeforeDoesNotWaitForStrangers whose passwords are checked first
// in, first out.
func TestWhoLoggedInBeforeDoesNotWaitForStrangers(t *testing.T) {
	file := filepath.Join(t.TempDir(), accounts.LoginsName)
	testkit.Write(t, file, fmt.Sprintf(`{"format":1,"logins":[{"address":"%s/32","user":"ann","last":"2026-01-02T03:04:05Z"}]}`, somewhere))
	slow := accounts.User{Name: "slow", Hash: fmt.Sprintf("$7$15000$c2FsdA==$%s", base64.StdEncoding.EncodeToString(make([]byte, 64)))}
	a := newAccounts(t, accounts.Options{Configured: append(users("ann"), slow), Failures: 1000, Logins: file})
	const strangers = 24
	var done atomic.Int64
	started := make(chan struct{}, strangers)
	var wg sync.WaitGroup
	for range strangers {
		wg.Go(func() {
			if err := login(a, elsewhere, "slow", "guess"); !errors.Is(err, accounts.ErrRefused) {
				t.Errorf("a stranger: %v", err)
			}
			done.Add(1)
			started <- struct{}{}
		})
	}
	<-started // the others wait by now
	testkit.OK(t, login(a, somewhere, "ann", "ann-secret"))
	if n := done.Load(); n > strangers-4 { // two are checked at a time
		t.Errorf("%d of %d strangers were first", n, strangers)
	}
	wg.Wait()
}
