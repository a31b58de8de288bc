package engine

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"kigo/engine/device"
	"kigo/engine/load"
	"kigo/engine/model"
)

// What can go wrong, to be matched with errors.Is. Errors of the packages
// below (gguf, quant, tokenizer, chat, sample) reach the caller wrapped, with
// their own sentinels.
var (
	ErrNoModel        = errors.New("no such model is loaded")
	ErrAlreadyLoaded  = errors.New("another model is loaded")
	ErrQueueFull      = errors.New("the queue is full")
	ErrDraining       = errors.New("the server is shutting down")
	ErrSlowReader     = errors.New("the reader is too slow")
	ErrUnloaded       = errors.New("the model was unloaded")
	ErrLoadInProgress = errors.New("another model is being loaded")
	ErrInternal       = errors.New("internal error")
	ErrUnknownRequest = errors.New("no such request is running")
	ErrFileChanged    = errors.New("the file changed while it was read")
)

// The device cannot be used any more, and the process should be replaced. The
// three kinds are ErrFatal as well.
var (
	ErrFatal       = errors.New("the device cannot be used any more")
	ErrDeviceFault = fmt.Errorf("%w: it has failed", ErrFatal)
	ErrDeviceHung  = fmt.Errorf("%w: a step does not end", ErrFatal)
	ErrDeviceLost  = fmt.Errorf("%w: it is gone", ErrFatal)
)

// fatalError is err as one of the three where it says that nothing works on the
// device any more; nil otherwise.
func fatalError(err error) error {
	switch {
	case err == nil, errors.Is(err, ErrFatal):
		return err
	case errors.Is(err, device.ErrGone):
		return fmt.Errorf("%w: %w", ErrDeviceLost, err)
	case errors.Is(err, device.ErrLost):
		return fmt.Errorf("%w: %w", ErrDeviceFault, err)
	}
	return nil
}

// Fatal gives err as an ErrFatal if it says that the device cannot be used any more,
// and otherwise as it is: for what computes on a device without an Engine.
func Fatal(err error) error {
	if failure := fatalError(err); failure != nil {
		return failure
	}
	return err
}

// fatalKind is the one of the three that err is.
func fatalKind(err error) error {
	for _, kind := range []error{ErrDeviceFault, ErrDeviceHung, ErrDeviceLost} {
		if errors.Is(err, kind) {
			return kind
		}
	}
	return ErrFatal
}

// Errors of packages that the edge does not import.
var (
	ErrDoesNotFit       = device.ErrOutOfMemory // found before any memory is taken, as a rule
	ErrNotSupported     = device.ErrNotSupported
	ErrUnsupportedModel = model.ErrUnsupported
	ErrInvalidModel     = model.ErrInvalid
	ErrTruncated        = load.ErrTruncated
	ErrCorrupt          = load.ErrCorrupt
)

// Violation is one thing wrong with a request.
type Violation struct {
	Field  string // the API's own field name: "sampling.top_p"
	Reason string // what is wrong and what is allowed
}

// InvalidError reports everything that is wrong with a request at once.
type InvalidError struct {
	Violations []Violation
}

func (e *InvalidError) Error() string {
	parts := make([]string, len(e.Violations))
	for i, v := range e.Violations {
		parts[i] = v.Field + ": " + v.Reason
	}
	return "invalid request: " + strings.Join(parts, "; ")
}

// RetryError wraps an error that a later attempt may not meet.
type RetryError struct {
	Err   error
	After time.Duration // estimate of when to try again
}

func (e *RetryError) Error() string { return fmt.Sprintf("%v; retry in %v", e.Err, e.After) }

// Unwrap returns the error to be retried.
func (e *RetryError) Unwrap() error { return e.Err }
