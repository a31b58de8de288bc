package server

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"buf.build/go/protovalidate"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"kigo/engine"
	"kigo/engine/chat"
	kigov1 "kigo/proto/kigo/v1"
)

// invalidOf turns protovalidate's violations into the engine's form, so that
// one error can name both kinds: one for each field, with all that is wrong.
func invalidOf(violations []*validate.Violation) *engine.InvalidError {
	e := &engine.InvalidError{}
	at := map[string]int{}
	for _, v := range violations {
		field := protovalidate.FieldPathString(v.GetField())
		if i, twice := at[field]; twice {
			e.Violations[i].Reason += "; " + v.GetMessage()
			continue
		}
		at[field] = len(e.Violations)
		e.Violations = append(e.Violations, engine.Violation{Field: field, Reason: v.GetMessage()})
	}
	return e
}

// maxElements is how many parts a message may have of which each is looked at on
// its own. In a larger one the first violation ends the search: to name all of a
// million takes a minute of a processor, and no answer has room for them.
const maxElements = 2048

// validateMessage checks m against its own rules. The error is an
// [engine.InvalidError].
func validateMessage(v protovalidate.Validator, m proto.Message) error {
	var options []protovalidate.ValidationOption
	if elements(m.ProtoReflect(), maxElements) > maxElements {
		options = append(options, protovalidate.WithFailFast())
	}
	err := v.Validate(m, options...)
	var invalid *protovalidate.ValidationError
	if errors.As(err, &invalid) {
		return invalidOf(invalid.ToProto().GetViolations())
	}
	return err
}

// elements counts the members of m's lists that have rules of their own, at all
// depths, and stops counting soon after most.
func elements(m protoreflect.Message, most int) int {
	n := 0
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case fd.IsList() && fd.Message() != nil:
			list := v.List()
			n += list.Len()
			for i := 0; i < list.Len() && n <= most; i++ {
				n += elements(list.Get(i).Message(), most-n)
			}
		case fd.IsList():
			if rules, err := protovalidate.ResolveFieldRules(fd); err != nil || rules.GetRepeated().GetItems() != nil {
				n += v.List().Len()
			}
		case fd.Message() != nil && !fd.IsMap(): // the API has no maps
			n += elements(v.Message(), most-n)
		}
		return n <= most
	})
	return n
}

// check finds what is wrong with r as far as it can be said before it is
// submitted: the message's own rules, what contradicts itself and what is not
// served. Where there is anything, it asks the engine as well, so that one error
// names everything. An invalid request is INVALID_ARGUMENT, whatever else it
// asks for.
func (s *Server) check(r *kigov1.ExecuteRequest) error {
	err := validateMessage(s.validator, r)
	var invalid *engine.InvalidError
	if err != nil && !errors.As(err, &invalid) {
		return err
	}
	var wrong []engine.Violation
	if invalid != nil {
		wrong = invalid.Violations
	}
	_, isText := r.GetPrompt().(*kigov1.ExecuteRequest_Text)
	wrong = append(wrong, meaningless(isText || r.GetPrompt() == nil, r.AddSpecial, r.ParseSpecial)...)
	unserved := notServed(r)
	if len(wrong) == 0 && len(unserved) == 0 {
		return nil
	}
	if errors.As(apiFields(s.backend.Check(engineRequest(r, 0))), &invalid) {
		wrong = addViolations(wrong, invalid.Violations)
	}
	if len(wrong) == 0 {
		return &notServedError{fields: unserved}
	}
	for _, field := range unserved {
		wrong = addViolations(wrong, []engine.Violation{{Field: field, Reason: notServedReason}})
	}
	return &engine.InvalidError{Violations: wrong}
}

// addViolations adds those of more that are about another field than any of all.
// "prompt", which stands for the oneof as a whole, adds nothing to what one of
// its forms has against it.
func addViolations(all, more []engine.Violation) []engine.Violation {
	known := map[string]bool{}
	for _, v := range all {
		known[v.Field] = true
		form, _, _ := strings.Cut(v.Field, ".")
		known["prompt"] = known["prompt"] || form == "text" || form == "chat" || form == "tokens"
	}
	for _, v := range more {
		if !known[v.Field] {
			known[v.Field] = true
			all = append(all, v)
		}
	}
	return all
}

// meaningless names the fields that say how a text is turned into tokens, where
// the prompt is no text: a template says itself what is special, and token ids
// are taken as they are.
func meaningless(isText bool, addSpecial, parseSpecial *bool) []engine.Violation {
	var wrong []engine.Violation
	for _, f := range []struct {
		name string
		set  bool
	}{{"add_special", addSpecial != nil}, {"parse_special", parseSpecial != nil}} {
		if f.set && !isText {
			wrong = append(wrong, engine.Violation{Field: f.name, Reason: "has a meaning for plain text only"})
		}
	}
	return wrong
}

// notServed names what r asks for that this server does not do. A field that is
// set to its default asks for nothing.
func notServed(r *kigov1.ExecuteRequest) []string {
	var fields []string
	add := func(asked bool, field string) {
		if asked {
			fields = append(fields, field)
		}
	}
	add(r.GetResumeGrace().AsDuration() > 0, "resume_grace")
	add(r.GetResponseFormat() != nil, "response_format")
	add(len(r.GetTools()) > 0, "tools")
	add(r.GetToolChoice() != nil, "tool_choice")
	return append(fields, chatNotServed(r.GetChat(), "chat")...)
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
