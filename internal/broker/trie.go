package broker

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"event2mqtt/internal/broker/accounts"
)

// subscription is what a session asked for with one filter.
type subscription struct {
	qos               byte
	noLocal           bool
	retainAsPublished bool
	id                uint32 // 0 is none
}

// target is a session that a message goes to, once, whatever the number of
// its filters that match.
type target struct {
	session *session
	qos     byte
	retain  bool // keep the message's retain flag
	local   bool // also if the session published it itself
	ids     []uint32
}

// matched are those who get a topic: every target, and one of each group.
type matched struct {
	targets []target
	groups  []group
	version uint64 // of the trie
}

// group are the subscribers that share a subscription (4.8.2).
type group struct {
	members []target
	turn    *atomic.Uint32
}

// weight is how many ordinary filters a filter is as large as.
func weight(filter string) int {
	return 1 + strings.Count(filter, "/")/freeLevels + len(filter)/freeBytes
}

// choose adds one member of each group to the targets: in turn, and better
// one that is connected and has room.
func (to matched) choose(m *Message, limit *Limits) []target {
	if len(to.groups) == 0 {
		return to.targets
	}
	targets := append([]target(nil), to.targets...)
	for _, g := range to.groups {
		n := len(g.members)
		first := int(g.turn.Add(1) % uint32(n))
		best, rank := 0, 0
		for i := range n {
			k := (first + i) % n
			if r := g.members[k].session.fitness(m, limit); r > rank {
				if best, rank = k, r; r == fit {
					break
				}
			}
		}
		if rank > 0 {
			targets = append(targets, g.members[best])
		}
	}
	return targets
}

// has reports whether a session is among those who get a topic.
func (to matched) has(s *session) bool {
	is := func(t target) bool { return t.session == s }
	return slices.ContainsFunc(to.targets, is) || slices.ContainsFunc(to.groups, func(g group) bool { return slices.ContainsFunc(g.members, is) })
}

// splitShared takes a shared subscription's filter apart: "$share/NAME/FILTER".
// ok is false if it should be one and is malformed.
func splitShared(filter string) (name, rest string, ok bool) {
	rest, shared := strings.CutPrefix(filter, "$share/")
	if !shared {
		return "", filter, filter != "$share"
	}
	name, rest, found := strings.Cut(rest, "/")
	return name, rest, found && name != "" && rest != "" && !strings.ContainsAny(name, "+#")
}

// trie finds the subscriptions that match a topic.
type trie struct {
	mu   sync.RWMutex
	root node
	// version changes with every subscription, so that what a publisher
	// found for a topic can be used again until then.
	version atomic.Uint64
	count   atomic.Int64 // of subscriptions
	sharers atomic.Int64 // of shared ones
	weight  atomic.Int64 // of their filters
}

type node struct {
	children map[string]*node
	subs     map[*session]subscription
	shared   map[string]*sharing // by name
}

type sharing struct {
	subs map[*session]subscription
	turn atomic.Uint32
}

func (n *node) empty() bool { return len(n.subs) == 0 && len(n.children) == 0 && len(n.shared) == 0 }

// set stores s's subscription to filter and reports whether it is new.
func (t *trie) set(filter string, s *session, sub subscription) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := &t.root
	share, filter, _ := splitShared(filter)
	for level := range strings.SplitSeq(filter, "/") {
		child := n.children[level]
		if child == nil {
			child = &node{}
			if n.children == nil {
				n.children = map[string]*node{}
			}
			n.children[level] = child
		}
		n = child
	}
	subs := &n.subs
	if share != "" {
		if n.shared == nil {
			n.shared = map[string]*sharing{}
		}
		if n.shared[share] == nil {
			n.shared[share] = &sharing{}
		}
		subs = &n.shared[share].subs
	}
	if *subs == nil {
		*subs = map[*session]subscription{}
	}
	_, known := (*subs)[s]
	(*subs)[s] = sub
	if !known {
		t.count.Add(1)
		if share != "" {
			t.sharers.Add(1)
		}
	}
	t.version.Add(1)
	return !known
}

