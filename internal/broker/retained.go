package broker

import (
	"strings"
	"sync"
	"time"
)

// retained keeps the newest retained message of each topic.
type retained struct {
	// mu is held for reading while a subscriber is given what is retained, so
	// that nothing older can reach it behind something newer, and for a change
	// of a subscription or a topic together with what follows from it: a
	// message reaches a new subscriber as a retained one or as a live one,
	// never as both or as neither.
	mu    sync.RWMutex
	root  retainedNode
	count int
	bytes int
	turn  uint64 // counts what was retained
}

// retainedSize is about what a message and its topic take of memory.
func retainedSize(m *Message) int {
	deep := max(0, strings.Count(m.Topic, "/")+1-freeLevels)
	return len(m.Topic) + len(m.Payload) + len(m.properties) + len(m.client) + 256 + deep*levelBytes
}

type retainedNode struct {
	children map[string]*retainedNode
	message  *Message
}

// set stores m, or clears its topic if m's payload is empty. It reports false
// if m does not fit within the limits; what was retained then stays. r.mu is held.
func (r *retained) set(m *Message, limit *Limits) bool {
	r.turn++
	m.kept = r.turn
	path := []*retainedNode{&r.root}
	levels := strings.Split(m.Topic, "/")
	clearing := len(m.Payload) == 0
	for _, level := range levels {
		n := path[len(path)-1]
		child := n.children[level]
		if child == nil {
			if clearing {
				return true
			}
			if r.bytes+retainedSize(m) > limit.RetainedBytes || r.count >= limit.Retained {
				return false
			}
			child = &retainedNode{}
			if n.children == nil {
				n.children = map[string]*retainedNode{}
			}
			n.children[level] = child
		}
		path = append(path, child)
	}
	last := path[len(path)-1]
	size := 0
	if last.message != nil {
		size = -retainedSize(last.message)
	}
	if !clearing {
		if size += retainedSize(m); r.bytes+size > limit.RetainedBytes || last.message == nil && r.count >= limit.Retained {
			return false
		}
		if last.message == nil {
			r.count++
		}
		r.bytes += size
		last.message = m
		return true
	}
	if last.message != nil {
		r.count--
		r.bytes += size
	}
	last.message = nil
	r.prune(path, levels)
	return true
}

// prune leaves no empty branch behind. r.mu is held.
func (*retained) prune(path []*retainedNode, levels []string) {
	for i := len(levels) - 1; i >= 0; i-- {
		if n := path[i+1]; n.message != nil || len(n.children) > 0 {
			break
		}
		delete(path[i].children, levels[i])
	}
}

// get returns what is retained for a topic, or nil.
func (r *retained) get(topic string) *Message {
	r.mu.RLock()
	defer r.mu.RUnlock()
	n := &r.root
	for level := range strings.SplitSeq(topic, "/") {
		if n = n.children[level]; n == nil {
			return nil
		}
	}
	return n.message
}

// all returns everything that is retained, expired or not.
func (r *retained) all() []*Message {
	r.mu.RLock()
	defer r.mu.RUnlock()
	out := make([]*Message, 0, r.count)
	var walk func(*retainedNode)
	walk = func(n *retainedNode) {
		if n.message != nil {
			out = append(out, n.message)
		}
		for _, child := range n.children {
			walk(child)
		}
	}
	walk(&r.root)
	return out
}

// remove takes m off, if it is still what its topic retains.
func (r *retained) remove(m *Message) {
	r.mu.Lock()
	defer r.mu.Unlock()
	path := []*retainedNode{&r.root}
	levels := strings.Split(m.Topic, "/")
	for _, level := range levels {
		child := path[len(path)-1].children[level]
		if child == nil {
			return
		}
		path = append(path, child)
	}
	if last := path[len(path)-1]; last.message == m {
		last.message = nil
		r.count--
		r.bytes -= retainedSize(m)
		r.prune(path, levels)
	}
}

// each calls use with every live message that filter matches and that was
// retained up to a turn. r.mu is held by the caller.
func (r *retained) each(filter string, turn uint64, use func(*Message)) {
	r.root.each(filter, true, time.Now(), func(m *Message) {
		if m.kept <= turn {
			use(m)
		}
	})
}

func (n *retainedNode) each(rest string, first bool, now time.Time, use func(*Message)) {
	level, rest, more := strings.Cut(rest, "/")
	visit := func(child *retainedNode) {
		if more {
			child.each(rest, false, now, use)
			if rest == "#" {
				child.use(now, use) // the parent level itself (4.7.1.2)
			}
		} else {
			child.use(now, use)
		}
	}
	switch level {
	case "#":
		for name, child := range n.children {
			if first && strings.HasPrefix(name, "$") {
				continue // 4.7.2
			}
			child.use(now, use)
			child.each("#", false, now, use)
		}
	case "+":
		for name, child := range n.children {
			if first && strings.HasPrefix(name, "$") {
				continue
			}
			visit(child)
		}
	default:
		if child := n.children[level]; child != nil {
			visit(child)
		}
	}
}

func (n *retainedNode) use(now time.Time, use func(*Message)) {
	if n.message != nil && !n.message.expired(now) {
		use(n.message)
	}
}
