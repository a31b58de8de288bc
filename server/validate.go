package server

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"buf.build/go/protovalidate"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"kigo/engine"
	"kigo/engine/chat"
	kigov1 "kigo/proto/kigo/v1"
)

// invalidOf turns protovalidate's violations into the engine's form, so that
// one error can name both kinds.
func invalidOf(violations []*validate.Violation) *engine.InvalidError {
	e := &engine.InvalidError{}
	for _, v := range violations {
		field := protovalidate.FieldPathString(v.GetField())
		e.Violations = append(e.Violations, engine.Violation{Field: field, Reason: v.GetMessage()})
	}
	return e
}

// violationsIn finds the violations that the protovalidate interceptor put
// into its status.
func violationsIn(err error) (*engine.InvalidError, bool) {
	st, ok := status.FromError(err)
	if !ok {
		return nil, false
	}
	for _, d := range st.Details() {
		if v, ok := d.(*validate.Violations); ok {
			return invalidOf(v.GetViolations()), true
		}
	}
	return nil, false
}

// validateMessage checks m against its own rules. The error is an
// [engine.InvalidError].
func validateMessage(v protovalidate.Validator, m proto.Message) error {
	err := v.Validate(m)
	var invalid *protovalidate.ValidationError
	if errors.As(err, &invalid) {
		return invalidOf(invalid.ToProto().GetViolations())
	}
	return err
}

// notServed names what r asks for that this server does not do; nil if there
// is nothing. A field that is set to its default asks for nothing.
func notServed(r *kigov1.ExecuteRequest) error {
	var fields []string
	add := func(asked bool, field string) {
		if asked {
			fields = append(fields, field)
		}
	}
	add(r.GetN() > 1, "n")
	add(r.GetPriority() != 0, "priority")
	add(r.GetResumeGrace().AsDuration() > 0, "resume_grace")
	add(r.GetResponseFormat() != nil, "response_format")
	add(len(r.GetTools()) > 0, "tools")
	add(r.GetToolChoice() != nil, "tool_choice")
	fields = append(fields, chatNotServed(r.GetChat(), "chat")...)
	if len(fields) == 0 {
		return nil
	}
	return &notServedError{fields: fields}
}

// chatNotServed names the fields of a conversation that are not served, each
// once.
func chatNotServed(c *kigov1.Chat, field string) []string {
	var fields []string
	has := func(set func(*kigov1.ChatMessage) bool) bool { return slices.ContainsFunc(c.GetMessages(), set) }
	if has(func(m *kigov1.ChatMessage) bool { return len(m.GetToolCalls()) > 0 }) {
		fields = append(fields, field+".messages.tool_calls")
	}
	if has(func(m *kigov1.ChatMessage) bool { return m.ToolCallId != nil }) {
		fields = append(fields, field+".messages.tool_call_id")
	}
	return fields
}

// apiFields rewrites the engine's names of the prompt's fields into the API's,
// where the prompt is a oneof.
func apiFields(err error) error {
	var invalid *engine.InvalidError
	if !errors.As(err, &invalid) {
		return err
	}
	out := &engine.InvalidError{Violations: slices.Clone(invalid.Violations)}
	for i := range out.Violations {
		field := &out.Violations[i].Field
		for _, name := range []struct{ engine, api string }{
			{"prompt.text", "text"},
			{"prompt.messages", "chat.messages"},
			{"prompt.tokens", "tokens.ids"},
		} {
			if rest, ok := strings.CutPrefix(*field, name.engine); ok {
				*field = name.api + rest
				break
			}
		}
	}
	return out
}

// templateError keeps a template's words, which may help, unless they quote
// the conversation.
func templateError(err error, messages []chat.Message) error {
	if !errors.Is(err, chat.ErrTemplate) {
		return err
	}
	text := err.Error()
	for _, m := range messages {
		for _, quoted := range []string{m.Role, strings.TrimSpace(m.Content)} {
			// Roles such as "user" are the template's own words, too.
			if len(quoted) > len("assistant") && strings.Contains(text, quoted) {
				return fmt.Errorf("%w: it does not accept this conversation", chat.ErrTemplate)
			}
		}
	}
	return err
}
