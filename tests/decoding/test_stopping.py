from __future__ import annotations

import functools
import itertools

import jax
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from distillspec_jax.decoding import StopOnEos, StopOnStrings, stopping
from distillspec_jax.errors import UsageError
from distillspec_jax.generation.text_generator import TextGenerator
from distillspec_jax.tokenization.tokenizer import embedded_tokenizer
from tests import pair

PIECES = (b"", b"", b"a", b"b", b"ab", b"ba", b"\n", b"a\n", b"\xc3", b"\xa4", b"")
"""Padding, EOS, eight pieces, some of which spell the same text, and one without bytes (a special token)."""

STOPS = [(b"ab",), (b"a\n", b"bb"), (b"aba", b"ba\n\n"), ("ä".encode(),)]


@functools.partial(jax.jit, static_argnums=0)
def _ends(rule, output_BT, emitted_B, block_BK):
    return rule.ends(output_BT, emitted_B, block_BK)


def ended_at(stops: tuple[bytes, ...], tokens: list[int], upto: int) -> bool:
    """Whether the text of the first tokens holds a stop string that the last of them completes."""
    before, now = (b"".join(PIECES[t] for t in tokens[:n]) for n in (upto - 1, upto))
    return tokens[upto - 1] == 1 or any(s in now and s not in before for s in stops)


@pytest.mark.parametrize("stops", STOPS)
@example(tokens=[2, 10, 10, 3, 2, 2, 2, 2, 2], done=3)
@given(tokens=st.lists(st.integers(2, len(PIECES) - 1), min_size=9, max_size=9), done=st.integers(0, 6))
def test_a_string_ends_the_text_wherever_its_bytes_fall(stops, tokens, done):
    """Against a search in the bytes; only the first end in a block means anything."""
    rule = StopOnStrings(stops, PIECES)
    if any(ended_at(stops, tokens, n) for n in range(1, done + 1)):
        return  # the row would not run any more
    output_BT = np.array([[*tokens[:done], *[5] * (9 - done)]], np.int32)
    block = tokens[done : done + 3]
    found = np.asarray(_ends(rule, output_BT, np.array([done]), np.array([block])))[0].tolist()
    expected = [ended_at(stops, tokens, done + k + 1) for k in range(3)]
    first = expected.index(True) if True in expected else 3
    assert found[: first + 1] == expected[: first + 1]


LONG = b"ab" * 20 + b"b"


def spelt(rng: np.random.Generator, text: bytes) -> list[int]:
    """Ids of a text, any of those that begin what is left."""
    tokens: list[int] = []
    while text:
        tokens.append(int(rng.choice([t for t in range(2, 6) if text.startswith(PIECES[t])])))
        text = text[len(PIECES[tokens[-1]]) :]
    return tokens


@pytest.mark.parametrize("width", [32, 48])
def test_a_long_string_ends_the_text_too(width):
    """It has more bytes than are read one by one, and than the narrower output has room for."""
    rng, rows = np.random.default_rng(0), []
    for sound in [True, False] * 20:
        tokens = [*rng.integers(2, 6, rng.integers(5)).tolist(), *spelt(rng, LONG)]
        done = len(tokens) - int(rng.integers(1, 4))
        if not sound:
            tokens[int(rng.integers(len(tokens) - 20, done))] = 6  # within the string
        if done <= width:
            rows.append(([*tokens, 2, 3], done))
    output_BT = np.array([[*tokens[:done], *[5] * (width - done)] for tokens, done in rows], np.int32)
    block_BK = np.array([tokens[done : done + 3] for tokens, done in rows], np.int32)
    done_B = np.array([done for _, done in rows])
    found = np.asarray(_ends(StopOnStrings((LONG,), PIECES), output_BT, done_B, block_BK))
    ends = [[ended_at((LONG,), tokens, done + k + 1) for k in range(3)] for tokens, done in rows]
    assert 5 < sum(map(any, ends)) < len(rows) - 5
    for expected, ours in zip(ends, found.tolist(), strict=True):
        first = expected.index(True) if True in expected else 3
        assert ours[: first + 1] == expected[: first + 1]


def test_a_longer_string_makes_no_longer_program():
    """Written out byte by byte, a string of 300 took minutes to compile."""
    output, emitted, block = np.zeros((1, 100), np.int32), np.array([0]), np.array([[2, 3, 4]])
    rules = [StopOnStrings((b"a" * size,), PIECES) for size in (9, 90)]
    sizes = {len(jax.make_jaxpr(rule.ends)(output, emitted, block).eqns) for rule in rules}
    assert len(sizes) == 1


SPACED = (b"", b"", b" a", b" ", b"b", b" b")
FIRST = (b"", b"", b"a", b"", b"b", b"b")
"""What the same ids add to a text without bytes, as most SentencePiece vocabularies have it."""


