package chat

import (
	"fmt"
	"slices"
	"strings"
)

// maxOperators bounds the operators, attributes and calls in one tag, and with
// them how deep its translation is nested.
const maxOperators = 1000

// expression reads the tokens of a tag by jinja2's grammar and gives their
// translation. The methods are named after what they read, from what binds
// least to what binds most.
type expression struct {
	tokens    []token
	at        int
	operators int
	rename    map[string]string // names that are written otherwise
}

func (x *expression) peek(n int) token { return x.tokens[min(x.at+n, len(x.tokens)-1)] }

func (x *expression) next() token {
	t := x.peek(0)
	x.at = min(x.at+1, len(x.tokens))
	return t
}

func (x *expression) line() int { return x.peek(0).line }

// word gives the token before the current one.
func (x *expression) word() string { return x.tokens[x.at-1].text }

func (x *expression) unexpected() error { return failf(x.line(), "unexpected %v", x.peek(0)) }

func (x *expression) isOp(text string) bool { return x.peek(0).kind == tokOp && x.peek(0).text == text }
func (x *expression) isName(text string) bool {
	return x.peek(0).kind == tokName && x.peek(0).text == text
}

func (x *expression) takeOp(text string) bool {
	if x.isOp(text) {
		x.at++
		return true
	}
	return false
}

func (x *expression) takeName(text string) bool {
	if x.isName(text) {
		x.at++
		return true
	}
	return false
}

func (x *expression) expectOp(text string) error {
	if !x.takeOp(text) {
		return failf(x.line(), "expected %q, found %v", text, x.peek(0))
	}
	return nil
}

func (x *expression) expectEnd() error {
	if x.peek(0).kind != tokEnd {
		return x.unexpected()
	}
	return nil
}

// count is called for each operator.
func (x *expression) count() error {
	if x.operators++; x.operators > maxOperators {
		return failf(x.line(), "more than %d operators in one tag", maxOperators)
	}
	return nil
}

// keywords cannot be names.
var keywords = []string{"and", "or", "not", "in", "is", "if", "else", "elif", "for"}

// target reads a name that is being defined.
func (x *expression) target() (string, error) {
	t := x.peek(0)
	switch {
	case t.kind != tokName || slices.Contains(keywords, t.text):
		return "", x.unexpected()
	case slices.Contains([]string{"true", "True", "false", "False", "none", "None", "null"}, t.text):
		return "", failf(t.line, "%s cannot be set", t.text)
	}
	x.at++
	return t.text, private(t)
}

// targets reads names that are being defined, and the word after them.
func (x *expression) targets(after string) ([]string, error) {
	var all []string
	parens := x.takeOp("(")
	for {
		one, err := x.target()
		if err != nil {
			return nil, err
		}
		all = append(all, one)
		if !x.takeOp(",") {
			break
		}
	}
	if parens {
		if err := x.expectOp(")"); err != nil {
			return nil, err
		}
	}
	if after != "" && !x.takeName(after) {
		return nil, failf(x.line(), "expected %q, found %v", after, x.peek(0))
	}
	return all, nil
}

// private refuses the names that the translation uses.
func private(t token) error {
	if strings.HasPrefix(t.text, "__") {
		return failf(t.line, "the name %.40s is private", t.text)
	}
	return nil
}

// parameters reads those of a macro, after the parenthesis, and gives the
// statements that set the defaults.
func (x *expression) parameters() (names []string, defaults string, err error) {
	for !x.takeOp(")") {
		if len(names) > 0 {
			if err := x.expectOp(","); err != nil {
				return nil, "", err
			}
		}
		param, err := x.target()
		if err != nil {
			return nil, "", err
		}
		names = append(names, param)
		if x.takeOp("=") {
			value, err := x.condition()
			if err != nil {
				return nil, "", err
			}
			defaults += fmt.Sprintf("{%% if %s is undefined %%}{%% set %s = %s %%}{%% endif %%}", param, param, value)
		}
	}
	return names, defaults, nil
}

// list reads expressions with commas between them, as one list if there are
// several.
func (x *expression) list() (string, error) { return x.listOf(x.condition) }

func (x *expression) listOf(read func() (string, error)) (string, error) {
	one, err := read()
	if err != nil || !x.isOp(",") {
		return one, err
	}
	all := []string{one}
	for x.takeOp(",") {
		if t := x.peek(0); t.kind == tokEnd || t.kind == tokOp && (t.text == ")" || t.text == "=") {
			break
		}
		if one, err = read(); err != nil {
			return "", err
		}
		all = append(all, one)
	}
	return "[" + strings.Join(all, ", ") + "]", nil
}

