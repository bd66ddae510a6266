package mqtt

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/renameio/v2"

	"event2mqtt/internal/config/file"
	"event2mqtt/internal/format"
	"event2mqtt/internal/topic"
)

// ledger is what brokers keep for the sink: the topics of its retained messages
// and whose they are, without the values, for each broker that was connected
// to. A topic is in the file before anything is published to it, so that what a
// crash leaves behind can be cleared after it. One goroutine at a time uses it.
type ledger struct {
	path    string // of the file; "" for none
	content ledgerContent
}

// ledgerContent is the file's.
type ledgerContent struct {
	Format  int      `json:"format"`
	Brokers []*shelf `json:"brokers"` // the one that was used last comes last
}

// shelf is what one broker keeps.
type shelf struct {
	Broker string           `json:"broker"` // as brokerID has it
	Topics map[string]owner `json:"topics"`

	book  *ledger
	bytes int  // of Topics, about
	dirty bool // what the file has is more than Topics
}

// owner is whose a retained message is.
type owner struct {
	Source string `json:"source"`
	Key    string `json:"key"`
	// Own is set if the state named the topic itself.
	Own bool `json:"own,omitempty"`
}

// Bounds of the ledger. A topic beyond them is not published to.
const (
	ledgerFormat   = 1
	maxLedgerFile  = 32 << 20 // bytes
	maxLedgerBytes = 2 << 20  // of topics and keys, for one broker
	maxTopics      = 20_000   // of one broker
	maxBrokers     = 8        // the ones that were used last
)

// ledgerPath is the file of a sink in a state folder.
func ledgerPath(stateDir, sink string) string {
	return filepath.Join(stateDir, topic.Safe(sink)+".retained.json")
}

// readLedger reads the file. The error may be fs.ErrNotExist, or
// format.ErrNewer.
func readLedger(path string) (c ledgerContent, err error) {
	text, err := file.Read(path, maxLedgerFile)
	if err != nil {
		return c, err
	}
	var is struct { // what newer versions write otherwise may not fit the rest
		Format int `json:"format"`
	}
	if err = json.Unmarshal(text, &is); err != nil {
		return c, err
	}
	if err := format.CheckFile(path, is.Format, ledgerFormat); err != nil {
		return c, err
	}
	if is.Format != ledgerFormat {
		return c, fmt.Errorf("its format is %d; this version knows %d", is.Format, ledgerFormat)
	}
	return c, json.Unmarshal(text, &c)
}

// openLedger reads the file, if there is one. One that cannot be read is set
// aside; the ledger is then empty, and of use all the same. One that a newer
// version wrote is left alone: the error is format.ErrNewer, and there is no
// ledger.
func openLedger(path string) (*ledger, error) {
	b := &ledger{path: path, content: ledgerContent{Format: ledgerFormat}}
	if path == "" {
		return b, nil
	}
	c, err := readLedger(path)
	if errors.Is(err, format.ErrNewer) {
		return nil, err
	}
	b.sweep()
	if errors.Is(err, fs.ErrNotExist) {
		return b, nil
	}
	if err != nil {
		aside := path + ".damaged"
		_ = os.Rename(path, aside)
		return b, fmt.Errorf("read %s: %w; it is set aside as %s", path, err, aside)
	}
	b.content = c
	b.content.Brokers = slices.DeleteFunc(c.Brokers, func(s *shelf) bool { return s == nil })
	for _, s := range b.content.Brokers {
		s.book = b
		if s.Topics == nil {
			s.Topics = map[string]owner{}
		}
		for topic, o := range s.Topics {
			s.bytes += o.size(topic)
		}
	}
	return b, nil
}

func (o owner) size(topic string) int { return len(topic) + len(o.Source) + len(o.Key) }

// at returns the shelf of a broker. If there are too many, the one that was not
// used for the longest time goes.
func (b *ledger) at(broker string) *shelf {
	all := b.content.Brokers
	i := slices.IndexFunc(all, func(s *shelf) bool { return s.Broker == broker })
	s := &shelf{Broker: broker, Topics: map[string]owner{}, book: b}
	if i >= 0 {
		s = all[i]
		all = slices.Delete(all, i, i+1)
	}
	if len(all) >= maxBrokers {
		all = slices.Delete(all, 0, len(all)-maxBrokers+1)
	}
	b.content.Brokers = append(all, s)
	return s
}

// save writes the file.
func (b *ledger) save() error {
	if b.path == "" {
		return nil
	}
	kept := ledgerContent{Format: ledgerFormat}
	for _, s := range b.content.Brokers {
		if len(s.Topics) > 0 {
			kept.Brokers = append(kept.Brokers, s)
		}
	}
	text, err := json.Marshal(kept)
	if err == nil {
		err = b.write(text)
	}
	if err != nil {
		return fmt.Errorf("keep in %s which topics are retained: %w", b.path, err)
	}
	for _, s := range b.content.Brokers {
		s.dirty = false
	}
	return nil
}

// write replaces the file, so that a power cut leaves the old one or the new.
func (b *ledger) write(text []byte) error {
	err := renameio.WriteFile(b.path, text, 0o600)
	if of := (*fs.PathError)(nil); errors.As(err, &of) {
		return of.Err // its path is that of a file with another name each time
	}
	if err != nil {
		return err
	}
	if dir, err := os.Open(filepath.Dir(b.path)); err == nil {
		_ = dir.Sync() // not all systems can; the file itself is synced
		_ = dir.Close()
	}
	return nil
}

// sweep removes what a crash has left of files that were being written.
func (b *ledger) sweep() {
	dir, name := filepath.Split(b.path)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return // writing says so
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "."+name) {
			_ = os.Remove(filepath.Join(dir, e.Name()))
		}
	}
}

// fits reports whether there is room for another topic, beside so many more,
// which have so many bytes.
func (s *shelf) fits(topic string, o owner, more, bytes int) bool {
	return s.bytes+bytes+o.size(topic) <= maxLedgerBytes && len(s.Topics)+more < maxTopics
}

// add takes topics in, and returns when the file has them. On error none is in.
func (s *shelf) add(fresh map[string]owner) error {
	if len(fresh) == 0 {
		return nil
	}
	before := maps.Clone(s.Topics)
	size := s.bytes
	for topic, o := range fresh {
		if old, there := s.Topics[topic]; there {
			s.bytes -= old.size(topic)
		}
		s.Topics[topic] = o
		s.bytes += o.size(topic)
	}
	if err := s.book.save(); err != nil {
		s.Topics, s.bytes = before, size
		return err
	}
	return nil
}

// forget takes a topic out, which the broker keeps no more. The file may have
// it until the next tidy: clearing it twice does no harm.
func (s *shelf) forget(topic string) {
	if o, there := s.Topics[topic]; there {
		delete(s.Topics, topic)
		s.bytes -= o.size(topic)
		s.dirty = true
	}
}

// tidy brings the file up to date if topics were forgotten.
func (s *shelf) tidy() {
	if s.dirty {
		_ = s.book.save() // the next one may work; too much in it does no harm
	}
}

// openLedger reads what brokers keep for the sink, from its file. The error is
// format.ErrNewer.
func (s *Sink) openLedger() (*ledger, error) {
	path := ""
	if s.opt.StateDir != "" {
		path = ledgerPath(s.opt.StateDir, s.opt.Name)
	}
	l, err := openLedger(path)
	if errors.Is(err, format.ErrNewer) {
		return nil, err
	}
	if err != nil {
		s.opt.Log.Error().Err(err).Msg("mqtt: which topics are retained at the broker is not known any more; what is no longer configured may stay there")
	}
	return l, nil
}
