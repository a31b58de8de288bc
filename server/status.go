package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"kigo/engine"
	"kigo/engine/chat"
	"kigo/engine/gguf"
	"kigo/engine/quant"
	"kigo/engine/tokenizer"
)

// errorDomain is the domain of every google.rpc.ErrorInfo.
const errorDomain = "kigo"

// maxViolationBytes bounds the text of the violations of one error: they
// travel in a header, and clients refuse headers over 8 KiB.
const maxViolationBytes = 4 << 10

// maxMessageBytes bounds an error's own text, for the same reason.
const maxMessageBytes = 2 << 10

// What the edge itself refuses.
var (
	errNothingLoaded = errors.New("no model is loaded")
	errLoading       = errors.New("the model is still being loaded")
	errTooManyCalls  = errors.New("too many calls are in flight")
	errStalledClient = errors.New("the client does not read its stream")
	errNoModelDir    = errors.New("this server has no model directory, so nothing can be loaded from outside")
	errOutsideDir    = errors.New("the path leads out of the model directory")
	errFileMissing   = errors.New("no such file in the model directory")
	errNotRegular    = errors.New("not a regular file")
	errUnreadable    = errors.New("the file cannot be opened")
	errMalformed     = errors.New("the message cannot be decoded")
	errTooLarge      = errors.New("the message is too large")
	errWrongType     = errors.New("the body must be application/json")
	errUnknownMethod = errors.New("no such method is served at this address")
	errStopping      = engine.ErrDraining
)

// notServedError names the fields that ask for what this server does not do.
type notServedError struct{ fields []string }

const notServedReason = "is not served by this server"

func (e *notServedError) Error() string {
	return "not served: " + strings.Join(e.fields, ", ")
}

// streamError is an error that ends a stream after its started event: how many
// tokens were generated until then is part of what the caller gets.
type streamError struct {
	error
	generated int
}

// Unwrap returns the error itself.
func (e *streamError) Unwrap() error { return e.error }

// panicError is a panic that was caught; its stack is in the log.
type panicError struct{}

func (panicError) Error() string { return "internal error" }

// rule says what a kind of error is to a caller.
type rule struct {
	err    error
	code   codes.Code
	reason string        // ErrorInfo.reason
	retry  time.Duration // RetryInfo.retry_delay where another try can help; 0 says none
}

