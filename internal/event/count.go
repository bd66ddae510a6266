package event

// Counts returns how many states each source keeps.
func (s *States) Counts() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	counts := map[string]int{}
	for at, st := range s.newest {
		if len(st.Payload) > 0 { // else it was taken back
			counts[at.source]++
		}
	}
	return counts
}
