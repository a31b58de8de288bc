package engine

// Running says whether a stream has not ended, as its reader would find out
// only by reading.
func (e *Engine) Running(s *Stream) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.streams[s.started.ID] != nil
}
