package broker

import (
	"strings"
	"sync"
	"sync/atomic"
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

// trie finds the subscriptions that match a topic.
type trie struct {
	mu   sync.RWMutex
	root node
	// version changes with every subscription, so that what a publisher
	// found for a topic can be used again until then.
	version atomic.Uint64
}

type node struct {
	children map[string]*node
	subs     map[*session]subscription
}

// set stores s's subscription to filter and reports whether it is new.
func (t *trie) set(filter string, s *session, sub subscription) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := &t.root
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
	if n.subs == nil {
		n.subs = map[*session]subscription{}
	}
	_, known := n.subs[s]
	n.subs[s] = sub
	t.version.Add(1)
	return !known
}

// remove deletes s's subscription to filter and reports whether it existed.
func (t *trie) remove(filter string, s *session) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	path := []*node{&t.root}
	levels := strings.Split(filter, "/")
	for _, level := range levels {
		child := path[len(path)-1].children[level]
		if child == nil {
			return false
		}
		path = append(path, child)
	}
	last := path[len(path)-1]
	if _, ok := last.subs[s]; !ok {
		return false
	}
	delete(last.subs, s)
	for i := len(levels) - 1; i >= 0; i-- { // leave no empty branch behind
		if n := path[i+1]; len(n.subs) > 0 || len(n.children) > 0 {
			break
		}
		delete(path[i].children, levels[i])
	}
	t.version.Add(1)
	return true
}

// match returns the sessions whose filters match topic. The result is shared
// and must not be changed.
func (t *trie) match(topic string) []target {
	m := matcher{system: strings.HasPrefix(topic, "$")}
	t.mu.RLock()
	defer t.mu.RUnlock()
	m.walk(&t.root, topic, true, true)
	return m.targets
}

type matcher struct {
	system  bool // wildcards at the first level do not match (4.7.2)
	targets []target
	index   map[*session]int // of targets, once there are many
}

// walk goes down from n with what is left of the topic; more is false behind
// the last level.
func (m *matcher) walk(n *node, rest string, more, first bool) {
	wild := !(first && m.system)
	if wild {
		if hash := n.children["#"]; hash != nil { // also the parent level itself (4.7.1.2)
			m.add(hash.subs)
		}
	}
	if !more {
		m.add(n.subs)
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

func (m *matcher) add(subs map[*session]subscription) {
	for s, sub := range subs {
		t := m.find(s)
		t.qos = max(t.qos, sub.qos)
		t.retain = t.retain || sub.retainAsPublished
		t.local = t.local || !sub.noLocal
		if sub.id != 0 {
			t.ids = append(t.ids, sub.id)
		}
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

// validFilter reports whether a topic filter is well formed (4.7.1) and of
// bounded depth.
func validFilter(filter string) bool {
	if filter == "" || strings.Count(filter, "/") >= maxLevels {
		return false
	}
	for rest, more := filter, true; more; {
		var level string
		level, rest, more = strings.Cut(rest, "/")
		if strings.Contains(level, "#") && (level != "#" || more) || strings.Contains(level, "+") && level != "+" {
			return false
		}
	}
	return true
}
