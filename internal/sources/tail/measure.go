package tail

import "sync/atomic"

// measures is how much a source has to do, as others may see it.
type measures struct{ files, behind atomic.Int64 }

// measure brings the measures up to date with a file.
func (s *Source) measure(f *file) {
	behind := max(0, f.length-f.offset)
	if f.packed != notPacked || f.copyOf != nil {
		behind = 0 // its offset is one in the text; a copy's original is read
	}
	s.measures.behind.Add(behind - f.behind)
	f.behind = behind
}

// Following returns how many files are followed, and how many bytes of them are
// not read yet. It is safe to call while the source runs.
func (s *Source) Following() (files, behind int64) {
	return s.measures.files.Load(), s.measures.behind.Load()
}
