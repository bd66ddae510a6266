package journal

// Observer is told how far a cursor is, for people who look on. It has no say.
// Both methods are called by those who read and acknowledge, and must be quick.
type Observer interface {
	// Read is called with entries that Next returns. It keeps nothing of them.
	Read(entries []Entry)
	// Acked is called when the mark has moved to seq: with nil as it was
	// acknowledged, with ErrDropped as the journal has given up what lies up to
	// there. It is called with the journal locked, so it must not use it.
	Acked(seq uint64, err error)
}

// Observe replaces the cursor's observer, nil for none. It is called while Next
// is not.
func (c *Cursor) Observe(o Observer) {
	c.j.mu.Lock()
	defer c.j.mu.Unlock()
	c.observer = o
}
