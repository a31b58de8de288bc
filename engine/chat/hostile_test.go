package chat

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestHostile: whatever a template tries, it ends with an error that says
// where, and soon. None of them would end, or leave the process alive, if it
// went to the jinja library as it is.
func TestHostile(t *testing.T) {
	nested := func(open, inner, shut string, n int) string {
		return strings.Repeat(open, n) + inner + strings.Repeat(shut, n)
	}
	double := func(statement string) string {
		return "{% set ns = namespace(x='aaaaaaaa', l=[1]) %}{% for i in range(99) %}" + statement + "{% endfor %}"
	}
	cases := []struct{ name, source, says string }{
		{"range", "{% for i in range(10**9) %}{% endfor %}", "range of more than"},
		{"range in one step of 64 bits", "{{ range(-9223372036854775807, 9223372036854775807, 1) }}", "range of more than"},
		{"range with an overflow at its end", "{% for i in range(9223372036854775800, 9223372036854775807, 5) %}{{ 1 / 0 }}{% endfor %}", "division by zero"},
		{"nested loops", nested("{% for i in range(1000) %}", "", "{% endfor %}", 10), "steps"},
		{"nested loops over what is stored", "{% set r = range(1000) %}" + nested("{% for i in r %}", "", "{% endfor %}", 10), "steps"},
		{"nested loops over text", "{% set r = 'abcdefghij' * 100 %}" + nested("{% for i in r %}", "", "{% endfor %}", 10), "steps"},
		{"nested loops that leave everything out", "{% set r = range(1000) %}" + nested("{% for i in r %}", "{% for i in r if false %}{% endfor %}", "{% endfor %}", 2), "steps"},
		{"repeated text", "{{ 'a' * 10**9 }}", "text of more than"},
		{"repeated text by a number of 64 bits", "{{ 'ab' * 9223372036854775807 }}", "text of more than"},
		{"repeated list", "{% set x = [1] * 10**9 %}", "steps"},
		{"repeated empty list", "{% set x = [] * 9223372036854775807 %}{{ 1 / 0 }}", "division by zero"},
		{"doubled by ~", double("{% set ns.x = ns.x ~ ns.x %}"), "more than"},
		{"doubled by +", double("{% set ns.x = ns.x + ns.x %}"), "more than"},
		{"doubled by join", double("{% set ns.x = [ns.x, ns.x] | join %}"), "more than"},
		{"doubled by replace", double("{% set ns.x = ns.x | replace('a', 'aa') %}"), "more than"},
		{"squared by replace", double("{% set ns.x = ns.x.replace('a', ns.x) %}"), "more than"},
		{"doubled by format", double("{% set ns.x = '{0}{0}'.format(ns.x) %}"), "more than"},
		{"doubled by a block", "{% set x = 'aaaa' %}" + strings.Repeat("{% set x %}{{ x }}{{ x }}{% endset %}", 40), "more than"},
		{"doubled list", double("{% set ns.l = ns.l + ns.l %}"), "steps"},
		{"list in two of itself, printed", double("{% set ns.l = [ns.l, ns.l] %}") + "{{ ns.l }}", "more than"},
		{"dict in two of itself", double("{% set ns.l = {'a': ns.l, 'b': ns.l} %}") + "{{ ns.l | tojson }}", "more than"},
		{"list in two of itself, compared", "{% set l = [1] %}" + strings.Repeat("{% set l = [l, l] %}", 60) + "{{ l == l }}", "steps"},
		{"list in two of itself, as JSON", "{% set l = [1] %}" + strings.Repeat("{% set l = [l, l] %}", 60) + "{{ l | tojson }}", "more than"},
		{"list in two of itself, tested", "{% set l = [1] %}" + strings.Repeat("{% set l = [l, l] %}", 60) + "{{ l is eq l }}", "steps"},
		{"list in itself a thousand deep", "{% set l = [1] %}" + strings.Repeat("{% set l = [l] %}", 1000) + "{{ l }}", "in each other"},
		{"indent", "{{ 'a\nb' | indent(10**12) }}", "more than"},
		{"indent of many lines", "{{ ('a\n' * 100000) | indent(10000) }}", "more than"},
		{"indented JSON", "{{ [1] | tojson(indent=10**9) }}", "indent"},
		{"JSON separators", "{{ [1] | tojson(separators=('a' * 1000, 'b')) }}", "separators"},
		{"split", "{{ ('a,' * 4000000).split(',') }}", "steps"},
		{"split at white space", "{{ ('a ' * 4000000).split() }}", "steps"},
		{"list of characters", "{{ ('a' * 8000000) | list | length }}", "steps"},
		{"characters one by one", "{% set s = 'a' * 16000000 %}{% for i in range(100000) %}{{ s[i] }}{% endfor %}", "steps"},
		{"slices of a long text", "{% set s = 'a' * 16000000 %}{% for i in range(100000) %}{{ s[1:] | length }}{% endfor %}", "steps"},
		{"searches in a long text", "{% set s = 'a' * 16000000 %}{% for i in range(100000) %}{{ 'b' in s }}{% endfor %}", "steps"},
		{"methods of a long text", "{% set s = 'a' * 16000000 %}{% for i in range(100000) %}{{ s.find('b') }}{% endfor %}", "steps"},
		{"lengths of a long text", "{% set s = 'a' * 16000000 %}{% for i in range(100000) %}{{ s | length }}{% endfor %}", "steps"},
		{"tests of a long text", "{% set s = 'a' * 16000000 %}{% for i in range(100000) %}{{ s is upper }}{% endfor %}", "steps"},
		{"much output", "{% for i in range(9999) %}" + strings.Repeat("0123456789", 1000) + "{% endfor %}", "bytes of output"},
		{"much output of a macro", "{% macro m() %}" + strings.Repeat("0123456789", 1000) + "{% endmacro %}{% for i in range(9999) %}{% set x = m() %}{% endfor %}", "bytes of output"},
		{"a macro that calls itself", "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "macros call each other"},
		{"macros that call each other", "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{% endmacro %}{{ a() }}", "macros call each other"},
		{"macros that call each other twice", "{% macro m(n) %}{% if n < 40 %}{{ m(n + 1) }}{{ m(n + 1) }}{% endif %}{% endmacro %}{{ m(0) }}", "steps"},
		{"a default that calls its macro", "{% macro m(a=m()) %}{{ a }}{% endmacro %}{{ m() }}", "macros call each other"},
		{"a caller that calls itself", "{% set ns = namespace() %}{% macro m() %}{% set ns.c = caller %}{{ caller() }}{% endmacro %}{% call m() %}{{ ns.c() }}{% endcall %}", "macros call each other"},
		{"a namespace in itself", "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}", "contain itself"},
		{"a namespace in itself by a list", "{% set ns = namespace() %}{% set ns.x = [{'a': ns}] %}{{ ns }}", "contain itself"},
		{"two namespaces in each other", "{% set a = namespace() %}{% set b = namespace(a=a) %}{% set a.b = b %}{{ a }}", "contain itself"},
		{"a namespace in a cycler", "{% set ns = namespace() %}{% set ns.c = cycler(1, ns) %}{{ ns.c.next() }}{{ ns.c.next() }}{{ ns }}", "cannot be a key"},
		{"a list that is changed", "{% set l = [] %}{% set _ = l.append(l) %}{{ l }}", "change a value"},
		{"a message that is changed", "{% set messages[0].role = 'x' %}", "unexpected"},
		{"an attribute of a message", "{% set m = messages[0] %}{% set m.role = 'x' %}", "namespace"},
		{"a private name", "{{ __math('+', 1, 2) }}", "private"},
		{"a private name that is set", "{% set __at = 1 %}", "private"},
		{"a private parameter", "{% macro m(__at) %}{% endmacro %}", "private"},
		{"a private keyword", "{{ dict(__at=1) }}", "private"},
		{"a private attribute", "{{ messages.__class__ }}", "private"},
		{"parentheses", "{{ " + nested("(", "1", ")", 100_000) + " }}", "in each other"},
		{"lists", "{{ " + nested("[", "1", "]", 100_000) + " }}", "in each other"},
		{"signs", "{{ " + strings.Repeat("-", 100_000) + "1 }}", "operators"},
		{"negations", "{{ " + strings.Repeat("not ", 100_000) + "1 }}", "operators"},
		{"sums", "{{ 1" + strings.Repeat(" + 1 - 1", 50_000) + " }}", "operators"},
		{"attributes", "{{ a" + strings.Repeat(".a", 100_000) + " }}", "operators"},
		{"calls", "{{ a" + strings.Repeat("()", 100_000) + " }}", "operators"},
		{"filters", "{{ a" + strings.Repeat("|e", 100_000) + " }}", "operators"},
		{"alternatives", "{{ 1" + strings.Repeat(" if 1 else 1", 50_000) + " }}", "operators"},
		{"comparisons", "{{ 1" + strings.Repeat(" < 1", 50_000) + " }}", "operators"},
		{"conjunctions", "{{ 1" + strings.Repeat(" and 1", 50_000) + " }}", "operators"},
		{"blocks", nested("{% if 1 %}", "", "{% endif %}", 10_000), "blocks in each other"},
		{"blocks that are not closed", strings.Repeat("{% if 1 %}", 10_000), "blocks in each other"},
		{"a large number", "{{ 99999999999999999999 }}", "too large"},
		{"a large float", "{{ 1e999 }}", "too large"},
		{"a number that overflows", "{{ 9223372036854775807 + 1 }}", "64 bits"},
		{"a product that overflows", "{{ 9223372036854775807 * 2 }}", "64 bits"},
		{"a power that overflows", "{{ 10 ** 1000000000 }}", "64 bits"},
		{"a float that overflows", "{{ 1e308 * 10 }}", "not a number"},
		{"the smallest number divided", "{{ (-9223372036854775807 - 1) // -1 }}", "64 bits"},
		{"a sum of lists in a loop", "{% set ns = namespace(l=[]) %}{% for i in range(100000) %}{% set ns.l = ns.l + [i] %}{% endfor %}", "steps"},
		{"bounds of a slice", "{{ [1][-9223372036854775807:9223372036854775807:9223372036854775807][5] / 0 }}", "undefined"},
		{"a slice without a step", "{{ [1, 2][::0] }}", "step"},
		{"a filter without its argument", "{{ [1] | batch }}", "batches of 0"},
		{"tests that compare lists", "{% set l = [range(1000)] * 1000 %}{{ [range(999) + [0]] | select('in', l) | list | length }}{{ l | select('eq', l[0]) | list | length }}", "steps"},
	}
	for _, c := range cases {
		tmpl, err := Parse(c.source)
		if err == nil {
			_, err = tmpl.render(Input{Messages: []Message{{"user", "hi"}}}, 1<<20) // a quarter of what is allowed
		}
		if !errors.Is(err, ErrTemplate) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want an error with %q", c.name, err, c.says)
			continue
		}
		if !strings.Contains(err.Error(), "line 1") && !strings.Contains(err.Error(), "line 2") {
			t.Errorf("%s: the error has no line: %v", c.name, err)
		}
		if len(err.Error()) > 300 {
			t.Errorf("%s: the error has %d bytes", c.name, len(err.Error()))
		}
	}
	if _, err := Parse(strings.Repeat(" ", MaxSource) + "x"); !errors.Is(err, ErrTemplate) {
		t.Errorf("a template beyond the limit: %v", err)
	}
}

