package web

import "time"

// Hurry shortens the time-outs of a server that serves nothing yet.
func (s *Server) Hurry(write, wait time.Duration) { s.times.write, s.times.wait = write, wait }

// Idle is how many connections wait for their next request.
func (s *Server) Idle() (n int) {
	s.room.mu.Lock()
	defer s.room.mu.Unlock()
	for c := range s.room.open {
		if t := c.idle.Load(); t != 0 && t <= time.Now().UnixNano() {
			n++
		}
	}
	return n
}
