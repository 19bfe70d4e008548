"""Chat templates: Jinja that comes with the weights of others."""

from __future__ import annotations

import json

from tests.attack.case import DONE, EITHER, REFUSED, Case, call
from tests.attack.cases.commands import CHAT

TEMPLATES: tuple[tuple[str, str], ...] = (
    # source, how it may end
    ("{{ messages[0]['content'] }}", DONE),
    ("", EITHER),
    (" ", EITHER),
    ("{% if %}", REFUSED),
    ("{{", REFUSED),
    ("{% for m in messages %}", REFUSED),
    ("{% unknown %}", REFUSED),
    ("{{ nothing.there }}", REFUSED),
    ("{{ 1 / 0 }}", REFUSED),
    ("{{ 1 % 0 }}", REFUSED),
    ("{{ messages[7]['content'] }}", EITHER),
    ("{{ messages['x'].y }}", REFUSED),
    ("{{ 'a' + 1 }}", REFUSED),
    ("{{ [] | first }}", EITHER),
    ("{{ {}['a']['b'] }}", REFUSED),
    ("{{ 'x' | int(base=99) }}", EITHER),
    ("{{ 'x' | nothing }}", REFUSED),
    ("{{ 5 is nothing }}", REFUSED),
    ("{{ raise_exception('no') }}", REFUSED),
    ("{{ raise_exception('a\\nb\\nc') }}", REFUSED),
    ("{{ raise_exception('') }}", REFUSED),
    ("{{ raise_exception(5) }}", REFUSED),
    ("{{ raise_exception('\x1b[31mred') }}", REFUSED),
    ("{{ raise_exception() }}", REFUSED),
    ("{{ raise_exception('x' * 1000000) }}", REFUSED),
    ("{{ strftime_now(5) }}", REFUSED),
    ("{{ strftime_now('%') }}", EITHER),
    ("{{ strftime_now('%' * 100000) }}", EITHER),
    ("{{ strftime_now('\\ud800') }}", EITHER),
    ("{{ '%s' % () }}", REFUSED),
    ("{{ '%d' % 'x' }}", REFUSED),
    ("{{ '{}'.format() }}", REFUSED),
    ("{{ '{0.__class__}'.format(5) }}", EITHER),
    ("{{ ''.__class__ }}", EITHER),
    ("{{ ''.__class__.__mro__[1].__subclasses__() }}", REFUSED),
    ("{{ cycler.__init__.__globals__.os.system('touch stolen') }}", REFUSED),
    ("{{ lipsum.__globals__['os'].system('touch stolen') }}", REFUSED),
    ("{{ self._TemplateReference__context }}", EITHER),
    ("{% include 'notes.txt' %}", REFUSED),
    ("{% import 'os' as os %}", REFUSED),
    ("{% extends 'x' %}", REFUSED),
    ("{% from 'x' import y %}", REFUSED),
    ("{{ messages.append(1) }}", REFUSED),
    ("{{ messages[0].update({}) }}", REFUSED),
    ("{% set x = messages[0] %}{{ x.pop('role') }}", REFUSED),
    ("{% for i in range(999999999) %}{% endfor %}", REFUSED),
    ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", REFUSED),
    ("{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}", REFUSED),
    ("{% for a in range(9999) %}" * 6 + "{% endfor %}" * 6, REFUSED),
    ("{{ 'x' * 1000000000 }}", REFUSED),
    ("{{ 'x' * 100000000 }}", REFUSED),
    ("{{ 'x' * 10000000 }}", REFUSED),
    ("{{ ('x' * 100000000) | length }}", EITHER),
    ("{{ [0] * 1000000000 }}", REFUSED),
    ("{{ [[0] * 10000] * 10000 }}", REFUSED),
    ("{{ 'x'.ljust(1000000000) }}", REFUSED),
    ("{{ 'x'.zfill(1000000000) }}", REFUSED),
    ("{{ 'x'.center(1000000000) }}", REFUSED),
    ("{{ 'x' | center(1000000000) }}", REFUSED),
    ("{{ 'x' | indent(1000000000) }}", REFUSED),
    ("{{ 'x' | wordwrap(-1) }}", REFUSED),
    ("{{ '%1000000000d' % 1 }}", REFUSED),
    ("{{ '{:1000000000}'.format(1) }}", REFUSED),
    ("{{ 'x'.expandtabs(1000000000) }}", EITHER),
    ("{{ 'a\\tb'.expandtabs(1000000000) }}", REFUSED),
    ("{{ 9 ** 9 ** 9 }}", REFUSED),
    ("{{ 9 ** 999999 }}", REFUSED),
    ("{{ 2 ** 100000000 % 7 }}", EITHER),
    ("{{ 1e308 * 10 }}", EITHER),
    ("{{ 10 ** 5000 }}", REFUSED),
    ("{{ 1e400 | int }}", REFUSED),
    ("{{ lipsum(1000000) }}", REFUSED),
    ("{{ lipsum(n=1, min=100000000, max=100000001) }}", REFUSED),
    ("{{ range(99999) | list | tojson }}", EITHER),
    ("{{ [1, 2] | batch(1000000000, 0) | list }}", REFUSED),
    ("{{ [1, 2] | slice(1000000000) | list }}", REFUSED),
    ("{{ range(100000) | map('string') | join('x' * 100000) }}", REFUSED),
    ("{{ ('x' * 10000) | replace('x', 'y' * 100000) }}", REFUSED),
    ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", REFUSED),
    (
        "{% set ns = namespace(x='x') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        REFUSED,
    ),
    (
        "{% set ns = namespace(x='x') %}{% for i in range(30) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
        REFUSED,
    ),
    ("{% for i in messages recursive %}{{ loop([i]) }}{% endfor %}", REFUSED),
    ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", REFUSED),
    ("{{ " + "[" * 200 + "1" + "]" * 200 + " }}", EITHER),
    ("{% if 1 %}" * 500 + "x" + "{% endif %}" * 500, EITHER),
    ("{% if 1 %}" * 50 + "x" + "{% endif %}" * 50, EITHER),
    ("x" * 10_000_000, REFUSED),
    ("{{ 'a' }}" * 100_000, EITHER),
    ("{# " + "x" * 1_000_000 + " #}", EITHER),
    ("{{ " + " + ".join(["1"] * 20_000) + " }}", EITHER),
    ("{{ -" * 1 + "-" * 5000 + "1 }}", REFUSED),
    ("{{ '\\ud800' }}", REFUSED),
    ("{{ '\\u0000' }}", EITHER),
    ("{{ 5 | tojson(indent=1000000000) }}", EITHER),
    ("{{ [1] | tojson(indent=1000000000) }}", REFUSED),
    ("{{ messages | tojson }}", EITHER),
    ("{{ namespace | tojson }}", REFUSED),
    ("{{ [nothing] | tojson }}", REFUSED),
    ("{{ range | tojson }}", REFUSED),
    ("{% break %}", REFUSED),
    ("{% for i in [1] %}{% break %}{% endfor %}", EITHER),
    ("{{ joiner() }}{{ cycler() }}", REFUSED),
    ("{{ dict(a=1) | dictsort(by='x') }}", REFUSED),
    ("{{ [1, 'a'] | sort }}", REFUSED),
    ("{{ [1, 'a'] | max }}", REFUSED),
    ("{{ 'a' | sum }}", REFUSED),
    ("{{ messages | groupby('nothing') }}", EITHER),
    ("{{ 'x' | format(1, 2) }}", REFUSED),
    ("{{ 'http://' * 100000 | urlize }}", EITHER),
    ("{{ ('<' * 100000) | striptags }}", EITHER),
    ("{{ (('http://a.' ~ ('!.' * 50000))) | urlize }}", EITHER),
    ("{{ 'x' | truncate(-5) }}", EITHER),
    ("{{ 'x' | round }}", REFUSED),
    ("{{ 1 | round(99999999999) }}", EITHER),
    ("{{ 1.5 | round(2, 'x') }}", REFUSED),
    ("{{ 1 | filesizeformat(5) }}", EITHER),
    ("{{ 1 | xmlattr }}", REFUSED),
    ("{{ 'é' | urlencode }}", EITHER),
    ("{{ 'x' | random }}", EITHER),
    ("{{ '' | random }}", EITHER),
)
WORDS = (
    "bos_token",
    "eos_token",
    "messages",
    "add_generation_prompt",
    "self",
    "range",
    "1x",
    "",
    "a b",
    "raise_exception",
    "\x00",
)


def cases() -> list[Case]:
    found = []
    for source, may in TEMPLATES:
        step = ("field", "chatty/model.json", "chat.template", json.dumps(source))
        found.append(call("templates", CHAT + " --output=out", step, may=may))
    for source, may in TEMPLATES[::9]:
        tail = json.dumps({"template": source})
        collect = (
            "collect --model=chatty --task=office_help_ende --limit=1 --chat --output=out --max_new_tokens=4"
        )
        sweep = "sweep --target=chatty --drafter=lookup --inputs=asked.jsonl --chat --output_dir=out --limit=1 --timing_prompts=0"
        for line in (collect, sweep):
            step = ("field", "chatty/model.json", "chat", tail)
            found.append(call("templates", line, step, may=EITHER if may == DONE else may))
    for word in WORDS:
        chat = json.dumps({"template": "{{ bos_token }}{{ messages[0]['content'] }}", word: "x"})
        found.append(
            call(
                "templates", CHAT + " --output=out", ("field", "chatty/model.json", "chat", chat), may=EITHER
            )
        )
    return found
