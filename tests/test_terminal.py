"""What others have named commands no terminal."""

import pytest

from distillspec_jax.terminal import news, say, shown


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("runs/é 🙂 γ·½ \u200d", "runs/é 🙂 γ·½ \u200d"),
        ("\x1b]0;title\x07\x1b[2J", "\\x1b]0;title\\x07\\x1b[2J"),
        ("a\rb\nc\td\x7f\x9b31m", "a\\rb\\nc\\td\\x7f\\x9b31m"),
        ("zoo\u202egnp.\u2066x\u2028y", "zoo\\u202egnp.\\u2066x\\u2028y"),
        ("caf\udce9", "caf\\udce9"),
        ("[b]\\n[/b] $x$", "[b]\\n[/b] $x$"),
    ],
)
def test_what_does_not_show_is_spelt_out(text, seen):
    assert shown(text) == seen
    assert shown(seen) == seen  # so that it does not matter how often a text passes through


def test_each_text_is_a_line(capsys):
    say("", "report: a\nb")
    news("[1/2] \x1b[31m")
    assert capsys.readouterr() == ("\nreport: a\\nb\n", "[1/2] \\x1b[31m\n")
