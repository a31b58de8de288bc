package server

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"kigo/engine"
	"kigo/engine/chat"
	"kigo/engine/gguf"
	"kigo/engine/quant"
	"kigo/engine/tokenizer"
)

func TestStatusOfEveryError(t *testing.T) {
	t.Parallel()
	wrap := func(err error) error { return fmt.Errorf("model demo: %w", err) }
	for _, c := range []struct {
		err    error
		code   codes.Code
		reason string
		retry  time.Duration
	}{
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
		{&engine.RetryError{Err: engine.ErrQueueFull, After: 7 * time.Second}, codes.ResourceExhausted, "QUEUE_FULL", 7 * time.Second},
		{engine.ErrDoesNotFit, codes.ResourceExhausted, "DOES_NOT_FIT", 0},
		{engine.ErrDraining, codes.Unavailable, "SHUTTING_DOWN", time.Second},
		{engine.ErrSlowReader, codes.ResourceExhausted, "SLOW_READER", 0},
		{engine.ErrDeviceFault, codes.Unavailable, "DEVICE_FAULT", time.Second},
		{engine.ErrDeviceHung, codes.Unavailable, "DEVICE_HUNG", time.Second},
		{engine.ErrDeviceLost, codes.Unavailable, "DEVICE_LOST", time.Second},
		{engine.ErrFatal, codes.Unavailable, "DEVICE_FAILED", time.Second},
		{engine.ErrUnloaded, codes.Unavailable, "MODEL_UNLOADED", 0},
		{engine.ErrLoadInProgress, codes.FailedPrecondition, "LOAD_IN_PROGRESS", time.Second},
		{engine.ErrInternal, codes.Internal, "INTERNAL", 0},
		{engine.ErrUnknownRequest, codes.NotFound, "REQUEST_NOT_FOUND", 0},
		{engine.ErrFileChanged, codes.Aborted, "FILE_CHANGED", time.Second},
		{engine.ErrTruncated, codes.DataLoss, "FILE_TRUNCATED", 0},
		{engine.ErrUnsupportedModel, codes.Unimplemented, "UNSUPPORTED_MODEL", 0},
		{engine.ErrNotSupported, codes.Unimplemented, "UNSUPPORTED_BY_DEVICE", 0},
		{engine.ErrInvalidModel, codes.InvalidArgument, "INVALID_MODEL", 0},
		{engine.ErrCorrupt, codes.DataLoss, "DEVICE_DIFFERS_FROM_FILE", 0},
		{gguf.ErrTruncated, codes.DataLoss, "FILE_TRUNCATED", 0},
		{gguf.ErrFormat, codes.InvalidArgument, "INVALID_FILE", 0},
		{gguf.ErrUnsupported, codes.InvalidArgument, "UNSUPPORTED_FILE", 0},
		{fmt.Errorf("%w: %w", gguf.ErrUnsupported, quant.ErrUnknownType), codes.Unimplemented, "UNSUPPORTED_QUANTIZATION", 0},
		{tokenizer.ErrUnsupported, codes.Unimplemented, "UNSUPPORTED_TOKENIZER", 0},
		{tokenizer.ErrVocabulary, codes.InvalidArgument, "INVALID_VOCABULARY", 0},
		{tokenizer.ErrToken, codes.InvalidArgument, "UNKNOWN_TOKEN", 0},
		{chat.ErrNoTemplate, codes.InvalidArgument, "NO_CHAT_TEMPLATE", 0},
		{chat.ErrTemplate, codes.InvalidArgument, "CHAT_TEMPLATE_FAILED", 0},
		{&chat.RaisedError{Line: 3, Message: "roles must alternate"}, codes.InvalidArgument, "CHAT_TEMPLATE_FAILED", 0},
		{errNoEnd, codes.Internal, "INTERNAL", 0},
		{panicError{}, codes.Internal, "INTERNAL", 0},
		{status.Error(codes.OutOfRange, "from grpc"), codes.OutOfRange, "OUT_OF_RANGE", 0},
	} {
		for _, err := range []error{c.err, wrap(c.err)} {
			st := failureOf(err).status()
			info, retry := detailsOf(t, st)
			if st.Code() != c.code || info.GetReason() != c.reason || info.GetDomain() != "kigo" || retry != c.retry {
				t.Errorf("%v: %v %s retry %v (domain %q), want %v %s retry %v",
					err, st.Code(), info.GetReason(), retry, info.GetDomain(), c.code, c.reason, c.retry)
			}
		}
	}
}

func detailsOf(t *testing.T, st *status.Status) (info *errdetails.ErrorInfo, retry time.Duration) {
	t.Helper()
	for _, d := range st.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			info = d
		case *errdetails.RetryInfo:
			retry = d.GetRetryDelay().AsDuration()
		}
	}
	return info, retry
}

