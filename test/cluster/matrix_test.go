package cluster

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
)

// cell is one way to a destination. Events of all three QoS take it at once.
type cell struct {
	destination *destination
	protocol    string // 3.1, 3.1.1, 5
	transport   string // of transports
}

func (c cell) String() string {
	return c.destination.name + "/" + c.protocol + "/" + c.transport
}

var (
	protocols  = []string{"3.1", "3.1.1", "5"}
	transports = []string{"tcp", "tls", "certificate", "ws", "wss"}
)

const (
	cellsAtOnce  = 10
	killsOfEach  = 10 // of event2mqtt, and of the broker
	betweenKills = 3  // events of each QoS that have come over new connections before the next kill
)

// TestEachWayToEachBrokerSurvivesKills: over each protocol and transport, events
// with QoS 0, 1 and 2 arrive while event2mqtt and the broker are killed in turn.
// With QoS 1 and 2 all that was accepted arrives; with QoS 2 an event comes twice
// only if one of the two was killed in between. A protocol that a broker does not
// speak is told, and the events wait until another one is set.
//
// The table goes to the test's output, and to the file that MATRIX_TABLE names.
func TestEachWayToEachBrokerSurvivesKills(t *testing.T) {
	var cells []cell
	for _, d := range []*destination{mosquittoAlone(t), bundledAlone(), natsAlone()} {
		for _, p := range protocols {
			for _, tr := range transports {
				cells = append(cells, cell{d, p, tr})
			}
		}
	}
	rows := make([]string, len(cells))
	var running sync.WaitGroup
	free := make(chan struct{}, cellsAtOnce)
	for i, c := range cells {
		running.Go(func() {
			free <- struct{}{}
			defer func() { <-free }()
			t.Run(c.String(), func(t *testing.T) { rows[i] = c.run(t) })
		})
	}
	running.Wait()
	table := matrixHead + strings.Join(rows, "") + matrixFoot
	t.Log("\n" + table)
	if file := os.Getenv("MATRIX_TABLE"); file != "" {
		if err := os.WriteFile(file, []byte(table), 0o644); err != nil {
			t.Error(err)
		}
	}
}

const (
	rowHead = "%-12s %-8s %-11s %5s %8s"
	rowQoS  = " | %4s %6s %8s %7s"
)

var matrixHead = fmt.Sprintf(rowHead, "", "", "", "", "") + fmt.Sprintf(rowQoS, "", "", "", "QoS 0") + fmt.Sprintf(rowQoS, "", "", "", "QoS 1") + fmt.Sprintf(rowQoS, "", "", "", "QoS 2") + "\n" +
	fmt.Sprintf(rowHead, "destination", "protocol", "transport", "kills", "accepted") + strings.Repeat(fmt.Sprintf(rowQoS, "lost", "resent", "repeated", "doubled"), len(qosNames)) + "\n"

const matrixFoot = `accepted: events of each QoS. kills: by SIGKILL, of event2mqtt and of the broker in turn, each as soon as events of each QoS came again.
resent: by event2mqtt after a kill, since an acknowledgement was not seen, or not saved. repeated: by the broker, to a watcher that connected
anew after a kill. doubled: with nothing killed in between. max_qos: 1 has events with QoS 2 sent with QoS 1, see docs/sinks.md.
Hosted brokers are not in here: their stand-ins have a table of their own, in test/e2e.
`
