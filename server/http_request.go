package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoreflect"

	"kigo/engine"
	kigov1 "kigo/proto/kigo/v1"
)

// decodeExecute reads the body of POST /execute: an ExecuteRequest as
// protobuf's JSON, or the short form, in which
//
//	"prompt": "…"        stands for "text",
//	"messages": […]      for "chat": {"messages": […]},
//	"stop": "…"          for a list of one,
//
// and the fields of Sampling may stand at the top: {"prompt": "Hello",
// "max_tokens": 20, "temperature": 0}. The error never quotes a value.
func decodeExecute(body []byte) (*kigov1.ExecuteRequest, error) {
	fields, err := topLevel(body)
	if err != nil {
		return nil, err
	}
	long, err := longForm(fields)
	if err != nil {
		return nil, err
	}
	req := &kigov1.ExecuteRequest{}
	if err := protojson.Unmarshal(long, req); err != nil {
		return nil, jsonError(err)
	}
	return req, nil
}

// field is one member of a JSON object.
type field struct {
	name  string
	value json.RawMessage
}

// topLevel splits a JSON object into its members. A name that comes twice is
// an error: readers differ in which one counts.
func topLevel(body []byte) ([]field, error) {
	dec := json.NewDecoder(bytes.NewReader(body))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, fmt.Errorf("%w: the body is not a JSON object", errMalformed)
	}
	var fields []field
	seen := map[string]bool{}
	for dec.More() {
		t, err := dec.Token()
		name, ok := t.(string)
		if err != nil || !ok {
			return nil, badJSON(dec)
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, badJSON(dec)
		}
		if seen[name] {
			return nil, invalidField(name, "is there twice")
		}
		seen[name] = true
		fields = append(fields, field{name, value})
	}
	if _, err := dec.Token(); err != nil {
		return nil, badJSON(dec)
	}
	if dec.More() {
		return nil, fmt.Errorf("%w: there is more after the JSON object", errMalformed)
	}
	return fields, nil
}

// longForm puts the members of the short form where ExecuteRequest has them.
func longForm(fields []field) ([]byte, error) {
	request := (*kigov1.ExecuteRequest)(nil).ProtoReflect().Descriptor().Fields()
	sampling := (*kigov1.Sampling)(nil).ProtoReflect().Descriptor().Fields()
	top := map[string]json.RawMessage{}
	loose := map[string]json.RawMessage{}
	for _, f := range fields {
		name, value := f.name, f.value
		switch {
		case name == "prompt":
			name = "text"
		case name == "messages":
			name, value = "chat", json.RawMessage(`{"messages":`+string(value)+`}`)
		case name == "stop" && bytes.HasPrefix(value, []byte{'"'}):
			value = json.RawMessage(`[` + string(value) + `]`)
		case has(sampling, name):
			loose[name] = value
			continue
		case !has(request, name):
			return nil, invalidField(name, "no such field")
		}
		if _, twice := top[name]; twice {
			return nil, invalidField(f.name, "stands for "+name+", which is there as well")
		}
		top[name] = value
	}
	if len(loose) > 0 {
		if _, both := top["sampling"]; both {
			return nil, invalidField("sampling", "is there together with its own fields at the top")
		}
		top["sampling"] = marshalObject(loose)
	}
	return marshalObject(top), nil
}

// has finds a field by either of the names that protobuf's JSON allows.
func has(fields protoreflect.FieldDescriptors, name string) bool {
	return fields.ByTextName(name) != nil || fields.ByJSONName(name) != nil
}

// marshalObject writes members that are valid JSON already.
func marshalObject(members map[string]json.RawMessage) []byte {
	b, err := json.Marshal(members)
	if err != nil { // the values were decoded from JSON
		return []byte("{}")
	}
	return b
}

func invalidField(name, reason string) error {
	if len(name) > 64 {
		name = name[:64] + "…"
	}
	return &engine.InvalidError{Violations: []engine.Violation{{Field: name, Reason: reason}}}
}

func badJSON(dec *json.Decoder) error {
	return fmt.Errorf("%w: the body is not valid JSON near byte %d", errMalformed, dec.InputOffset())
}

// protojson's errors quote the value that does not fit, which may be a prompt;
// these are the parts that say only where it is.
var (
	wrongValue   = regexp.MustCompile(`invalid value for (\w+) field (\w+)`)
	unknownField = regexp.MustCompile(`unknown field "(\w{1,64})"`)
	repeated     = regexp.MustCompile(`duplicate field "(\w{1,64})"`)
	secondOneof  = regexp.MustCompile(`oneof [\w.]*?(\w+) is already set`)
)

func jsonError(err error) error {
	text := err.Error()
	if m := wrongValue.FindStringSubmatch(text); m != nil {
		return invalidField(snakeCase(m[2]), "must be a value of type "+m[1])
	}
	if m := unknownField.FindStringSubmatch(text); m != nil {
		return invalidField(m[1], "no such field")
	}
	if m := repeated.FindStringSubmatch(text); m != nil {
		return invalidField(snakeCase(m[1]), "is there twice")
	}
	if m := secondOneof.FindStringSubmatch(text); m != nil {
		return invalidField(m[1], "must be given in exactly one form")
	}
	return fmt.Errorf("%w: the body is not an ExecuteRequest", errMalformed)
}

// snakeCase is the API's own name of a field that protojson calls by its JSON
// name: max_tokens for maxTokens.
func snakeCase(name string) string {
	var b strings.Builder
	for _, r := range name {
		if 'A' <= r && r <= 'Z' {
			b.WriteByte('_')
			r += 'a' - 'A'
		}
		b.WriteRune(r)
	}
	return b.String()
}

// bodyError is what went wrong while a body was read.
func bodyError(err error) error {
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return fmt.Errorf("%w: at most %d bytes: %w", errTooLarge, tooLarge.Limit, err)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return context.DeadlineExceeded
	case errors.Is(err, io.ErrUnexpectedEOF), errors.As(err, new(net.Error)): // the client has gone
		return context.Canceled
	}
	return fmt.Errorf("%w: the body cannot be read", errMalformed)
}

// lostClient is a failed write: too slow, or gone.
func lostClient(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return errStalledClient
	}
	return context.Canceled
}
