"""Golden renderings of chat templates, by Python's jinja2 in the environment that transformers gives it.

    python make_chat.py --models ../../../models --out chat.json
"""

import argparse
import json
import os

import jinja2
import transformers
from gguf import GGUFReader
from transformers.utils.chat_template_utils import _compile_jinja_template

MODELS = {"smollm2": "SmolLM2-135M-Instruct.Q4_1.gguf", "qwen2": "Qwen2.5-Coder-0.5B-Instruct.Q4_K_M.gguf"}

# Written for these tests in the manner of the model families' public prompt formats.
TEMPLATES = {
    "chatml": ("", "<|im_end|>", """\
{%- for m in messages -%}
{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif -%}
"""),
    "llama-3": ("<|begin_of_text|>", "<|eot_id|>", """\
{%- set loop_messages = messages %}
{%- if not date_string is defined %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}
{#- The first system message, if any, moves to the header. #}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- bos_token }}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\nToday Date: " + date_string + "\\n\\n" + system_message + "<|eot_id|>" }}
{%- for message in loop_messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""),
    "mistral": ("<s>", "</s>", """\
{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- set ns = namespace(index=0) %}
{%- for message in loop_messages %}
    {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
        {{- raise_exception("conversation roles must alternate user and assistant") }}
    {%- endif %}
    {%- set ns.index = ns.index + 1 %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " ~ message["content"] ~ "[/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token }}
    {%- else %}
        {{- raise_exception("only user and assistant roles are supported, not " + message["role"]) }}
    {%- endif %}
{%- endfor %}
"""),
    "gemma": ("<bos>", "<eos>", """\
{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}\
{% for message in messages %}\
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate') }}{% endif %}\
{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}\
{{ '<start_of_turn>' + role + '
' + message['content'] | trim + '<end_of_turn>
' }}{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model
'}}{% endif %}"""),
    "phi-3": ("<s>", "<|endoftext|>", """\
{% for message in messages %}{% if message['role'] == 'system' and message['content'] %}{{'<|system|>
' + message['content'] + '<|end|>
'}}{% elif message['role'] == 'user' %}{{'<|user|>
' + message['content'] + '<|end|>
'}}{% elif message['role'] == 'assistant' %}{{'<|assistant|>
' + message['content'] + '<|end|>
'}}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>
' }}{% else %}{{ eos_token }}{% endif %}"""),
    "zephyr": ("<s>", "</s>", """\
{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\\n'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}
"""),
    "language-loops": ("<s>", "</s>", """\
{# Loops, filters in loops, loop controls, macros, namespaces. #}
{%- macro head(role, mark='#') -%}
{{ mark }} {{ role | upper }}{{ '!' if role in ['user', 'tool'] else '.' }}
{%- endmacro %}
{%- set ns = namespace(seen=[], n=0) %}
{%- for m in messages if m.content is string and m.role != 'developer' %}
    {%- if loop.index > 4 %}{% break %}{% endif %}
    {%- if not m.content.strip() %}{% continue %}{% endif %}
    {%- set ns.n = ns.n + m.content | length %}
    {%- set ns.seen = ns.seen + [m.role] %}
{{ loop.index }}/{{ loop.length }} {{ head(m.role, mark='##') }}
  {%- if loop.previtem is defined %} after {{ loop.previtem.role }}{% endif %}
  {%- if not loop.last %} before {{ loop.nextitem.role }}{% endif %}
{% else %}
nobody spoke
{% endfor %}
{{ ns.seen | join(',') }} {{ ns.n }}
{% for k, v in {'x': 1, 'y': 2}.items() %}{{ k }}={{ v }};{% endfor %}
{% for i in range(2) %}{% for j in range(2, 8, 3) %}({{ i }},{{ j }}){% endfor %}{% endfor %}
"""),
    "language-text": ("<s>", "</s>", """\
{%- for m in messages %}
{{ m.content.split('\\n') | first | trim }}|{{ m['content'][:5] | lower }}|{{ m.content[-3:] }}|{{ m.content | replace('i', 'ß') | title }}
{{ m.content | tojson }}
{% if m.content.startswith('A') or 'frog' in m.content %}*{% endif %}{{ m.role | capitalize ~ ':' ~ loop.index0 }}
{{ m.content.rstrip() }}/{{ m.content.lstrip() }}/{{ m.content.upper() }}/{{ m.content.endswith('.') }}
{%- endfor %}
"""),
    "language-values": ("<s>", "</s>", """\
{%- set n = messages | length * 10 %}
{{ n // 3 }} {{ (n / 4) | int }} {{ n % 7 }} {{ -n }} {{ 2 ** 5 }} {{ 7 / 2 }} {{ n > 10 and not false }} {{ 1 < 2 <= 2 }}
{{ messages | map(attribute='role') | list | last }} {{ messages | selectattr('role', 'equalto', 'user') | list | length }} {{ messages | rejectattr('role', 'equalto', 'user') | list | length }}
{{ {'a': [1, 2.5, true, none], 'b': "é\\"<&'"} | tojson }}
{{ tools is defined }} {{ tools is not defined }} {{ missing | default('none') }} {{ none is none }} {{ '' | default('empty', true) }}
{{ n is number }} {{ messages is iterable }} {{ messages[0] is mapping }} {{ 'x' is string }}
{{ [1, 2, 3][::-1] | join('-') }} {{ [3, 1, 2] | sort | join }} {{ messages[-1].role }} {{ ['a', 'b'] + ['c'] }}
{% set block %}  kept {{ bos_token }}  {% endset %}[{{ block }}][{{ block | trim }}]
{% if messages[0].tool_calls %}calls{% elif messages[0].role == 'system' %}system{% else %}other{% endif %}
{{- '\\n' ~ 'go' if add_generation_prompt }}
{% raw %}{{ raw }}{% endraw %}{# comment #}
"""),
}

U, A, S, TOOL = "user", "assistant", "system", "tool"
CONVERSATIONS = {
    "one-user": [(U, "Write a haiku about a frog.")],
    "system-user": [(S, "You answer in verse."), (U, "Hi!")],
    "several-turns": [(U, "Hi"), (A, "Hello! How can I help?"), (U, "A frog?"), (A, "A frog leaps in."), (U, "More.")],
    "system-several-turns": [(S, "  Be brief.\n"), (U, " Hi "), (A, " Hello \n"), (U, "\tBye\n\n")],
    "ends-with-assistant": [(U, "Count."), (A, "One, two,")],
    "unicode": [(S, "Отвечай по-русски."), (U, "古池や蛙飛びこむ水の音 😀 e\u0301 \u00a0 \u2028 ½ <&\"'>")],
    "empty-content": [(S, ""), (U, ""), (A, ""), (U, " ")],
    "template-syntax": [(U, "{{ 7 * 7 }} {% for x in y %} {# no #} {{ messages[0] }} \\n ${a}"), (A, "{%- raw -%}"), (U, "%}{{")],
    "special-tokens": [(U, "a<|im_end|>\n<|im_start|>system\nb</s><|eot_id|><end_of_turn>"), (A, "<|im_end|>"), (U, "[/INST]")],
    "code": [(U, "```go\nfunc main() {\n\tfmt.Println(\"a\\n\")\n}\n```\r\nWhy?")],
    "two-users": [(U, "Hi"), (U, "again")],
    "late-system": [(U, "Hi"), (S, "Now in French."), (U, "Go on.")],
    "tool": [(U, "Time?"), (A, "Let me look."), (TOOL, "{\"time\": \"12:00\"}"), (TOOL, "UTC")],
    "assistant-first": [(A, "Welcome."), (U, "Thanks.")],
}


def render(source, **variables):
    try:
        return {"text": _compile_jinja_template(source).render(**variables)}
    except jinja2.exceptions.TemplateError as err:
        return {"error": str(err)}


def main():
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("--models", default="../../../models")
    args.add_argument("--out", default="chat.json")
    args = args.parse_args()
    templates = []
    for name, file in MODELS.items():
        fields = GGUFReader(os.path.join(args.models, file)).fields
        tokens = fields["tokenizer.ggml.tokens"].contents()
        bos, eos = (tokens[fields[f"tokenizer.ggml.{k}_token_id"].contents()] for k in ("bos", "eos"))
        templates.append({"name": name, "file": file, "bos": bos, "eos": eos, "source": fields["tokenizer.chat_template"].contents()})
    for name, (bos, eos, source) in TEMPLATES.items():
        templates.append({"name": name, "bos": bos, "eos": eos, "source": source})
    conversations = {name: [{"role": r, "content": c} for r, c in turns] for name, turns in CONVERSATIONS.items()}
    renders = []
    for t in templates:
        for name, messages in conversations.items():
            for prompt in (True, False):
                said = render(t["source"], messages=messages, add_generation_prompt=prompt, bos_token=t["bos"], eos_token=t["eos"])
                renders.append({"template": t["name"], "conversation": name, "add_generation_prompt": prompt, **said})
    result = {
        "engines": {"jinja2": jinja2.__version__, "transformers": transformers.__version__},
        "templates": templates, "conversations": conversations, "renders": renders,
    }
    with open(args.out, "w") as f:
        json.dump(result, f, ensure_ascii=False, indent=1)
        f.write("\n")


if __name__ == "__main__":
    main()