// TestLongConversation: the limits are far from what a long conversation
// needs.
func TestLongConversation(t *testing.T) {
	g := readGolden(t)
	var messages []Message
	for i := range 5000 {
		messages = append(messages, Message{[]string{"user", "assistant"}[i%2], fmt.Sprintf("%d %s", i, strings.Repeat("word ", 150))})
	}
	for _, s := range g.Templates {
		if strings.HasPrefix(s.Name, "language-") {
			continue
		}
		tmpl, err := Parse(s.Source)
		if err != nil {
			t.Fatal(err)
		}
		got, err := tmpl.Render(Input{Messages: messages, AddGenerationPrompt: true})
		if err != nil {
			t.Errorf("%s: %v", s.Name, err)
		}
		if !strings.Contains(got, "4999 word") || len(got) < 5000*750 {
			t.Errorf("%s: %d bytes", s.Name, len(got))
		}
	}
}

func TestErrorsSayWhere(t *testing.T) {
	for source, want := range map[string]string{
		"a\nb\n{{ 1 +\n }}":                                       "line 4",
		"a\n{% if x %}\n{{ 1 / 0 }}\n":                            "", // not executed, and not closed
		"\n\n{{ 'a' + 1 }}":                                       "line 3",
		"{% for i in [1] %}\n\n{{ 1/0 }}{% endfor %}":             "line 3",
		"{% macro m() %}\n{{ 1 / 0 }}{% endmacro %}\n\n{{ m() }}": "line 2",
		"\n{% nope %}":                                            "line 2",
	} {
		tmpl, err := Parse(source)
		if err == nil {
			_, err = tmpl.Render(Input{})
		}
		if !errors.Is(err, ErrTemplate) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", source, err, want)
		}
	}
	tmpl, err := Parse("\n{{ raise_exception('roles must alternate') }}")
	if err != nil {
		t.Fatal(err)
	}
	var raised *RaisedError
	if _, err = tmpl.Render(Input{}); !errors.As(err, &raised) || raised.Message != "roles must alternate" || raised.Line != 2 {
		t.Errorf("raise_exception: %v", err)
	}
	for _, source := range []string{"", " \n"} {
		if _, err := Parse(source); !errors.Is(err, ErrNoTemplate) {
			t.Errorf("%q: %v", source, err)
		}
	}
}

