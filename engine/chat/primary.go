package chat

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// suffix reads an attribute, a subscript or the arguments of a call.
func (x *expression) suffix(e string) (string, error) {
	if err := x.count(); err != nil {
		return "", err
	}
	switch x.next().text {
	case "(":
		args, err := x.arguments(false)
		if e == "dict" { // the library passes keyword arguments without their order
			return dictOf(args), err
		}
		return fmt.Sprintf("__made(%s(%s))", e, args), err
	case "[":
		return x.subscript(e)
	}
	if t := x.peek(0); t.kind == tokInt {
		x.at++
		return fmt.Sprintf("__item(%s, %s)", e, t.text), nil
	}
	attr, err := x.attribute()
	if err != nil {
		return "", err
	}
	method, known := methods[attr]
	if !known || !x.takeOp("(") { // a method is nothing but something to call
		return fmt.Sprintf("__attr(%s, '%s')", e, attr), nil
	}
	args, err := x.arguments(true)
	if err != nil {
		return "", err
	}
	switch method {
	case guarded:
		return fmt.Sprintf("__%s(%s)", attr, args.after(e)), nil
	case changes:
		return fmt.Sprintf("__forbidden('%s')", attr), nil
	}
	return fmt.Sprintf("__made(__made(%s).%s(%s))", e, attr, args), nil
}

// attribute reads a name after a dot.
func (x *expression) attribute() (string, error) {
	t := x.peek(0)
	if t.kind != tokName {
		return "", x.unexpected()
	}
	x.at++
	return t.text, private(t)
}

func (x *expression) subscript(e string) (string, error) {
	bounds, colons := [3]string{"none", "none", "none"}, 0
	for !x.takeOp("]") {
		if x.takeOp(":") {
			if colons++; colons > 2 {
				return "", failf(x.line(), "a slice has three bounds at most")
			}
			continue
		}
		if bounds[colons] != "none" {
			return "", x.unexpected()
		}
		bound, err := x.condition()
		if err != nil {
			return "", err
		}
		bounds[colons] = bound
	}
	switch {
	case colons > 0:
		return fmt.Sprintf("__slice(%s, %s)", e, strings.Join(bounds[:], ", ")), nil
	case bounds[0] == "none":
		return "", failf(x.line(), "a subscript is empty")
	}
	return fmt.Sprintf("__item(%s, %s)", e, bounds[0]), nil
}

// argument is one of a call, in translation.
type argument struct{ keyword, value string }

type arguments []argument

// String writes the arguments as a call has them.
func (a arguments) String() string {
	all := make([]string, len(a))
	for i, one := range a {
		all[i] = one.value
		if one.keyword != "" {
			all[i] = one.keyword + "=" + one.value
		}
	}
	return strings.Join(all, ", ")
}

// after writes the arguments behind another one.
func (a arguments) after(first string) string {
	if len(a) == 0 {
		return first
	}
	return first + ", " + a.String()
}

// dictOf writes dict(a=1) as a literal.
func dictOf(args arguments) string {
	all := make([]string, len(args))
	for i, one := range args {
		if one.keyword == "" {
			return "__unknown('argument without a keyword of', 'dict')"
		}
		all[i] = literal(one.keyword) + ": " + one.value
	}
	return "{" + strings.Join(all, ", ") + " }"
}

// arguments reads those of a call, after the parenthesis. With all, each is
// looked at in full by what is called.
func (x *expression) arguments(all bool) (arguments, error) {
	var args arguments
	for !x.takeOp(")") {
		if len(args) > 0 {
			if err := x.expectOp(","); err != nil {
				return nil, err
			}
			if x.takeOp(")") {
				break
			}
		}
		keyword := ""
		if t := x.peek(0); t.kind == tokName && x.peek(1).kind == tokOp && x.peek(1).text == "=" {
			if err := private(t); err != nil {
				return nil, err
			}
			keyword = t.text
			x.at += 2
		}
		e, err := x.condition()
		if err != nil {
			return nil, err
		}
		if all {
			e = "__all(" + e + ")"
		}
		args = append(args, argument{keyword, e})
	}
	return args, nil
}