def spaced_text(tokens: tuple[int, ...]) -> bytes:
    first, *rest = [token for token in tokens if SPACED[token]] or [0]
    return FIRST[first] + b"".join(SPACED[token] for token in rest)


@pytest.mark.parametrize("stops", [(b" ",), (b" b", b"a a", b"bb")])
def test_a_space_that_the_first_piece_loses_ends_nothing(stops):
    """Every text of four pieces, some without bytes, from its beginning and from the middle."""
    texts = list(itertools.product((0, 2, 3, 4, 5), repeat=4))

    def holds(tokens: tuple[int, ...]) -> bool:
        return any(stop in spaced_text(tokens) for stop in stops)

    rows = [(text, done) for done in (0, 1, 2) for text in texts if not holds(text[:done])]
    output_BT = np.array([[*text[:done], *[5] * (4 - done)] for text, done in rows], np.int32)
    done_B, block_BK = np.array([done for _, done in rows]), np.array([t[n : n + 2] for t, n in rows])
    rule = StopOnStrings(stops, SPACED, first_pieces=FIRST)
    found_BK = np.asarray(_ends(rule, output_BT, done_B, block_BK))
    for (text, done), found in zip(rows, found_BK.tolist(), strict=True):
        ends = [holds(text[: done + k + 1]) for k in range(2)]
        assert found[: 1 if ends[0] else 2] == ends[: 1 if ends[0] else 2]


def test_an_end_of_sequence_ends_as_ever():
    block = np.array([[2, 1, 3]])
    output, emitted = np.zeros((1, 4), np.int32), np.array([0])
    expected = _ends(StopOnEos(), output, emitted, block)
    assert _ends(StopOnStrings((b"zz",), PIECES), output, emitted, block).tolist() == expected.tolist()


@pytest.mark.parametrize("strings", [(), (b"a", b"")])
def test_empty_strings_are_refused(strings):
    with pytest.raises(UsageError, match=r"stop strings are .*: need one at least, and none empty"):
        StopOnStrings(strings, PIECES)


def test_pieces_spell_the_text_they_are_cut_from():
    tokenizer = embedded_tokenizer()
    text = "Tom has 3 apples.\n#### 3 ½ ▁ä"
    ids = tokenizer.encode(text)
    assert b"".join(map(tokenizer.piece_bytes, ids)) == text.encode()
    assert [tokenizer.piece_bytes(i) for i in (tokenizer.pad_id, tokenizer.eos_id)] == [b"", b""]
    unknown = [*ids, tokenizer.unk_id, *ids]
    assert b"".join(map(tokenizer.piece_bytes, unknown)) == tokenizer.decode(unknown).encode()


@pytest.mark.parametrize("drafted", [False, True])
def test_outputs_are_cut_before_the_string(drafted):
    texts = ["Hello.", "It is a genus of flowering plants.", "He was born in Berlin."]
    shared = {"batch_size": 4, "block_size": 3}
    draft = pair.draft() if drafted else None
    whole = list(TextGenerator(pair.target(), draft, **shared).stream(texts))
    edge = len(embedded_tokenizer().decode(whole[1].tokens[:1]))
    stops = [before.outputs[edge - 1 : edge + 2] for before in whole[1:]]  # from one token into the next
    found = list(TextGenerator(pair.target(), draft, stop=["never", *stops], **shared).stream(texts))
    for before, after in zip(whole, found, strict=True):
        if any(stop in before.outputs for stop in stops):
            assert after.outputs == before.outputs[: edge - 1]
            assert after.finish_reason == "stop"
            assert after.tokens == before.tokens[:2]
            assert after.emitted_tokens == 2
        else:
            assert after == before
    assert [after.finish_reason for after in found] == ["eos", "stop", "stop"]


TWO_LETTERS = st.text("ab").map(str.encode)
"""Strings of these begin and end inside each other all the time."""


@given(strings=st.lists(TWO_LETTERS.filter(bool), min_size=1, max_size=4), text=TWO_LETTERS)
def test_the_automaton_sees_a_string_at_its_last_byte(strings, text):
    table, state = stopping._byte_table(tuple(strings)), 0
    for n, byte in enumerate(text, start=1):
        state = table[state, byte]
        assert (state == len(table) - 1) == any(string in text[:n] for string in strings)


def test_the_table_of_a_long_string_is_made_at_once():
    """The work grew with the cube of its length: some hundreds of bytes took minutes, 100,000 had no end."""
    table = stopping._byte_table((b"a" * 2000, b"b"))
    assert table.shape == (2001, 256)
    assert table[1999, ord("a")] == table[17, ord("b")] == 2000
    assert table[17, ord("c")] == 0
