package chat

import (
	"fmt"
	"slices"
	"strings"
)

// translate writes a template anew in the same language, with guards in it.
// What each guard does is in guard.go; their names begin with two underscores,
// which no name in a template may.
//
//	text, {{ e }}      {{ __out(__at(line), e) }}
//	{% if e %}         {% if __if(__at(line), e) %}
//	{% for x in e %}   {% for x in __iter(__at(line), e, 1) %}
//	macro and call     {% set __ = __enter(__at(line)) %} … {% set __ = __leave() %}
//	a + b, a ~ b       __math('+', a, b), __cat(a, b)
//	f(x), x|f          __made(f(x)), __made(__all(x)|f)
//
// Text becomes a string, so white space is not touched again.
func translate(source string) (string, error) {
	parts, err := scan(source)
	if err != nil {
		return "", err
	}
	t := &translator{parts: parts, assigned: map[string]bool{}}
	body, ended, err := t.body()
	if err != nil {
		return "", err
	}
	if ended != nil {
		return "", ended.unexpected()
	}
	return body, nil
}

type translator struct {
	parts    []part
	at       int
	depth    int             // blocks around
	loops    int             // loops around, inside the same macro
	ids      int             // for names of its own
	assigned map[string]bool // names that are set in the innermost loop or macro
}

// id gives a new name.
func (t *translator) id() string {
	t.ids++
	return fmt.Sprintf("__%d", t.ids)
}

// body translates parts up to a statement that begins with one of ends, and
// gives that statement, read up to after its first word; nil at the end of the
// template.
func (t *translator) body(ends ...string) (string, *expression, error) {
	t.depth++
	defer func() { t.depth-- }()
	var b strings.Builder
	for t.at < len(t.parts) {
		p := &t.parts[t.at]
		t.at++
		if t.depth > MaxDepth {
			return "", nil, failf(p.line, "more than %d blocks in each other", MaxDepth)
		}
		switch p.kind {
		case textPart:
			fmt.Fprintf(&b, "{{ __out(none, %s) }}", literal(p.text))
			continue
		case outputPart:
			x := &expression{tokens: p.tokens}
			e, err := x.list()
			if err == nil {
				err = x.expectEnd()
			}
			if err != nil {
				return "", nil, err
			}
			fmt.Fprintf(&b, "{{ __out(__at(%d), %s) }}", p.line, e)
			continue
		}
		x := &expression{tokens: p.tokens}
		word := x.next()
		if word.kind != tokName {
			return "", nil, failf(p.line, "a statement begins with %v", word)
		}
		if slices.Contains(ends, word.text) {
			return b.String(), x, nil
		}
		s, err := t.statement(word, x)
		if err != nil {
			return "", nil, err
		}
		b.WriteString(s)
	}
	if len(ends) > 0 {
		line := 1
		if len(t.parts) > 0 {
			line = t.parts[len(t.parts)-1].line
		}
		return "", nil, failf(line, "the template ends without %s", ends[len(ends)-1])
	}
	return b.String(), nil, nil
}

// block translates the rest of a block: the end of the tag that x stands in,
// the body, and the closing statement.
func (t *translator) block(x *expression, closing string) (string, error) {
	if err := x.expectEnd(); err != nil {
		return "", err
	}
	body, ended, err := t.body(closing)
	if err != nil {
		return "", err
	}
	return body, ended.expectEnd()
}

func (t *translator) statement(word token, x *expression) (string, error) {
	switch word.text {
	case "if":
		return t.ifStatement(word.line, x)
	case "for":
		return t.forStatement(word.line, x)
	case "set":
		return t.setStatement(word.line, x)
	case "macro":
		return t.macroStatement(word.line, x)
	case "call":
		return t.callStatement(word.line, x)
	case "filter":
		return t.filterStatement(word.line, x)
	case "generation": // marks what a model is trained on
		return t.block(x, "endgeneration")
	case "break", "continue":
		if t.loops == 0 {
			return "", failf(word.line, "%s outside a loop", word.text)
		}
		return "{% " + word.text + " %}", x.expectEnd()
	case "include", "import", "from", "extends", "block":
		return "", failf(word.line, "%s is not allowed: a chat template stands alone", word.text)
	}
	return "", failf(word.line, "unknown statement %v", word)
}