// remove deletes s's subscription to filter and reports whether it existed.
func (t *trie) remove(filter string, s *session) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	path := []*node{&t.root}
	share, filter, _ := splitShared(filter)
	levels := strings.Split(filter, "/")
	for _, level := range levels {
		child := path[len(path)-1].children[level]
		if child == nil {
			return false
		}
		path = append(path, child)
	}
	last := path[len(path)-1]
	subs := last.subs
	if share != "" {
		if last.shared[share] == nil {
			return false
		}
		subs = last.shared[share].subs
	}
	if _, ok := subs[s]; !ok {
		return false
	}
	delete(subs, s)
	if share != "" {
		t.sharers.Add(-1)
	}
	if share != "" && len(subs) == 0 {
		delete(last.shared, share)
	}
	t.count.Add(-1)
	for i := len(levels) - 1; i >= 0; i-- { // leave no empty branch behind
		if !path[i+1].empty() {
			break
		}
		delete(path[i].children, levels[i])
	}
	t.version.Add(1)
	return true
}

// match returns those whose filters match topic and who may read it. The
// result is shared and must not be changed.
func (t *trie) match(topic string) matched {
	m := matcher{topic: topic, system: strings.HasPrefix(topic, "$")}
	t.mu.RLock()
	defer t.mu.RUnlock()
	m.version = t.version.Load()
	m.walk(&t.root, topic, true, true)
	return m.matched
}

type matcher struct {
	topic  string
	system bool // wildcards at the first level do not match (4.7.2)
	matched
	index map[*session]int // of targets, once there are many
}

// walk goes down from n with what is left of the topic; more is false behind
// the last level.
func (m *matcher) walk(n *node, rest string, more, first bool) {
	wild := !(first && m.system)
	if wild {
		if hash := n.children["#"]; hash != nil { // also the parent level itself (4.7.1.2)
			m.add(hash)
		}
	}
	if !more {
		m.add(n)
		return
	}
	level, rest, more := strings.Cut(rest, "/")
	if child := n.children[level]; child != nil {
		m.walk(child, rest, more, false)
	}
	if wild {
		if plus := n.children["+"]; plus != nil {
			m.walk(plus, rest, more, false)
		}
	}
}

func (m *matcher) add(n *node) {
	for s, sub := range n.subs {
		if s.mayRead(m.topic) {
			m.find(s).add(sub)
		}
	}
	for _, share := range n.shared {
		g := group{turn: &share.turn}
		for s, sub := range share.subs {
			if s.mayRead(m.topic) {
				t := target{session: s}
				t.add(sub)
				g.members = append(g.members, t)
			}
		}
		if len(g.members) > 0 {
			m.groups = append(m.groups, g)
		}
	}
}

func (t *target) add(sub subscription) {
	t.qos = max(t.qos, sub.qos)
	t.retain = t.retain || sub.retainAsPublished
	t.local = t.local || !sub.noLocal
	if sub.id != 0 {
		t.ids = append(t.ids, sub.id)
	}
}

func (m *matcher) find(s *session) *target {
	if m.index == nil {
		for i := range m.targets {
			if m.targets[i].session == s {
				return &m.targets[i]
			}
		}
		if len(m.targets) == 16 {
			m.index = map[*session]int{}
			for i := range m.targets {
				m.index[m.targets[i].session] = i
			}
		}
	} else if i, ok := m.index[s]; ok {
		return &m.targets[i]
	}
	if m.index != nil {
		m.index[s] = len(m.targets)
	}
	m.targets = append(m.targets, target{session: s})
	return &m.targets[len(m.targets)-1]
}

// subscribable reports whether a filter, without the name of a share, is well
// formed and within the limits.
func (b *Broker) subscribable(filter string) bool {
	return len(filter) <= b.limit().TopicLength && strings.Count(filter, "/") < b.limit().TopicLevels && accounts.ValidFilter(filter)
}
