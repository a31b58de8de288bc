package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// usageError is a command line that makes no sense.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error {
	return &usageError{fmt.Errorf(format, args...)}
}

// silentError ends the process with a code and without a message, because
// what there is to say has been printed.
type silentError struct{ code int }

func (e *silentError) Error() string { return fmt.Sprintf("exit code %d", e.code) }

// serverError is an RPC's error, with the server that it came from.
type serverError struct {
	address string
	err     error
}

func (e *serverError) Error() string { return e.address + ": " + e.err.Error() }
func (e *serverError) Unwrap() error { return e.err }

// describe puts an error into one sentence.
func describe(err error) string {
	if interrupted(err) {
		return "interrupted"
	}
	var server *serverError
	if errors.As(err, &server) {
		if s, ok := status.FromError(server.err); ok {
			return describeStatus(server.address, s)
		}
	}
	return err.Error()
}

// interrupted reports whether the command's own context was cancelled, here or
// in a call to a server.
func interrupted(err error) bool {
	var server *serverError
	if errors.As(err, &server) && status.Code(server.err) == codes.Canceled {
		return true
	}
	return errors.Is(err, context.Canceled)
}

// describeStatus says what a server answered, with all the details that a
// person can use.
func describeStatus(address string, s *status.Status) string {
	if s.Code() == codes.Unavailable && len(s.Details()) == 0 { // nothing of Kigo's answered
		return fmt.Sprintf("no server answers at %s (start one with 'kigo serve', or name one with --server): %s",
			address, s.Message())
	}
	text := s.Message()
	var more []string
	for _, detail := range s.Details() {
		switch d := detail.(type) {
		case *errdetails.BadRequest:
			for _, v := range d.GetFieldViolations() {
				if !strings.Contains(text, v.GetField()) { // the message may say it already
					more = append(more, v.GetField()+" "+v.GetDescription())
				}
			}
		case *errdetails.RetryInfo:
			more = append(more, fmt.Sprintf("try again in %v", d.GetRetryDelay().AsDuration()))
		}
	}
	if len(more) > 0 {
		text = strings.TrimSuffix(text, ".") + ": " + strings.Join(more, "; ")
	}
	return fmt.Sprintf("%s answered %s: %s", address, s.Code(), text)
}
