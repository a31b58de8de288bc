package cli

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"kigo/engine"
)

const (
	exitOK          = 0
	exitFailure     = 1
	exitUsage       = 2
	exitFault       = 70 // the device has failed; a new process may have more luck
	exitHung        = 71 // a step of the device did not end
	exitLost        = 72 // the device is gone; a new process needs another one
	exitInterrupted = 130
)

// exitCode is the one place where errors become exit codes.
func exitCode(err error) int {
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, engine.ErrDeviceHung):
		return exitHung
	case errors.Is(err, engine.ErrDeviceLost):
		return exitLost
	case errors.Is(err, engine.ErrFatal):
		return exitFault
	case interrupted(err):
		return exitInterrupted
	case errors.As(err, new(*usageError)):
		return exitUsage
	}
	return exitFailure
}

// sentence is an error on one line.
func sentence(err error) string {
	return strings.ReplaceAll(escapeControls(describe(err)), "\n", "; ")
}

// exitWithin is when a process ends whose device has failed, if it has not by
// itself: something may be stuck in the device, or in a pipe that nobody reads.
const exitWithin = 4 * time.Second

// whenFailed writes the termination message as soon as the device of e fails,
// and sees to it that the process ends from then on. The returned function ends
// the waiting for a failure.
func (a *app) whenFailed(e *engine.Engine, o *serveOptions) (ended func()) {
	done := make(chan struct{})
	go func() {
		select {
		case <-done:
			return
		case <-e.Failed():
		}
		failure := e.Status().Failure
		if a.exit != nil {
			time.AfterFunc(exitWithin, func() { a.exit(exitCode(failure)) })
		}
		o.terminationMessage(failure)
	}()
	return func() { close(done) }
}

// maxTermination is what Kubernetes keeps of a termination message.
const maxTermination = 4096

// terminationMessage leaves the reason of the process's end where --termination-log
// says. A message that cannot be written is worth a line in the log and no more.
func (o *serveOptions) terminationMessage(err error) {
	if o.terminationLog == "" || err == nil {
		return
	}
	text := sentence(err)
	if len(text) >= maxTermination {
		text = strings.ToValidUTF8(text[:maxTermination-1], "")
	}
	if err := writeMessage(o.terminationLog, text+"\n"); err != nil {
		o.server.Log.Warn().Err(err).Msg("the termination message was not written")
	}
}

func writeMessage(path, text string) error {
	// A pipe without a reader must not hold the process up.
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|syscall.O_NONBLOCK, 0o644)
	if err != nil {
		return err
	}
	if _, err := f.WriteString(text); err != nil {
		return errors.Join(err, f.Close())
	}
	return f.Close()
}

// closeWithin closes an engine, at most for so long.
func closeWithin(e *engine.Engine, patience time.Duration) error {
	closed := make(chan error, 1)
	go func() { closed <- e.Close() }()
	select {
	case err := <-closed:
		return err
	case <-time.After(patience):
		return fmt.Errorf("the engine did not end within %v", patience)
	}
}