func (t *translator) ifStatement(line int, x *expression) (string, error) {
	var b strings.Builder
	for word := "if"; ; {
		cond, err := x.condition()
		if err == nil {
			err = x.expectEnd()
		}
		if err != nil {
			return "", err
		}
		body, ended, err := t.body("elif", "else", "endif")
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, "{%% %s __if(__at(%d), %s) %%}%s", word, line, cond, body)
		word, x, line = ended.word(), ended, ended.line()
		if word == "elif" {
			continue
		}
		if word == "else" {
			body, err := t.block(x, "endif")
			if err != nil {
				return "", err
			}
			b.WriteString("{% else %}" + body)
		} else if err := x.expectEnd(); err != nil {
			return "", err
		}
		b.WriteString("{% endif %}")
		return b.String(), nil
	}
}

// forStatement also makes names that are set in the body begin anew in each
// turn, as they do in jinja2: they are put back to what they were before the
// loop.
func (t *translator) forStatement(line int, x *expression) (string, error) {
	targets, err := x.targets("in")
	if err != nil {
		return "", err
	}
	iter, err := x.listOf(x.or)
	if err != nil {
		return "", err
	}
	item := targets[0]
	if len(targets) > 1 {
		item = t.id()
	}
	header := fmt.Sprintf("{%% for %s in __iter(__at(%d), %s, %d)", item, line, iter, len(targets))
	if x.takeName("if") {
		if len(targets) > 1 { // the condition is asked before the names are set
			x.rename = map[string]string{}
			for i, target := range targets {
				x.rename[target] = fmt.Sprintf("%s[%d]", item, i)
			}
		}
		cond, err := x.condition()
		if err != nil {
			return "", err
		}
		header += fmt.Sprintf(" if (__if(__at(%d), %s))", line, cond)
	}
	if x.takeName("recursive") {
		return "", failf(line, "recursive loops are not supported")
	}
	if err := x.expectEnd(); err != nil {
		return "", err
	}
	header += " %}"

	outer := t.assigned
	t.assigned = map[string]bool{}
	t.loops++
	body, ended, err := t.body("else", "endfor")
	t.loops--
	inner := t.assigned
	t.assigned = outer
	if err != nil {
		return "", err
	}
	before := ""
	if len(inner) > 0 {
		saved, names := t.id(), make([]string, 0, len(inner))
		for n := range inner {
			names = append(names, n)
		}
		slices.Sort(names)
		before = fmt.Sprintf("{%% set %s = [%s] %%}", saved, strings.Join(names, ", "))
		for i, n := range names {
			if n != item {
				header += fmt.Sprintf("{%% set %s = %s[%d] %%}", n, saved, i)
			}
		}
	}
	if len(targets) > 1 {
		for i, target := range targets {
			header += fmt.Sprintf("{%% set %s = %s[%d] %%}", target, item, i)
		}
	}
	if ended.word() != "else" {
		return before + header + body + "{% endfor %}", ended.expectEnd()
	}
	otherwise, err := t.block(ended, "endfor")
	loop := t.id()
	return before + fmt.Sprintf("{%% set %s = __loop() %%}", loop) + header + body +
		fmt.Sprintf("{%% set __ = __finish(%s) %%}{%% endfor %%}{%% if __pending(%s) %%}", loop, loop) + otherwise + "{% endif %}", err
}