// rules is the one place where errors become codes. The first match counts.
// What is not here is INTERNAL, and its text stays in the log.
var rules = []rule{
	{context.Canceled, codes.Canceled, "CANCELLED", 0},
	{context.DeadlineExceeded, codes.DeadlineExceeded, "DEADLINE_EXCEEDED", 0},

	{errNothingLoaded, codes.FailedPrecondition, "NO_MODEL_LOADED", 0},
	{errLoading, codes.Unavailable, "MODEL_LOADING", time.Second},
	{errTooManyCalls, codes.ResourceExhausted, "TOO_MANY_CALLS", time.Second},
	{errStalledClient, codes.ResourceExhausted, "SLOW_READER", 0},
	{errNoModelDir, codes.FailedPrecondition, "NO_MODEL_DIRECTORY", 0},
	{errOutsideDir, codes.InvalidArgument, "PATH_OUTSIDE_MODEL_DIRECTORY", 0},
	{errFileMissing, codes.NotFound, "FILE_NOT_FOUND", 0},
	{errNotRegular, codes.InvalidArgument, "NOT_A_REGULAR_FILE", 0},
	{errUnreadable, codes.FailedPrecondition, "FILE_UNREADABLE", 0},
	{errMalformed, codes.InvalidArgument, "MALFORMED_MESSAGE", 0},
	{errTooLarge, codes.ResourceExhausted, "MESSAGE_TOO_LARGE", 0},
	{errWrongType, codes.InvalidArgument, "WRONG_CONTENT_TYPE", 0},
	{errUnknownMethod, codes.Unimplemented, "UNKNOWN_METHOD", 0},

	{engine.ErrNoModel, codes.NotFound, "MODEL_NOT_FOUND", 0},
	{engine.ErrAlreadyLoaded, codes.FailedPrecondition, "MODEL_ALREADY_LOADED", 0},
	{engine.ErrQueueFull, codes.ResourceExhausted, "QUEUE_FULL", time.Second},
	{engine.ErrDoesNotFit, codes.ResourceExhausted, "DOES_NOT_FIT", 0},
	{engine.ErrDraining, codes.Unavailable, "SHUTTING_DOWN", time.Second},
	{engine.ErrSlowReader, codes.ResourceExhausted, "SLOW_READER", 0},
	{engine.ErrDeviceFault, codes.Unavailable, "DEVICE_FAULT", time.Second},
	{engine.ErrDeviceHung, codes.Unavailable, "DEVICE_HUNG", time.Second},
	{engine.ErrDeviceLost, codes.Unavailable, "DEVICE_LOST", time.Second},
	{engine.ErrFatal, codes.Unavailable, "DEVICE_FAILED", time.Second},
	{engine.ErrUnknownRequest, codes.NotFound, "REQUEST_NOT_FOUND", 0},
	{engine.ErrUnloaded, codes.Unavailable, "MODEL_UNLOADED", 0},
	{engine.ErrLoadInProgress, codes.FailedPrecondition, "LOAD_IN_PROGRESS", time.Second},
	{engine.ErrFileChanged, codes.Aborted, "FILE_CHANGED", time.Second},
	{engine.ErrCorrupt, codes.DataLoss, "DEVICE_DIFFERS_FROM_FILE", 0},
	{engine.ErrTruncated, codes.DataLoss, "FILE_TRUNCATED", 0},
	{engine.ErrUnsupportedModel, codes.Unimplemented, "UNSUPPORTED_MODEL", 0},
	{engine.ErrNotSupported, codes.Unimplemented, "UNSUPPORTED_BY_DEVICE", 0},
	{engine.ErrInvalidModel, codes.InvalidArgument, "INVALID_MODEL", 0},

	{gguf.ErrTruncated, codes.DataLoss, "FILE_TRUNCATED", 0},
	{quant.ErrUnknownType, codes.Unimplemented, "UNSUPPORTED_QUANTIZATION", 0},
	{gguf.ErrUnsupported, codes.InvalidArgument, "UNSUPPORTED_FILE", 0},
	{gguf.ErrFormat, codes.InvalidArgument, "INVALID_FILE", 0},
	{tokenizer.ErrUnsupported, codes.Unimplemented, "UNSUPPORTED_TOKENIZER", 0},
	{tokenizer.ErrVocabulary, codes.InvalidArgument, "INVALID_VOCABULARY", 0},
	{tokenizer.ErrToken, codes.InvalidArgument, "UNKNOWN_TOKEN", 0},
	{chat.ErrNoTemplate, codes.InvalidArgument, "NO_CHAT_TEMPLATE", 0},
	{chat.ErrTemplate, codes.InvalidArgument, "CHAT_TEMPLATE_FAILED", 0},
}

// failure is an error as a caller may see it.
type failure struct {
	code       codes.Code
	reason     string
	message    string
	violations []engine.Violation
	retry      time.Duration
	metadata   map[string]string
}

// generatedTokens is the key of ErrorInfo.metadata that holds the number of
// tokens that a stream had when it failed.
const generatedTokens = "generated_tokens"

// failureOf finds what err is to a caller. err is not nil.
func failureOf(err error) failure {
	f := kindOf(err)
	var stream *streamError
	if errors.As(err, &stream) {
		f.metadata = map[string]string{generatedTokens: strconv.Itoa(stream.generated)}
	}
	return f
}

func kindOf(err error) failure {
	var invalid *engine.InvalidError
	if errors.As(err, &invalid) {
		v := boundViolations(invalid.Violations)
		return failure{
			code: codes.InvalidArgument, reason: "INVALID_REQUEST",
			message: publicText((&engine.InvalidError{Violations: v}).Error()), violations: v,
		}
	}
	var notServed *notServedError
	if errors.As(err, &notServed) {
		f := failure{code: codes.Unimplemented, reason: "NOT_SERVED", message: publicText(notServed.Error())}
		for _, field := range notServed.fields {
			f.violations = append(f.violations, engine.Violation{Field: field, Reason: notServedReason})
		}
		return f
	}
	for _, r := range rules {
		if !errors.Is(err, r.err) {
			continue
		}
		f := failure{code: r.code, reason: r.reason, message: publicMessage(err), retry: r.retry}
		var retry *engine.RetryError
		if errors.As(err, &retry) && retry.After > 0 {
			f.retry = retry.After
		}
		return f
	}
	// gRPC's own errors carry a code; its texts say nothing of ours.
	if st, ok := status.FromError(err); ok {
		return failure{code: st.Code(), reason: reasonOfCode(st.Code()), message: publicText(st.Message())}
	}
	return failure{code: codes.Internal, reason: "INTERNAL", message: panicError{}.Error()}
}

