package mqtt

// This file is what the sink has learnt of what a broker never takes, so that
// the tenth message with the same fault does not cost as many connections as
// the first.

// messageKind is what a broker may have against a message.
type messageKind struct {
	topic  string
	qos    byte
	retain bool
	size   int // of the payload, in bytes
}

func kindOf(m *message) messageKind { return messageKind{m.topic, m.qos, m.retain, len(m.payload)} }

// lessons are what one broker has refused for certain and not taken since.
// They are forgotten when the sink ends, as it does when its configuration
// changes. One goroutine at a time uses them.
type lessons struct {
	broker int // they are of, an index of the brokers
	taken  int // the largest payload that was acknowledged, in bytes
	// size is the smallest payload that was refused as too large, or 0.
	size       int
	sizeSilent bool
	// kinds are the messages, without their sizes, that were refused for
	// another reason; the value is whether they were never acknowledged.
	kinds map[messageKind]bool
	// retained is set once a retained message was acknowledged; unretained are how
	// many were refused since, by whether they were never acknowledged.
	retained   bool
	unretained map[bool]int
}

// manyUnretained is how many retained messages must have been refused, and none
// taken since, for the next to be like them whatever their topics are. If none
// was ever taken, states are not sent any more: each that changes would cost
// connections again and again.
const manyUnretained = 2

// takesNoStates is why a state is not sent.
const takesNoStates = "the broker takes no retained messages, as it has shown with others"

// maxLessons bounds the kinds that are remembered.
const maxLessons = 256

// mayBeTooLarge reports whether a payload's size may be what the broker has
// against it: it takes no larger ones, and few brokers allow so little.
func (s *Sink) mayBeTooLarge(size int) bool { return size > max(s.lessons.taken, 1<<10) }

// learn notes that a message was refused for certain.
func (s *Sink) learn(m *message) {
	s.sameBroker()
	k, silent := kindOf(m), s.doubt.blamed.silent
	if s.mayBeTooLarge(k.size) {
		if s.lessons.size == 0 || k.size < s.lessons.size {
			s.lessons.size, s.lessons.sizeSilent = k.size, silent
		}
		return
	}
	k.size = 0
	if k.retain {
		if s.lessons.unretained == nil {
			s.lessons.unretained = map[bool]int{}
		}
		s.lessons.unretained[silent]++
		s.stateless.Store(!s.lessons.retained && s.lessons.unretained[silent] >= manyUnretained)
	}
	if s.lessons.kinds == nil || len(s.lessons.kinds) >= maxLessons {
		s.lessons.kinds = map[messageKind]bool{}
	}
	s.lessons.kinds[k] = silent
}

// took notes that a message was acknowledged: nothing that is no worse is
// refused for its kind.
func (s *Sink) took(k messageKind) {
	s.sameBroker()
	l := &s.lessons
	l.taken = max(l.taken, k.size)
	if k.retain {
		l.retained = true
		clear(l.unretained)
		s.stateless.Store(false)
	}
	if k.size >= l.size {
		l.size = 0
	}
	if len(l.kinds) > 0 {
		k.size = 0
		delete(l.kinds, k)
	}
}

// enough is how many careful connections a message must have ended, alone, to
// be blamed for it: one if the same was certain of one like it.
func (s *Sink) enough(what thing, m *message, silent bool) int {
	s.sameBroker()
	if what.kind == aBirth { // which is left out for good
		return certain
	}
	k, l := kindOf(m), &s.lessons
	if l.size > 0 && k.size >= l.size && l.sizeSilent == silent {
		return 1
	}
	k.size = 0
	if was, known := l.kinds[k]; known && was == silent {
		return 1
	}
	if k.retain && l.unretained[silent] >= manyUnretained {
		return 1
	}
	return certain
}

// sameBroker forgets what was learnt of another broker.
func (s *Sink) sameBroker() {
	if s.lessons.broker != s.next {
		s.lessons = lessons{broker: s.next}
		s.stateless.Store(false)
	}
}