func (x *expression) condition() (string, error) {
	value, err := x.or()
	for err == nil && x.takeName("if") {
		if err = x.count(); err != nil {
			break
		}
		var cond, otherwise string
		if cond, err = x.or(); err != nil {
			break
		}
		otherwise = "__null"
		if x.takeName("else") {
			if otherwise, err = x.condition(); err != nil {
				break
			}
		}
		value = fmt.Sprintf("(%s if %s else %s)", value, cond, otherwise)
	}
	return value, err
}

func (x *expression) or() (string, error)  { return x.logical("or", x.and) }
func (x *expression) and() (string, error) { return x.logical("and", x.not) }

func (x *expression) logical(word string, operand func() (string, error)) (string, error) {
	first, err := operand()
	if err != nil || !x.isName(word) {
		return first, err
	}
	all := []string{first}
	for x.takeName(word) {
		if err := x.count(); err != nil {
			return "", err
		}
		next, err := operand()
		if err != nil {
			return "", err
		}
		all = append(all, next)
	}
	return "(" + strings.Join(all, " "+word+" ") + ")", nil
}

func (x *expression) not() (string, error) {
	if x.takeName("not") {
		if err := x.count(); err != nil {
			return "", err
		}
		e, err := x.not()
		return "(not " + e + ")", err
	}
	return x.comparison()
}

func (x *expression) comparison() (string, error) {
	first, err := x.sum()
	if err != nil {
		return "", err
	}
	args := first
	compared := false
	for {
		word := ""
		switch t := x.peek(0); {
		case t.kind == tokOp && slices.Contains([]string{"==", "!=", "<", "<=", ">", ">="}, t.text), x.isName("in"):
			word = t.text
			x.at++
		case x.isName("not") && x.peek(1).kind == tokName && x.peek(1).text == "in":
			word = "not in"
			x.at += 2
		}
		if word == "" {
			break
		}
		if err := x.count(); err != nil {
			return "", err
		}
		next, err := x.sum()
		if err != nil {
			return "", err
		}
		args += fmt.Sprintf(", '%s', %s", word, next)
		compared = true
	}
	if !compared {
		return first, nil
	}
	return "__compare(" + args + ")", nil
}

func (x *expression) sum() (string, error)     { return x.arithmetic(x.concat, "+", "-") }
func (x *expression) product() (string, error) { return x.arithmetic(x.power, "*", "/", "//", "%") }
func (x *expression) power() (string, error)   { return x.arithmetic(x.unary, "**") }

func (x *expression) arithmetic(operand func() (string, error), ops ...string) (string, error) {
	left, err := operand()
	for err == nil && x.peek(0).kind == tokOp && slices.Contains(ops, x.peek(0).text) {
		word := x.next().text
		args := left
		for first := true; first || x.takeOp(word); first = false { // a + b + c at once
			if err := x.count(); err != nil {
				return "", err
			}
			right, err := operand()
			if err != nil {
				return "", err
			}
			args += ", " + right
		}
		left = fmt.Sprintf("__math('%s', %s)", word, args)
	}
	return left, err
}

func (x *expression) concat() (string, error) {
	first, err := x.product()
	if err != nil || !x.isOp("~") {
		return first, err
	}
	args := first
	for x.takeOp("~") {
		if err := x.count(); err != nil {
			return "", err
		}
		next, err := x.product()
		if err != nil {
			return "", err
		}
		args += ", " + next
	}
	return "__cat(" + args + ")", nil
}

func (x *expression) unary() (string, error) {
	e, err := x.signed()
	if err != nil {
		return "", err
	}
	return x.filters(e)
}

func (x *expression) signed() (string, error) {
	if x.isOp("-") || x.isOp("+") {
		sign := x.next().text
		if err := x.count(); err != nil {
			return "", err
		}
		e, err := x.signed()
		if sign == "+" {
			return "__math('+', 0, " + e + ")", err
		}
		return "__neg(" + e + ")", err
	}
	return x.postfix()
}

func (x *expression) postfix() (string, error) {
	e, err := x.primary()
	for err == nil {
		switch {
		case x.isOp(".") || x.isOp("[") || x.isOp("("):
			e, err = x.suffix(e)
		default:
			return e, nil
		}
	}
	return "", err
}
