package engine

// What happens when the device cannot be used any more: whoever finds out calls
// fail, which latches it for good. Loads and new requests are refused from then
// on, the streams end with the failure, and nothing is called on the device any
// more, not even to free what is on it: on a dead context every call is one
// more failure, and on a hung one it does not return.

// fail latches the failure; the first counts. err is an ErrFatal. Any goroutine
// may call it.
func (e *Engine) fail(err error) {
	e.mu.Lock()
	if e.failure != nil {
		e.mu.Unlock()
		return
	}
	e.failure = err
	e.update()
	close(e.failed)
	e.mu.Unlock()
	e.stop(err) // loads in progress
	// Last, because a log that nobody reads may hold its writer up.
	e.cfg.Log.Error().Err(err).Msg("device failed")
}

// Failed is closed when the device cannot be used any more. Status().Failure
// says why.
func (e *Engine) Failed() <-chan struct{} { return e.failed }

// failureNow is why the device cannot be used any more; nil while it can.
func (e *Engine) failureNow() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.failure
}

// usable says whether the device can still be called.
func (e *Engine) usable() bool { return e.failureNow() == nil }

// why is the reason that nothing more is done: the device's failure, or the
// engine's own end.
func (e *Engine) why() error {
	if err := e.failureNow(); err != nil {
		return err
	}
	return ErrDraining
}

// failBy fails the engine if err says that the device cannot be used any more,
// ends the streams, and gives the error to report. It is for goroutines other
// than the owner's.
func (e *Engine) failBy(err error) error {
	failure := fatalError(err)
	if failure == nil {
		return err
	}
	e.fail(failure)
	e.owner.post(func() { e.owner.endAll(failure) })
	return failure
}

// free gives a model's memory back, on the owner's goroutine.
func (e *Engine) free(m *served) error {
	if !e.usable() { // the memory goes with the process
		return nil
	}
	return m.close()
}

// discard frees a model that was never put in service.
func (e *Engine) discard(m *served) error {
	return e.owner.callAlone(func() error { return e.free(m) })
}
