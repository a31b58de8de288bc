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
		args, _, err := x.arguments(false)
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
	if !known {
		return e + "." + attr, nil
	}
	if !x.takeOp("(") { // a method is nothing but something to call
		return fmt.Sprintf("__field(%s, '%s')", e, attr), nil
	}
	args, _, err := x.arguments(true)
	if err != nil {
		return "", err
	}
	switch method {
	case guarded:
		if args != "" {
			args = ", " + args
		}
		return fmt.Sprintf("__%s(%s%s)", attr, e, args), nil
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

// arguments reads those of a call, after the parenthesis, and gives the keyword
// of each, "" for those without. With all, each is looked at in full by what is
// called.
func (x *expression) arguments(all bool) (written string, keywords []string, err error) {
	var args []string
	for !x.takeOp(")") {
		if len(args) > 0 {
			if err := x.expectOp(","); err != nil {
				return "", nil, err
			}
			if x.takeOp(")") {
				break
			}
		}
		keyword, equals := "", ""
		if t := x.peek(0); t.kind == tokName && x.peek(1).kind == tokOp && x.peek(1).text == "=" {
			if err := private(t); err != nil {
				return "", nil, err
			}
			keyword, equals = t.text, "="
			x.at += 2
		}
		e, err := x.condition()
		if err != nil {
			return "", nil, err
		}
		if all {
			e = "__all(" + e + ")"
		}
		args = append(args, keyword+equals+e)
		keywords = append(keywords, keyword)
	}
	return strings.Join(args, ", "), keywords, nil
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
	return "{" + strings.Join(items, ", ") + "}", nil
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
	args, keywords := "", []string(nil)
	if x.takeOp("(") {
		if args, keywords, err = x.arguments(true); err != nil {
			return "", err
		}
	}
	f, known := filters[name]
	if !known {
		return fmt.Sprintf("__unknown('filter', '%s')", name), nil
	}
	if args != "" {
		args = ", " + args
	}
	if f.look == "" { // one of ours
		return fmt.Sprintf("__%s(%s%s)", name, e, args), nil
	}
	for _, keyword := range keywords {
		if keyword != "" { // the library would pass over it
			return fmt.Sprintf("__unknown('argument of the filter %s:', '%s')", name, keyword), nil
		}
	}
	if len(keywords) > f.most {
		return fmt.Sprintf("__unknown('further argument of the filter', '%s')", name), nil
	}
	if args == "" && f.missing != "" {
		args = ", " + f.missing
	}
	if len(keywords) == 1 && (name == "selectattr" || name == "rejectattr") {
		args += ", 'truthy'" // what the library calls the test for no test
	}
	return fmt.Sprintf("__made(%s(%s)|%s(%s))", f.look, e, name, strings.TrimPrefix(args, ", ")), nil
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
	args := ""
	switch t := x.peek(0); {
	case x.takeOp("("):
		args, _, err = x.arguments(true)
	case t.kind == tokString, t.kind == tokInt, t.kind == tokFloat, x.isOp("["), x.isOp("{"),
		t.kind == tokName && !slices.Contains(keywords, t.text) && t.text != "recursive":
		args, err = x.postfix() // x is divisibleby 3
		args = "__all(" + args + ")"
	}
	if err != nil {
		return "", err
	}
	look, known := tests[name]
	if !known {
		return fmt.Sprintf("__unknown('test', '%s')", name), nil
	}
	if name == "sequence" { // strings and dicts are, to jinja2
		name = "iterable"
	}
	if args != "" {
		args = "(" + args + ")"
	}
	return fmt.Sprintf("(%s(%s) is %s%s%s)", look, e, not, name, args), nil
}
