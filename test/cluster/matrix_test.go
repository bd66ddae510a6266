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

var matrixHead = fmt.Sprintf(rowFormat, "", "", "", "", "", "QoS 0", "", "QoS 1", "", "", "QoS 2", "", "") +
	fmt.Sprintf(rowFormat, "destination", "protocol", "transport", "kills", "accepted", "lost", "twice", "lost", "twice", "lost", "twice", "without a kill ", "")

const (
	rowFormat  = "%-16s %-8s %-11s %5s %8s  %5s %5s  %5s %5s  %5s %5s %-15s%s\n"
	matrixFoot = `accepted: events of each QoS. kills: by SIGKILL, half of event2mqtt, half of the broker, each as soon as events of each QoS came again.
twice: with a kill in between, since an event whose acknowledgement was not seen, or not saved, is sent again.
Hosted brokers are not in here: their stand-ins are tried by the tests of internal/sinks/mqtt.
`
)
