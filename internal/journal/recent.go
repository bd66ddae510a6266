package journal

import "sort"

// recent holds the newest entries in memory, at most limit bytes of them.
type recent struct {
	entries []Entry // ascending seq; entries[:head] are gone
	head    int
	bytes   int
	limit   int
}

// entryOverhead is roughly what an entry costs beside its payload.
const entryOverhead = 160

func (r *recent) push(e Entry) {
	r.entries = append(r.entries, e)
	r.bytes += len(e.Payload) + entryOverhead
	for r.bytes > r.limit && r.head < len(r.entries)-1 {
		r.bytes -= len(r.entries[r.head].Payload) + entryOverhead
		r.entries[r.head] = Entry{}
		r.head++
	}
	if r.head > len(r.entries)/2 && r.head > 64 {
		n := copy(r.entries, r.entries[r.head:])
		clear(r.entries[n:])
		r.entries, r.head = r.entries[:n], 0
	}
}

// from appends entries with seq and later to buf, up to its capacity. ok is
// false if seq may lie before the oldest entry held.
func (r *recent) from(seq uint64, buf []Entry) (out []Entry, ok bool) {
	live := r.entries[r.head:]
	if len(live) == 0 || live[0].Seq > seq {
		return buf, false
	}
	i := sort.Search(len(live), func(i int) bool { return live[i].Seq >= seq })
	n := min(cap(buf)-len(buf), len(live)-i)
	return append(buf, live[i:i+n]...), true
}

// Recent returns the event of a number, if it is in memory.
func (j *Journal) Recent(seq uint64) (Entry, bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	found, ok := j.recent.from(seq, make([]Entry, 0, 1))
	if !ok || len(found) == 0 || found[0].Seq != seq {
		return Entry{}, false
	}
	return found[0], true
}
