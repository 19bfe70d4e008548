"""Chat templates of others: the text that Jinja makes, and one line for what would take the machine."""

import json
import threading

import pytest

from distillspec_jax.errors import UsageError
from distillspec_jax.tokenization import confinement
from distillspec_jax.tokenization.chat_rendering import ChatRendering
from distillspec_jax.tokenization.chat_template import ChatTemplate

WORDS = {"bos_token": "<s>", "eos_token": "</s>"}
SOURCES = [
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "{{ bos_token }}{% for message in messages %}{% if loop.first %}[INST] {% endif %}"
    "{{ message.content | trim }}{% if message.role == 'tool' %}{% break %}{% endif %} [/INST]{% endfor %}",
    "{{ messages | tojson(indent=2) }}\n  {%- set ns = namespace(n=0) %}\n{{ ns.n + 'é🙂'|length }}",
]
TEXTS = ["dog", "", " {{ 7 * 7 }}\n\t", "é🙂\x00\u2028\u202e", "\ud800", "a" * 100_000]


@pytest.mark.parametrize("source", SOURCES)
def test_a_text_is_what_jinja_makes_here(source):
    """A process between the two must lose nothing: no line end, no null, no half of a pair."""
    here = ChatRendering(json.dumps([source, WORDS]).encode())
    there = ChatTemplate(source, WORDS)
    for text in TEXTS:
        assert there.wrap(text) == here.render([{"role": "user", "content": text}])


BAD = {
    "raises": ("{{ raise_exception('only\ntools') }}", "only"),
    "broken": ("{% for %}", "Expected an expression, got 'end of statement block'"),
    "undefined": ("{{ messages.nobody.said }}", "'list object' has no attribute 'nobody'"),
    "sandbox": ("{{ ''.__class__.__mro__ }}", "access to attribute '__class__' of 'str' object is unsafe."),
    "division": ("{{ 1 // (messages | length - 1) }}", "integer division or modulo by zero"),
    "key": ("{{ '%(a)s' % {} }}", "KeyError: 'a'"),
    "recursion": ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "maximum recursion depth exceeded"),
    "range": (
        "{% for _ in range(10**9) %}{% endfor %}",
        "Range too big. The sandbox blocks ranges larger than",
    ),
    "folded product": ("{{ 'a' * 10**10 }}", "it needs more than 512 MB of memory"),
    "product": ("{{ messages[0].content * 10**10 }}", "it needs more than 512 MB of memory"),
    "width": ("{{ '%3000000000d' % 1 }}", "it needs more than 512 MB of memory"),
    "centre": ("{{ 'a' | center(10**10) }}", "it needs more than 512 MB of memory"),
    "length": ("{{ messages[0].content * 10**7 }}", "it writes more than 1,048,588 characters"),
}


@pytest.mark.parametrize(("source", "said"), BAD.values(), ids=BAD)
def test_what_fails_is_one_line_with_its_owner(source, said):
    """Some of these ended in a traceback, some in gigabytes."""
    with pytest.raises(UsageError) as caught:
        ChatTemplate(source, name="runs/x").wrap("dog")
    assert str(caught.value).startswith(f"runs/x's chat template: {said}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "source",
    [
        "{{ 10**(10**10) }}",  # when it is compiled
        "{% for _ in range(9999) %}{% for _ in range(9999) %}{% for _ in range(9999) %}"
        "{% endfor %}{% endfor %}{% endfor %}",
    ],
)
def test_what_has_no_end_is_ended_and_the_next_text_is_served(source, monkeypatch):
    monkeypatch.setattr(confinement, "SECONDS", 0)  # what a process has is whole seconds, and one at least
    template = ChatTemplate("{% if messages[0].content == 'dog' %}" + source + "{% endif %}.", name="runs/x")
    with pytest.raises(UsageError, match=r"^runs/x's chat template: it takes more than 0 s$"):
        template.wrap("dog")
    if "for" in source:
        assert template.wrap("cat") == "."


def test_threads_get_their_own_answers():
    """Training reads rows in several threads, which share a process."""
    template, found = ChatTemplate("<{{ messages[0].content }}>"), {}

    def wrap(number: int) -> None:
        found.update({i: template.wrap(str(i)) for i in range(number, 400, 4)})

    threads = [threading.Thread(target=wrap, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {i: f"<{i}>" for i in range(400)}


def test_memory_is_watched_where_the_system_does_not_bound_it(monkeypatch):
    """As on macOS, whose limits do not hold for memory."""
    monkeypatch.setattr(confinement.sys, "platform", "darwin")
    monkeypatch.setattr(confinement, "resident_megabytes", lambda process: 513)
    with pytest.raises(UsageError, match="it needs more than 512 MB, or breaks the library that reads it"):
        ChatTemplate("{% for _ in range(9999) %}{% for _ in range(9999) %}{% endfor %}{% endfor %}").wrap(
            "dog"
        )


def test_the_process_runs_this_copy_of_the_package(tmp_path, monkeypatch):
    """Beside `python -m`, whose current folder comes first, PYTHONPATH may name a folder with another."""
    (tmp_path / "distillspec_jax").mkdir()
    (tmp_path / "distillspec_jax" / "__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert ChatTemplate("{{ messages[0].content }}!").wrap("dog") == "dog!"