func TestDate(t *testing.T) {
	tmpl, err := Parse("{{ strftime_now('%d %b %Y, %A, %H:%M:%S, %-d, %j, 100%%') }}")
	if err != nil {
		t.Fatal(err)
	}
	got, err := tmpl.Render(Input{Now: time.Date(2026, 3, 7, 8, 9, 5, 0, time.UTC)})
	if want := "07 Mar 2026, Saturday, 08:09:05, 7, 066, 100%"; err != nil || got != want {
		t.Errorf("%q, %v, want %q", got, err, want)
	}
	tmpl, err = Parse("{{ strftime_now('%Q') }}")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tmpl.Render(Input{}); !errors.Is(err, ErrTemplate) {
		t.Errorf("an unknown directive: %v", err)
	}
}

// TestConcurrentUse renders one template from several goroutines.
func TestConcurrentUse(t *testing.T) {
	tmpl, err := Parse("{% set ns = namespace(s='') %}{% for m in messages %}{% set ns.s = ns.s ~ m.content %}{% endfor %}{{ ns.s }}")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	for i := range 8 {
		go func() {
			var err error
			for range 50 {
				text := fmt.Sprint(i)
				got, e := tmpl.Render(Input{Messages: []Message{{"user", text}, {"user", "x"}}})
				if e != nil || got != text+"x" {
					err = fmt.Errorf("%q, %v", got, e)
				}
			}
			done <- err
		}()
	}
	for range 8 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// FuzzTemplate: any template ends, with text or an ErrTemplate.
func FuzzTemplate(f *testing.F) {
	g := readGolden(f)
	for _, s := range g.Templates {
		f.Add(s.Source, "Hello")
	}
	f.Add("{% for x in range(99) %}{{ x ~ messages[0].content }}{% endfor %}", "")
	f.Add("{% set ns = namespace(a=[]) %}{% macro m(x) %}{{ x | tojson(indent=2) }}{% endmacro %}{{ m({'a': [1, 2.5]}) }}", "é")
	f.Add("{%- if 'a' in messages[0].content.split(',') -%}\n {{ '{0}'.format(1) | indent }}{% endif %}", "a,b")
	f.Fuzz(func(t *testing.T, source, content string) {
		tmpl, err := Parse(source)
		if err == nil {
			var got string
			got, err = tmpl.render(Input{Messages: []Message{{"user", content}, {"assistant", "ok"}}, BOS: "<s>", EOS: "</s>", Now: time.Unix(0, 0)}, 1<<16)
			if len(got) > MaxOutput {
				t.Fatalf("%d bytes", len(got))
			}
		}
		if err != nil && !errors.Is(err, ErrTemplate) && !errors.Is(err, ErrNoTemplate) {
			t.Fatalf("an error of no kind: %v", err)
		}
	})
}
