package bridge_test

import (
	"net"
	"path/filepath"
	"strings"
	"testing"

	"event2mqtt/internal/bridge"
	"event2mqtt/internal/testkit"
)

// TestProbesTryOutWhatIsNamed: the broker with a message, addresses, what sinks
// write to, files.
func TestProbesTryOutWhatIsNamed(t *testing.T) {
	dir := t.TempDir()
	testkit.Write(t, filepath.Join(dir, "a.log"), "")
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	plan := load(t, "mqtt: {url: [\"mqtt://"+runBroker(t)+"\", \"mqtt://"+taken.Addr().String()+"\"], timeout: 1s}\nhttp: {listen: \""+taken.Addr().String()+"\"}\n"+
		"sources: [{name: log, type: tail, paths: ["+dir+"/*.log]}]\n"+
		"sinks: [{name: a, type: file, path: "+dir+"/events}, {name: b, type: file, path: "+dir+"/none/events}]\n")
	var got []string
	if err := plan.Probe(t.Context(), t.TempDir(), func(p bridge.Probed) {
		if p.Err != nil {
			p.Detail = "FAIL " + p.Err.Error()
		}
		got = append(got, p.Detail)
	}); err != nil {
		t.Fatal(err)
	}
	want := []string{"this version can use it", "connected; a message came back", "FAIL the broker does not answer (time-out)", "FAIL cannot listen on", "can be written; ", "FAIL the folder " + dir + "/none does not exist", "1 file can be read"}
	if len(got) != len(want) {
		t.Fatalf("got %q", got)
	}
	for i := range want {
		if !strings.HasPrefix(got[i], want[i]) {
			t.Errorf("got %q, want %q", got[i], want[i])
		}
	}
}
