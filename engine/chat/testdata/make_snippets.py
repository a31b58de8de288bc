"""Writes snippets.json: what jinja2 makes of small templates, in the
environment that transformers gives it.

    pip install jinja2==3.1.6 transformers==5.23.0 && python make_snippets.py
"""

import json
from pathlib import Path

import jinja2
import transformers
from transformers.utils.chat_template_utils import _compile_jinja_template

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hello, World! it's\nme\n"},
    {"role": "assistant", "content": ""},
]

EXPRESSIONS = r"""
1 + 2 * 3 - 4
(1 + 2) * 3
7 // 2
-7 // 2
7 % -3
-7 % 3
7.5 // 2
-7.5 % 2
7 / 2
6 / 3
2 ** 10
2 ** -1
2 ** 3 ** 2
-2 ** 2
0.1 + 0.2
1e3
1e16
1.5e-7
123456789012345678.0
1_000_000
1 + true
'a' + 'b' + 'c'
'a' ~ 1 ~ none ~ true ~ 1.0
'ab' * 3
3 * 'ab'
'ab' * 0
[1, 2] + [3]
[0] * 3
'a' 'b'
1 < 2
1 < 2 < 3
1 < 3 < 2
1 == 1.0
1 == true
'1' == 1
none == none
[1, [2]] == [1, [2]]
{'a': 1} == {'a': 1.0}
'a' < 'b'
'10' < '9'
'b' in 'abc'
'x' not in 'abc'
1 in [1, 2]
true in [1]
'a' in {'a': 1}
not 1 in [2]
not true and false
true and 'x'
false or 'y'
'' or none
1 if true else 2
1 if false else 2
1 if false
(1 if false) is undefined
1 if false else 2 if false else 3
none
true
[1, 'a', "it's", 2.0, none, true, {'k': [1]}]
['"', "'", "\n\t\\", "é", "\u00a0", "\x7f"]
{'a': 1, 'b': {'c': 'd'}}
{}
[]
() | length
(1,)[0]
(1, 2)[1]
'abc'[0]
'abc'[-1]
'añb'[1]
'abc'[5] is undefined
'abcdef'[1:3]
'abcdef'[:-2]
'abcdef'[::2]
'abcdef'[::-1]
'abcdef'[4:1:-1]
'abcdef'[-100:100]
'añ😀b'[1:3]
[1, 2, 3, 4][1:]
[1, 2, 3, 4][-2:]
[1, 2, 3, 4][::-2]
[1, 2, 3, 4][10:]
[1, 2, 3][-1]
[1, 2, 3].0
{'a': 1}.a
{'a': 1}['a']
{'a': 1}.get('a')
{'a': 1}.get('b')
{'a': 1}.get('b', 2)
{'a': 1, 'b': 2}.items() | list | length
{'a': 1, 'b': 2}.keys() | join(',')
{'a': 1, 'b': 2}.values() | join(',')
{'items': 5}['items']
messages[0].role
messages[0]['role']
messages[-1].role
messages[1:] | length
messages[9] is defined
messages[0].nothing is defined
(5).x is defined
'a'.x is defined
nothing is defined
nothing
nothing ~ 'x'
nothing | length
nothing | default('d')
nothing | default
'' | default('d')
'' | default('d', true)
none | default('d')
0 | d('x', boolean=true)
'abc' | length
'añ😀' | length
messages | length
[1, 2] | count
'  a b \n' | trim
'xxaxx' | trim('x')
'  a ' | trim | length
'aBc dEf' | upper
'aBc dEf' | lower
'straße' | upper
'hello wORLD-foo (bar) it\'s' | title
'hELLO World' | capitalize
'hello world' | replace('o', '0')
'hello world' | replace('o', '0', 1)
'aaa' | replace('', '-')
'abc' | first
'abc' | last
[3, 1, 2] | first
[] | first is undefined
[3, 1, 2] | last
'abc' | list
{'a': 1} | list
[3, 1, 2] | sort
[3, 1, 2] | sort(reverse=true)
['b', 'A', 'c'] | sort
['b', 'A', 'c'] | sort(case_sensitive=true)
['10', '9', '1x'] | sort
messages | sort(attribute='role') | map(attribute='role') | join(',')
[1, 2, 2, 3, 1] | unique | list
['a', 'A', 'b'] | unique | list
[1, 5, 3] | max
[4, 2, 3] | min
['b', 'A'] | min
[1, 2, 3] | sum
[1.5, 2] | sum
[{'n': 2}, {'n': 3}] | sum(attribute='n')
[1, 2, 3] | reverse | list
'abc' | reverse
[1, 2, 3] | join
[1, 2, 3] | join(', ')
[1, none, 'x', 2.0] | join('-')
messages | join(',', attribute='role')
messages | map(attribute='role') | list
messages | map(attribute='x', default='-') | list
messages | selectattr('role', 'equalto', 'user') | list | length
messages | selectattr('content') | list | length
messages | rejectattr('content') | list | length
messages | rejectattr('role', 'in', ['user', 'system']) | map(attribute='role') | list
[1, 2, 3, 4] | select('odd') | list
[1, 2, 3, 4] | reject('odd') | list
[0, 1, '', 'a'] | select | list
[1, 2, 3, 4, 5] | batch(2) | list
{'b': 1, 'A': 2, 'c': 3} | dictsort | map(attribute=0) | list
{'b': 1, 'A': 2} | dictsort(reverse=true) | map(attribute='1') | list
{'b': 1, 'a': 2} | items | map(attribute=0) | join
'a\nb\n\nc' | indent
'a\nb\n\nc' | indent(2, true)
'a\nb\n\nc' | indent(2, blank=true)
'a\nb' | indent(first=true, width=1)
'3' | int
'3.9' | int
' 42 ' | int
'x' | int
'x' | int(7)
3.9 | int
-3.9 | int
'2.5' | float
'x' | float
3 | float
2.5 | round
3.5 | round
2.567 | round(2)
2.1 | round(method='ceil')
5 | round
-5 | abs
-5.5 | abs
1 | string ~ 'x'
[1] | string
none | string
'<a href="x">\'&' | e
'a b  c' | wordcount
'x' | safe
messages[1] | tojson
{'a': [1, 2.0, none, true, 'é"\\/<>&\u2028\x01']} | tojson
{'a': [1, {'b': []}], 'c': {}} | tojson(indent=2)
{'b': 1, 'a': 2} | tojson(sort_keys=true)
{'b': 1, 'a': [1, 2]} | tojson(separators=(',', ':'))
'é😀' | tojson(ensure_ascii=true)
[] | tojson
'abc' | tojson | length
1 is number
1.0 is number
'1' is number
1 is integer
1.0 is integer
1.0 is float
true is integer
true is boolean
none is none
'x' is string
[] is string
{} is mapping
[] is mapping
[] is sequence
'x' is sequence
{} is sequence
1 is sequence
[] is iterable
'x' is iterable
1 is iterable
3 is odd
4 is even
1 is not defined
'abc' is lower
'ABC' is upper
1 is eq 1
1 is eq(1)
1 is ne 2
2 is gt 1
2 is ge 2
1 is lt 2
1 is le 1
1 is sameas 1
1 is in [1, 2]
9 is divisibleby 3
9 is divisibleby(2)
'Ab' is lower
'12' is lower
[1] is sameas [1]
none is sameas none
[1, 2, 3, 4, 5] | batch(2, 0) | list
[1, 2, 3] | select('gt', 1) | list
[1, 2, 3] | select('==', 2) | list
messages | selectattr('role', 'ne', 'user') | map(attribute='role') | list
nothing is iterable
true is number
none | select | list
none | map(attribute='x') | list
none | selectattr('x') | list
true is true
false is false
1 is true
range is callable
1 is defined and 2 is defined
'x' is string and 'x' is not none
range(3) | list
range(2, 5) | list
range(5, 0, -2) | list
range(0) | list
dict(a=1, b='x')
namespace(a=1).a
'a,b,c'.split(',')
'a,b,c'.split(',', 1)
' a  b '.split()
'a<x>b<x>c'.split('<x>')[-1]
'  x '.strip()
'xxaxx'.strip('x')
'xxa'.lstrip('x')
'axx'.rstrip('x')
'\n a \n'.lstrip()
'\n a \n'.rstrip('\n')
'abc'.startswith('ab')
'abc'.endswith('c')
'abc'.upper() ~ 'ABC'.lower()
'hello world'.title()
'hello World'.capitalize()
'hello'.replace('l', 'L')
'hello'.replace('l', 'L', 1)
'hello'.find('l')
'hello'.find('x')
'hello'.count('l')
'{} and {}'.format(1, 'x')
'{1}{0}'.format('a', 'b')
'{{}}{x}'.format(x=2)
messages[1].content.split('\n')[0]
(messages | first).role
messages | map(attribute='content') | map(attribute='x') | list | length
'a' if messages[0].role == 'system' and messages | length > 2 else 'b'
- 5 | abs
(-5) | abs
1 + 2 | string
'a' ~ 'b' | upper
[[1, 2], [3]] | map(attribute=0) | list
[{'a': {'b': 7}}] | map(attribute='a.b') | list
+5
--5
-true
"\x41\u00e9\101\q\""
cycler('a', 'b').next()
1.0
100000000000000000000.0
0.00001
-0.0
bos_token + eos_token
""".strip().split("\n")