func (t *translator) setStatement(line int, x *expression) (string, error) {
	if x.peek(1).text == "." && x.peek(1).kind == tokOp { // an attribute of a namespace
		space, err := x.target()
		if err != nil {
			return "", err
		}
		x.next()
		attr, err := x.attribute()
		if err != nil {
			return "", err
		}
		if err := x.expectOp("="); err != nil {
			return "", err
		}
		e, err := x.list()
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("{%% set %s.%s = __put(__at(%d), %s, %s) %%}", space, attr, line, space, e), x.expectEnd()
	}
	targets, err := x.targets("")
	if err != nil {
		return "", err
	}
	for _, target := range targets {
		t.assigned[target] = true
	}
	if x.takeOp("=") {
		e, err := x.list()
		if err == nil {
			err = x.expectEnd()
		}
		if err != nil {
			return "", err
		}
		if len(targets) == 1 {
			return fmt.Sprintf("{%% set %s = __value(__at(%d), %s) %%}", targets[0], line, e), nil
		}
		list := t.id()
		s := fmt.Sprintf("{%% set %s = __unpack(__at(%d), %s, %d) %%}", list, line, e, len(targets))
		for i, target := range targets {
			s += fmt.Sprintf("{%% set %s = %s[%d] %%}", target, list, i)
		}
		return s, nil
	}
	if len(targets) > 1 {
		return "", x.unexpected()
	}
	// {% set x | filters %} … {% endset %}
	filtered, err := x.filters(targets[0])
	if err != nil {
		return "", err
	}
	body, err := t.block(x, "endset")
	if err != nil {
		return "", err
	}
	s := fmt.Sprintf("{%% set %s %%}%s{%% endset %%}", targets[0], body)
	if filtered != targets[0] {
		s += fmt.Sprintf("{%% set %s = __value(__at(%d), %s) %%}", targets[0], line, filtered)
	}
	return s, nil
}

func (t *translator) macroStatement(line int, x *expression) (string, error) {
	macro, err := x.target()
	if err != nil {
		return "", err
	}
	if err := x.expectOp("("); err != nil {
		return "", err
	}
	params, defaults, err := x.parameters()
	if err != nil {
		return "", err
	}
	t.assigned[macro] = true
	body, err := t.function(line, x, defaults, "endmacro")
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("{%% macro %s(%s) %%}", macro, strings.Join(params, ", ")) + body + "{% endmacro %}", nil
}

// function translates the body of a macro or call block, which begins with the
// defaults of its parameters.
func (t *translator) function(line int, x *expression, defaults, closing string) (string, error) {
	loops, assigned := t.loops, t.assigned
	t.loops, t.assigned = 0, map[string]bool{}
	body, err := t.block(x, closing)
	t.loops, t.assigned = loops, assigned
	return fmt.Sprintf("{%% set __ = __enter(__at(%d)) %%}", line) + defaults + body + "{% set __ = __leave() %}", err
}

func (t *translator) callStatement(line int, x *expression) (string, error) {
	params, defaults := []string(nil), ""
	if x.takeOp("(") {
		var err error
		if params, defaults, err = x.parameters(); err != nil {
			return "", err
		}
	}
	macro, err := x.target()
	if err != nil {
		return "", err
	}
	if err := x.expectOp("("); err != nil {
		return "", err
	}
	args, err := x.arguments(false)
	if err != nil {
		return "", err
	}
	body, err := t.function(line, x, defaults, "endcall")
	if err != nil {
		return "", err
	}
	given := ""
	if len(params) > 0 {
		given = "(" + strings.Join(params, ", ") + ")"
	}
	return fmt.Sprintf("{%% set __ = __at(%d) %%}{%% call%s %s(%s) %%}", line, given, macro, args) + body + "{% endcall %}", nil
}

func (t *translator) filterStatement(line int, x *expression) (string, error) {
	text := t.id()
	x.at-- // the word "filter" stands where a | would
	x.tokens = slices.Clone(x.tokens)
	x.tokens[x.at] = token{kind: tokOp, text: "|", line: line}
	filtered, err := x.filters(text)
	if err != nil {
		return "", err
	}
	body, err := t.block(x, "endfilter")
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("{%% set %s %%}%s{%% endset %%}{{ __out(__at(%d), %s) }}", text, body, line, filtered), nil
}

// literal writes a string so that the jinja library reads it as it is.
func literal(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'"
}
