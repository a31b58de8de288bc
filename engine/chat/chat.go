// Package chat turns a conversation into a prompt with the chat template that
// a model file carries.
//
// Chat templates are programs in the Jinja language, and come from files that
// nobody has checked. They are executed by github.com/ardanlabs/jinja, which
// cannot be interrupted and has no limits: one of its statements can make a
// gigabyte of text, or run for a day. So [Parse] does not hand it the template
// but a translation in which every loop, every call and every operator that
// could make something large goes through a guard
// (translate.go, guard.go), and everything that the author wrote is written
// anew from its parsed form. The guards count steps and bytes, and end the
// rendering when there are too many.
//
// Rendering is the same as by Python's jinja2 in the environment that the
// transformers package gives it: blocks take the line end after them and the
// white space before them on their line, and values cannot be changed,
// namespaces excepted. There is no include, import or extends, and nothing
// that reaches outside the rendering but the date.
//
// What differs from jinja2: tuples are lists, and print as such; the keys of
// dicts are texts; whole numbers have 64 bits. Recursive loops, map with a
// filter, formatting with %, with, varargs, and the filters and methods that
// filters.go does not list are not understood: errors, those of expressions
// only when they are come to.
package chat

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/ardanlabs/jinja"
)

// Limits on templates. Those of well-known models have up to 30 KB of source,
// and take one or two hundred steps a message; a few look at all messages again
// for each, which is for a thousand messages what MaxSteps allows.
const (
	MaxSource = 1 << 20 // bytes of a template
	MaxOutput = 1 << 24 // bytes of a rendered prompt, and of any text on the way to it
	MaxRange  = 100_000 // numbers from one call of range; jinja2's sandbox has the same
	// MaxSteps bounds the work: a statement, a turn of a loop, a call, an item
	// of a list and 64 bytes of text that are looked at are a step each.
	MaxSteps = 1 << 22
	MaxDepth = 64 // of blocks in each other, of macros that call each other, and of lists in lists
)

var (
	// ErrTemplate reports a template that is malformed, fails on its input or
	// goes beyond a limit. The text says what is wrong and on which line.
	ErrTemplate = errors.New("chat template")
	// ErrNoTemplate reports that there is no template.
	ErrNoTemplate = errors.New("the model has no chat template")
)

// RaisedError is what a template says of a conversation that it does not
// accept, by its raise_exception: roles that do not alternate, for instance.
// It is an ErrTemplate too.
type RaisedError struct {
	Line    int    // where the template said it
	Message string // its own words
}

func (e *RaisedError) Error() string {
	return fmt.Sprintf("%v: line %d: %s", ErrTemplate, e.Line, e.Message)
}

// Is makes errors.Is(err, ErrTemplate) true.
func (e *RaisedError) Is(target error) bool { return target == ErrTemplate }

// Message is one turn of a conversation.
type Message struct{ Role, Content string }

// Input is what a template is rendered with.
type Input struct {
	Messages            []Message
	AddGenerationPrompt bool      // end with the beginning of the assistant's turn
	BOS, EOS            string    // texts of the model's special tokens
	Now                 time.Time // what strftime_now formats; the present if zero
}

// Template is a parsed chat template, safe for concurrent use.
type Template struct {
	compiled *jinja.Template
}

// Parse reads a template. ErrNoTemplate if source is empty; ErrTemplate says
// what is wrong.
func Parse(source string) (t *Template, err error) {
	if strings.TrimSpace(source) == "" {
		return nil, ErrNoTemplate
	}
	if len(source) > MaxSource {
		return nil, fmt.Errorf("%w: %d bytes, at most %d are allowed", ErrTemplate, len(source), MaxSource)
	}
	translation, err := translate(source)
	if err != nil {
		return nil, err
	}
	defer recoverFrom(&err)
	compiled, err := jinja.Compile(translation)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrTemplate, err)
	}
	return &Template{compiled: compiled}, nil
}

// Render gives the prompt for a conversation. ErrTemplate says what is wrong;
// a *RaisedError carries the template's own words.
func (t *Template) Render(in Input) (string, error) { return t.render(in, MaxSteps) }

func (t *Template) render(in Input, steps int) (prompt string, err error) {
	messages := make([]jinja.Value, len(in.Messages))
	for i, m := range in.Messages {
		d := jinja.NewDict()
		d.AsDict().Set("role", jinja.NewString(m.Role))
		d.AsDict().Set("content", jinja.NewString(m.Content))
		messages[i] = d
	}
	g := &guard{line: 1, limit: steps}
	vars := g.functions()
	vars["messages"] = jinja.NewList(messages)
	vars["add_generation_prompt"] = jinja.NewBool(in.AddGenerationPrompt)
	vars["bos_token"] = jinja.NewString(in.BOS)
	vars["eos_token"] = jinja.NewString(in.EOS)
	now := in.Now
	if now.IsZero() {
		now = time.Now()
	}
	vars["strftime_now"] = g.function("strftime_now", g.strftime(now))
	defer recoverFrom(&err)
	prompt, err = t.compiled.RenderValues(vars)
	if err != nil {
		return "", g.explain(err)
	}
	return prompt, nil
}

// recoverFrom makes an error of a panic in the jinja library, which has a few
// for templates that are wrong (a filter without its arguments).
func recoverFrom(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("%w: the template cannot be executed: %v", ErrTemplate, p)
	}
}