TEMPLATES = [
    # White space.
    "a\n  {% if true %}\n  b\n  {% endif %}\nc",
    "a  {%- if true -%}  b  {%- endif -%}  c",
    "a\n{{ 1 }}\nb\n",
    "a\n  {{- 1 -}}  \n b\n\n",
    "x {# c #} y\n  {# d #}\nz {#- e -#} w",
    "{% if true %} a {% endif %}\n\n b",
    "  {%+ if true %}x{% endif %}",
    "{% if true +%}\nx{% endif %}",
    "{{ 1 }}\n  {%- if true %}x{% endif %}",
    "q \n{{ 1 }}{%- if true %}x{% endif %}",
    "\r\na\r\n{% if true %}\r\nb{% endif %}\rc",
    "{% raw %}{{ x }} {% if %}{% endraw %}y",
    "a\n {%- raw -%} {{ x }} {%- endraw -%} b",
    "a {% raw %}\n b\n {% endraw %}\n c",
    "{{ '}}' }}{{ \"%}\" }}{{ {'a': {'b': 1}}['a']['b'] }}",
    "{ { } } { % # }",
    "\t{% if true %}\tx\t{% endif %}\t",
    # Loops.
    "{% for m in messages %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }} {% endfor %}",
    "{% for x in [] %}a{% else %}none{% endfor %}",
    "{% for x in [1] %}a{% else %}none{% endfor %}",
    "{% for x in [1, 2, 3, 4] if x is even %}{{ x }}{{ loop.index }}{{ loop.length }}{% else %}none{% endfor %}",
    "{% for k, v in {'a': 1, 'b': 2}.items() if v > 1 %}{{ k }}{{ v }}{{ loop.index }}{% endfor %}",
    "{% for k in {'a': 1, 'b': 2} %}{{ k }}{% endfor %}",
    "{% for c in 'añ' %}[{{ c }}]{% endfor %}",
    "{% for a, b, c in [(1, 2, 3), [4, 5, 6]] %}{{ a }}{{ c }}{% endfor %}",
    "{% for x in 1, 2 %}{{ x }}{% endfor %}",
    "{% for x in nothing %}a{% else %}b{% endfor %}",
    "{% for x in [1, 2, 3, 4] %}{% if x == 2 %}{% continue %}{% endif %}{% if x == 4 %}{% break %}{% endif %}{{ x }}{% endfor %}",
    "{% for x in [1, 2] %}{% continue %}{% else %}else{% endfor %}",
    "{% for x in [1, 2] %}{% if x == 2 %}{% break %}{% endif %}{% else %}else{% endfor %}",
    "{% for x in [1, 2] %}{% for y in [3, 4] %}{{ loop.index }}{{ x }}{{ y }} {% endfor %}{{ loop.index }}{% endfor %}",
    "{% for m in messages %}{{ loop.previtem.role if loop.previtem is defined }}>{{ loop.nextitem.role if loop.nextitem is defined }} {% endfor %}",
    "{% for x in [1, 2, 3] %}{{ loop.cycle('a', 'b') }}{% endfor %}",
    "{% set j = joiner(', ') %}{% for x in [1, 2, 3] %}{{ j() }}{{ x }}{% endfor %}",
    "{% set c = cycler('a', 'b') %}{% for x in [1, 2, 3] %}{{ c.next() }}{% endfor %}{{ c.current }}",
    # Names and their scopes.
    "{% set x = 1 %}{% for i in [1, 2] %}{{ x }}{% set x = 5 %}{{ x }}{% endfor %}{{ x }}",
    "{% for i in [1, 2] %}{{ y is defined }}{% set y = i %}{{ y }}{% endfor %}{{ y is defined }}",
    "{% for i in [1, 2, 3] %}{% if i == 1 %}{% set z = 'kept' %}{% endif %}{{ z is defined }}{% endfor %}",
    "{% set x = 1 %}{% if true %}{% set x = 2 %}{% endif %}{{ x }}",
    "{% set ns = namespace(n=0, l=[]) %}{% for i in [1, 2] %}{% set ns.n = ns.n + i %}{% set ns.l = ns.l + [i] %}{% endfor %}{{ ns.n }}{{ ns.l }}",
    "{% set a, b = 1, 'x' %}{{ a }}{{ b }}",
    "{% set a, b = (1, 2) %}{{ b }}{{ a }}",
    "{% set x = 1, 2 %}{{ x[1] }}",
    "{% set x %}a{{ 1 }}b{% endset %}[{{ x }}]",
    "{% set x | upper %}abc{% endset %}{{ x }}",
    "{% set x | replace('a', 'b') | upper %}abc{% endset %}{{ x }}",
    "{% for i in range(2) %}{% set x = i %}{% for j in range(2) %}{{ x }}{% set x = 9 %}{% endfor %}{{ x }}{% endfor %}",
    "{% set loop_messages = messages[1:] %}{% for m in loop_messages %}{{ m.role }}{% endfor %}",
    # Macros.
    "{% macro m(a, b='B', c=a) %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ m(1) }}|{{ m(1, 2) }}|{{ m(1, b=3, c=4) }}|{{ m(b=1, a=2) }}",
    "{% macro m() %}x{% endmacro %}{{ m() ~ m() | upper }}",
    "{% set g = 'G' %}{% macro m() %}{{ g }}{% endmacro %}{{ m() }}",
    "{% macro m() %}{{ g }}{% endmacro %}{% set g = 'G' %}{{ m() }}",
    "{% macro f(n) %}{% if n > 0 %}{{ n }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(5) }}",
    "{% macro box(t) %}<{{ t }}>{{ caller() }}</{{ t }}>{% endmacro %}{% call box('b') %}in {{ 1 }}{% endcall %}",
    "{% macro each(l) %}{% for x in l %}{{ caller(x, loop.index) }};{% endfor %}{% endmacro %}{% call(x, i) each(['a', 'b']) %}{{ i }}{{ x }}{% endcall %}",
    "{% macro m(x) %}{% set x = x ~ '!' %}{{ x }}{% endmacro %}{% set x = 'o' %}{{ m('i') }}{{ x }}",
    "{% for i in [1, 2] %}{% macro m() %}{{ i }}{% endmacro %}{{ m() }}{% endfor %}",
    "{%- macro m(a) -%}\n  {{ a }}\n{%- endmacro -%}\n{{ m('x') }}",
    # Other statements.
    "{% filter upper %}abc{{ 'd' }}{% endfilter %}",
    "{% filter replace('a', 'b') | upper %}abc{% endfilter %}",
    "{% generation %}x{{ 1 }}{% endgeneration %}y",
    "{% if false %}a{% elif 0 %}b{% elif 'x' %}c{% else %}d{% endif %}",
    "{% if messages and messages[0].role == 'system' %}{{ messages[0].content }}{% endif %}",
    "{% if not (true and false) %}x{% endif %}",
    # What fails.
    "{{ 1 / 0 }}",
    "{{ -'a' }}",
    "{{ 1 % 0 }}",
    "{{ 'a' + 1 }}",
    "{{ 1 + 'a' }}",
    "{{ none + 'a' }}",
    "{{ nothing + 'a' }}",
    "{{ 'a' < 1.5 }}",
    "{{ 1 in 5 }}",
    "{{ 1 in 'a' }}",
    "{{ nothing() }}",
    "{{ nothing.x }}",
    "{{ messages[9].role }}",
    "{{ messages[0].a.b }}",
    "{{ nothing.strip() }}",
    "{{ nothing[0] }}",
    "{{ 1 | nofilter }}",
    "{{ 1 is notest }}",
    "{% for x in 5 %}{% endfor %}",
    "{% for x in none %}{% endfor %}",
    "{% for a, b in [1] %}{% endfor %}",
    "{% for a, b in [(1, 2, 3)] %}{% endfor %}",
    "{% set a, b = [1] %}",
    "{{ range(0, 10, 0) | list }}",
    "{{ range(10000000) | list }}",
    "{{ raise_exception('no: ' ~ 1) }}",
    "{{ [1].append(2) }}",
    "{{ {}.update({}) }}",
    "{% set d = {} %}{% set d.x = 1 %}",
    "{% for k, v in 5 | items %}{% endfor %}",
    "{{ 'a'.split('') }}",
    "{{ [1, 'a'] | sort }}",
    "{{ nothing | tojson }}",
    "{{ '{}'.format() }}",
    "{{ 5 | join }}",
    "{{ [1] | select('nope') | list }}",
    "{{ messages | selectattr('role', 'eq') | list }}",
    "{{ [1] | batch | list }}",
    "{{ 1 is divisibleby }}",
    "{{ 'a' is odd }}",
    "{% include 'x' %}",
    "{% import 'x' as y %}",
    "{% extends 'x' %}",
    "{% nope %}",
    "{% if true %}",
    "{% endif %}",
    "{{ 1",
    "{{ }}",
    "{{ (1 }}",
    "{{ 1) }}",
    "{{ 'a }}",
    "{{ 1 2 }}",
    "{{ a b }}",
    "{{ [1, }}",
    "{{ {1} }}",
    "{{ $ }}",
    "{% for %}{% endfor %}",
    "{% for x of y %}{% endfor %}",
    "{% set = 1 %}",
    "{% set 1 = 1 %}",
    "{% set true = 1 %}",
    "{% break %}",
    "{# open",
    "{% raw %}open",
]


def render(source):
    try:
        return {"text": _compile_jinja_template(source).render(messages=MESSAGES, add_generation_prompt=True, bos_token="<s>", eos_token="</s>")}
    except Exception as err:  # the template's errors and Python's own alike
        return {"error": f"{type(err).__name__}: {err}"}


cases = []
for source in ["{{ " + e + " }}" for e in EXPRESSIONS] + TEMPLATES:
    cases.append({"source": source, **render(source)})
answer = {
    "engines": {"jinja2": jinja2.__version__, "transformers": transformers.__version__},
    "messages": MESSAGES,
    "cases": cases,
}
Path(__file__).with_name("snippets.json").write_text(json.dumps(answer, ensure_ascii=False, indent=0) + "\n")