// status is f as gRPC carries it.
func (f failure) status() *status.Status {
	st := status.New(f.code, f.message)
	details := []protoadapt.MessageV1{
		&errdetails.ErrorInfo{Reason: f.reason, Domain: errorDomain, Metadata: f.metadata},
	}
	if len(f.violations) > 0 {
		bad := &errdetails.BadRequest{}
		for _, v := range f.violations {
			bad.FieldViolations = append(bad.FieldViolations,
				&errdetails.BadRequest_FieldViolation{Field: v.Field, Description: v.Reason})
		}
		details = append(details, bad)
	}
	if f.retry > 0 {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(f.retry)})
	}
	detailed, err := st.WithDetails(details...)
	if err != nil {
		return st // only for codes.OK, which is no failure
	}
	return detailed
}

// isServerFault says that the operator should look, not the caller.
func (f failure) isServerFault() bool {
	switch f.code {
	case codes.Internal, codes.Unknown, codes.DataLoss:
		return true
	}
	return f.code == codes.Unavailable && strings.HasPrefix(f.reason, "DEVICE_")
}

// reasonOfCode is the code's own name in upper case: NOT_FOUND.
func reasonOfCode(c codes.Code) string {
	var b strings.Builder
	for i, r := range c.String() {
		if i > 0 && 'A' <= r && r <= 'Z' {
			b.WriteByte('_')
		}
		b.WriteRune(r)
	}
	return strings.ToUpper(b.String())
}

// publicMessage is err's text without the paths and addresses that errors of
// the operating system carry.
func publicMessage(err error) string {
	secrets := map[string]bool{}
	collectSecrets(err, secrets)
	text := err.Error()
	// Longest first, so that a path inside another one leaves no rest.
	for _, s := range slices.SortedFunc(maps.Keys(secrets), func(a, b string) int { return len(b) - len(a) }) {
		if s != "" {
			text = strings.ReplaceAll(text, s, "(withheld)")
		}
	}
	return publicText(text)
}

// publicText makes s fit for a header of bounded size: valid UTF-8, not too
// long.
func publicText(s string) string {
	if len(s) > maxMessageBytes {
		s = s[:maxMessageBytes] + " …"
	}
	return strings.ToValidUTF8(s, "�")
}

// collectSecrets walks the tree that err wraps.
func collectSecrets(err error, found map[string]bool) {
	switch e := err.(type) { //nolint:errorlint // each node of the tree is looked at on its own
	case *fs.PathError:
		found[e.Path] = true
	case *os.LinkError:
		found[e.Old], found[e.New] = true, true
	case *net.OpError:
		for _, a := range []net.Addr{e.Source, e.Addr} {
			if a != nil {
				found[a.String()] = true
			}
		}
	case *net.AddrError:
		found[e.Addr] = true
	}
	switch e := err.(type) { //nolint:errorlint // the two forms of Unwrap
	case interface{ Unwrap() error }:
		if inner := e.Unwrap(); inner != nil {
			collectSecrets(inner, found)
		}
	case interface{ Unwrap() []error }:
		for _, inner := range e.Unwrap() {
			collectSecrets(inner, found)
		}
	}
}

// boundViolations keeps as many violations as fit into a header, and says how
// many more there are.
func boundViolations(all []engine.Violation) []engine.Violation {
	var kept []engine.Violation
	size := 0
	for i, v := range all {
		v.Field, v.Reason = strings.ToValidUTF8(v.Field, "�"), strings.ToValidUTF8(v.Reason, "�")
		if size += len(v.Field) + len(v.Reason); size > maxViolationBytes {
			return append(kept, engine.Violation{Field: "…", Reason: fmt.Sprintf("and %d more", len(all)-i)})
		}
		kept = append(kept, v)
	}
	return kept
}
