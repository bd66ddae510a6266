package listen

import (
	"fmt"
	"net"
	"strings"
	"testing"
)

func hasIPv6() bool {
	l, err := net.Listen("tcp", "[::1]:0")
	if err == nil {
		_ = l.Close()
	}
	return err == nil
}

// TestAnyPortOfLocalhostIsTheSameOnBoth.
func TestAnyPortOfLocalhostIsTheSameOnBoth(t *testing.T) {
	s := New()
	l, err := s.Listen("http.listen", Address{"tcp", "localhost:0"})
	if err != nil {
		t.Fatal(err)
	}
	open := s.Addresses(Address{"tcp", "localhost:0"})
	want := 2
	if !hasIPv6() {
		want = 1
	}
	if len(open) != want || portNumber(open[0]) == 0 || portNumber(open[0]) != portNumber(open[want-1]) {
		t.Errorf("open: %v", open)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if again := s.Addresses(Address{"tcp", "localhost:0"}); len(again) > 0 || len(s.open) > 0 {
		t.Errorf("after its end: %v", again)
	}
	if _, err := l.Accept(); err == nil {
		t.Error("it accepts after its end")
	}
}

func portNumber(a net.Addr) int { return a.(*net.TCPAddr).Port }

// TestOneOfTheLoopbacksInUseIsSaid, and the other is free again.
func TestOneOfTheLoopbacksInUseIsSaid(t *testing.T) {
	if !hasIPv6() {
		t.Skip("this machine has no ::1")
	}
	other, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	port := fmt.Sprint(portNumber(other.Addr()))
	s := New()
	if _, err := s.Listen("http.listen", Address{"tcp", "localhost:" + port}); err == nil || !strings.Contains(err.Error(), "cannot listen on [::1]:"+port+": another program listens there already") {
		t.Errorf("got %v", err)
	}
	if len(s.open) > 0 {
		t.Errorf("left open: %v", s.open)
	}
}

func TestAddressesOverlap(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"127.0.0.1:1", "127.0.0.1:1", true}, {"127.0.0.1:1", "127.0.0.1:2", false}, {"127.0.0.1:1", ":1", true}, {"localhost:1", "[::1]:1", true},
		{"localhost:1", "192.168.1.1:1", false}, {"0.0.0.0:1", "192.168.1.1:1", true}, {"127.0.0.1:0", "127.0.0.1:0", false},
	} {
		a, b := Address{"tcp", c.a}, Address{"tcp", c.b}
		if a.Overlaps(b) != c.want || b.Overlaps(a) != c.want {
			t.Errorf("%s and %s: not %t", c.a, c.b, c.want)
		}
	}
}