// A sentinel that is added to the engine, and forgotten here, would reach
// callers as INTERNAL.
func TestStatusKnowsEverySentinelOfTheEngine(t *testing.T) {
	t.Parallel()
	tested, err := os.ReadFile("status_test.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"", "gguf", "quant", "tokenizer", "chat"} {
		pkg := "engine"
		if dir != "" {
			pkg = dir
		}
		files, err := filepath.Glob(filepath.Join("..", "engine", dir, "*.go"))
		if err != nil || len(files) == 0 {
			t.Fatalf("engine/%s: no files: %v", dir, err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			for name, obj := range exportedErrors(parsed) {
				if obj && !strings.Contains(string(tested), pkg+"."+name) {
					t.Errorf("%s.%s is not in the table of this test", pkg, name)
				}
			}
		}
	}
}

// exportedErrors finds the package variables named Err….
func exportedErrors(f *ast.File) map[string]bool {
	found := map[string]bool{}
	for _, d := range f.Decls {
		decl, ok := d.(*ast.GenDecl)
		if !ok || decl.Tok != token.VAR {
			continue
		}
		for _, s := range decl.Specs {
			for _, n := range s.(*ast.ValueSpec).Names {
				if strings.HasPrefix(n.Name, "Err") {
					found[n.Name] = true
				}
			}
		}
	}
	return found
}

func TestStatusNamesAllViolationsWithinBounds(t *testing.T) {
	t.Parallel()
	few := &engine.InvalidError{Violations: []engine.Violation{
		{Field: "sampling.top_p", Reason: "must be at most 1"},
		{Field: "max_tokens", Reason: "must be at least 1"},
	}}
	many := &engine.InvalidError{}
	for i := range 5000 {
		many.Violations = append(many.Violations, engine.Violation{
			Field: fmt.Sprintf("sampling.logit_bias[%d]", i), Reason: "token is not in the vocabulary\xff",
		})
	}
	for _, c := range []struct {
		err  *engine.InvalidError
		want func(*errdetails.BadRequest) bool
	}{
		{few, func(b *errdetails.BadRequest) bool {
			return len(b.GetFieldViolations()) == 2 && b.GetFieldViolations()[1].GetField() == "max_tokens"
		}},
		{many, func(b *errdetails.BadRequest) bool {
			v := b.GetFieldViolations()
			return len(v) > 20 && v[len(v)-1].GetDescription() == fmt.Sprintf("and %d more", 5000-(len(v)-1))
		}},
	} {
		st := failureOf(fmt.Errorf("execute: %w", c.err)).status()
		var bad *errdetails.BadRequest
		for _, d := range st.Details() {
			if b, ok := d.(*errdetails.BadRequest); ok {
				bad = b
			}
		}
		if st.Code() != codes.InvalidArgument || bad == nil || !c.want(bad) {
			t.Errorf("%d violations: %v %v", len(c.err.Violations), st.Code(), bad)
		}
		if size := proto.Size(st.Proto()); size > 8<<10 {
			t.Errorf("%d violations take %d bytes of a header", len(c.err.Violations), size)
		}
	}
}

func TestStatusHidesPathsAndAddresses(t *testing.T) {
	t.Parallel()
	read := &fs.PathError{Op: "read", Path: "/srv/secret/model.gguf", Err: io.ErrUnexpectedEOF}
	for _, c := range []struct {
		err  error
		keep string
	}{
		{fmt.Errorf("%w: tensor blk.0: %w", gguf.ErrTruncated, read), "tensor blk.0"},
		{errors.Join(engine.ErrDoesNotFit, fmt.Errorf("second: %w", read)), "not enough memory"},
		{fmt.Errorf("%w: %w", engine.ErrDraining, &net.OpError{
			Op: "read", Net: "tcp", Addr: &net.TCPAddr{IP: net.IPv4(10, 1, 2, 3), Port: 777}, Err: io.EOF,
		}), "shutting down"},
		{fmt.Errorf("unknown %w", read), "internal error"},
		{fmt.Errorf("%w: /srv/secret", errNoEnd), "internal error"},
	} {
		st := failureOf(c.err).status()
		text := st.Proto().String()
		for _, secret := range []string{"/srv", "secret", "10.1.2.3"} {
			if strings.Contains(text, secret) {
				t.Errorf("%v: the status says %q: %s", c.err, secret, text)
			}
		}
		if !strings.Contains(st.Message(), c.keep) {
			t.Errorf("%v: the message %q has lost %q", c.err, st.Message(), c.keep)
		}
	}
}

// A template may say why it refuses a conversation, unless it quotes it.
func TestStatusHidesWhatATemplateQuotes(t *testing.T) {
	t.Parallel()
	messages := []chat.Message{{Role: "user", Content: " my long secret "}, {Role: "user", Content: ""}}
	for message, kept := range map[string]bool{
		"roles must alternate":                 true,
		"cannot answer 'my long secret' today": false,
	} {
		err := templateError(fmt.Errorf("demo: %w", &chat.RaisedError{Line: 3, Message: message}), messages)
		f := failureOf(err)
		if f.reason != "CHAT_TEMPLATE_FAILED" || strings.Contains(f.message, message) != kept {
			t.Errorf("%q: %s %q", message, f.reason, f.message)
		}
	}
	if err := templateError(engine.ErrNoModel, messages); !errors.Is(err, engine.ErrNoModel) {
		t.Errorf("another error became %v", err)
	}
}