func (x *expression) primary() (string, error) {
	t := x.peek(0)
	switch t.kind {
	case tokString:
		value := ""
		for x.peek(0).kind == tokString {
			value += x.next().text
		}
		return literal(value), nil
	case tokInt:
		x.at++
		return t.text, nil
	case tokFloat:
		x.at++
		f, _ := strconv.ParseFloat(t.text, 64)
		s := strconv.FormatFloat(f, 'f', -1, 64)
		if !strings.Contains(s, ".") {
			s += ".0"
		}
		return s, nil
	case tokName:
		return x.name()
	}
	switch {
	case x.takeOp("("):
		if x.takeOp(")") {
			return "[]", nil
		}
		e, err := x.list()
		if err != nil {
			return "", err
		}
		return "(" + e + ")", x.expectOp(")")
	case x.takeOp("["):
		return x.listLiteral()
	case x.takeOp("{"):
		return x.dictLiteral()
	}
	return "", x.unexpected()
}

func (x *expression) name() (string, error) {
	t := x.next()
	switch t.text {
	case "true", "True", "false", "False", "none", "None":
		return strings.ToLower(t.text), nil
	case "null": // a value to the jinja library, a name like others to jinja2
		return "__null", nil
	}
	if slices.Contains(keywords, t.text) {
		x.at--
		return "", x.unexpected()
	}
	if other, ok := x.rename[t.text]; ok {
		return other, nil
	}
	return t.text, private(t)
}

func (x *expression) listLiteral() (string, error) {
	var items []string
	for !x.takeOp("]") {
		if len(items) > 0 {
			if err := x.expectOp(","); err != nil {
				return "", err
			}
			if x.takeOp("]") {
				break
			}
		}
		item, err := x.condition()
		if err != nil {
			return "", err
		}
		items = append(items, item)
	}
	return "[" + strings.Join(items, ", ") + "]", nil
}

func (x *expression) dictLiteral() (string, error) {
	var items []string
	for !x.takeOp("}") {
		if len(items) > 0 {
			if err := x.expectOp(","); err != nil {
				return "", err
			}
			if x.takeOp("}") {
				break
			}
		}
		key, err := x.condition()
		if err != nil {
			return "", err
		}
		if err := x.expectOp(":"); err != nil {
			return "", err
		}
		value, err := x.condition()
		if err != nil {
			return "", err
		}
		items = append(items, fmt.Sprintf("__key(%s): %s", key, value))
	}
	return "{" + strings.Join(items, ", ") + " }", nil // two braces would end the tag
}

// filters reads the filters and tests after a value.
func (x *expression) filters(e string) (string, error) {
	for {
		var err error
		switch {
		case x.takeOp("|"):
			e, err = x.filter(e)
		case x.takeName("is"):
			e, err = x.test(e)
		case x.isOp("("):
			e, err = x.suffix(e)
		default:
			return e, nil
		}
		if err != nil {
			return "", err
		}
	}
}

func (x *expression) filter(e string) (string, error) {
	if err := x.count(); err != nil {
		return "", err
	}
	name, err := x.attribute()
	if err != nil {
		return "", err
	}
	var args arguments
	if x.takeOp("(") {
		if args, err = x.arguments(true); err != nil {
			return "", err
		}
	}
	f, known := filters[name]
	if !known {
		return fmt.Sprintf("__unknown('filter', '%s')", name), nil
	}
	if f.look == "" { // one of ours
		return fmt.Sprintf("__%s(%s)", name, args.after(e)), nil
	}
	for _, a := range args {
		if a.keyword != "" { // the library would pass over it
			return fmt.Sprintf("__unknown('argument of the filter %s:', '%s')", name, a.keyword), nil
		}
	}
	if len(args) > f.most {
		return fmt.Sprintf("__unknown('further argument of the filter', '%s')", name), nil
	}
	return fmt.Sprintf("__made(%s(%s)|%s(%s))", f.look, e, name, args), nil
}

func (x *expression) test(e string) (string, error) {
	if err := x.count(); err != nil {
		return "", err
	}
	not := ""
	if x.takeName("not") {
		not = "not "
	}
	name, err := x.attribute()
	if err != nil {
		return "", err
	}
	var args arguments
	switch t := x.peek(0); {
	case x.takeOp("("):
		args, err = x.arguments(false)
	case t.kind == tokString, t.kind == tokInt, t.kind == tokFloat, x.isOp("["), x.isOp("{"),
		t.kind == tokName && !slices.Contains(keywords, t.text) && t.text != "recursive":
		var one string
		one, err = x.postfix() // x is divisibleby 3
		args = arguments{{value: one}}
	}
	if err != nil {
		return "", err
	}
	if !testNames[name] {
		return fmt.Sprintf("__unknown('test', '%s')", name), nil
	}
	return fmt.Sprintf("(%s__is(%s))", not, append(arguments{{value: e}, {value: "'" + name + "'"}}, args...)), nil
}
