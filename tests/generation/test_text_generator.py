"""Text in, text out: against greedy decoding written out by hand, and what a raw input becomes."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from distillspec_jax.errors import UsageError
from distillspec_jax.generation.prompt_format import PromptFormat, prompt_format, tokenizer_of
from distillspec_jax.generation.text_generator import TextGenerator
from distillspec_jax.models.pretrained import Pretrained
from distillspec_jax.tokenization.prompt_reader import Reader
from distillspec_jax.tokenization.tokenizer import embedded_tokenizer
from tests import pair, tiny

TOKENIZER = embedded_tokenizer()
TEXTS = ["Hello.", "It is a genus of flowering plants.", "He was born in Berlin.", "Another one with words."]
LIMIT = pair.TARGETS


def generator(drafted: bool = False, target: Pretrained | None = None, **settings) -> TextGenerator:
    sizes = {"batch_size": 4, "block_size": 3} | settings
    return TextGenerator(target or pair.target(), pair.draft() if drafted else None, **sizes)


def greedy_by_hand(text: str) -> list[int]:
    """The likeliest token after the likeliest token, by teacher forcing; ends with EOS or at the limit."""
    prompt = [*TOKENIZER.encode(pair.PREFIX + text), TOKENIZER.eos_id]
    prompt_BT = np.zeros((1, pair.INPUTS), np.int32)
    prompt_BT[0, : len(prompt)] = prompt
    target_BT = np.zeros((1, LIMIT), np.int32)
    for t in range(LIMIT):
        logits_V = tiny.logits(pair.MODEL, pair.target().params, tiny.teacher_batch(prompt_BT, target_BT))[
            0, t
        ]
        target_BT[0, t] = 1 + int(jnp.argmax(logits_V[1:]))  # padding is never chosen
        if target_BT[0, t] == TOKENIZER.eos_id:
            return target_BT[0, : t + 1].tolist()
    return target_BT[0].tolist()


@pytest.fixture(scope="module")
def expected() -> list[list[int]]:
    return [greedy_by_hand(text) for text in TEXTS]


@pytest.mark.parametrize("drafted", [False, True])
def test_outputs_exclude_eos_and_emitted_tokens_include_it(expected, drafted):
    found = list(generator(drafted).stream(TEXTS))
    ended = [ids[-1] == TOKENIZER.eos_id for ids in expected]
    assert any(ended)
    assert not all(ended)
    assert [g.inputs for g in found] == TEXTS
    assert [g.emitted_tokens for g in found] == list(map(len, expected))
    assert [g.finish_reason for g in found] == ["eos" if end else "length" for end in ended]
    words = [ids[:-1] if end else ids for ids, end in zip(expected, ended, strict=True)]
    assert [g.outputs for g in found] == [TOKENIZER.decode(ids) for ids in words]
    if drafted:
        assert sum(g.target_calls for g in found) < sum(g.emitted_tokens for g in found)
        assert all(g.accepted <= g.tested for g in found)
        assert sum(g.accepted for g in found) > 0
        assert all(sum(g.accepted_at) == g.accepted and g.tested <= g.drafted for g in found)
        assert not [said for g in found for said in g.record.violations(len(found[0].tested_at))]
    else:
        assert [(g.target_calls, g.tested) for g in found] == [(len(ids), 0) for ids in expected]


@pytest.mark.parametrize(
    ("draft", "settings"),
    [
        ("model", {"rule": "block"}),
        ("model", {"candidates": 2}),
        ("model", {"rule": "exponential", "epsilon": 1.0}),
        ("lookup", {}),
    ],
)
def test_every_lossless_rule_and_drafter_gives_the_greedy_text(expected, draft, settings):
    settings = {"batch_size": 4, "block_size": 3} | settings
    found = list(
        TextGenerator(pair.target(), pair.draft() if draft == "model" else draft, **settings).stream(TEXTS)
    )
    texts = [[token for token in ids if token != TOKENIZER.eos_id] for ids in expected]
    assert [g.outputs for g in found] == [TOKENIZER.decode(ids) for ids in texts]
    assert sum(g.accepted for g in found) > 0


def test_a_lenient_rule_accepts_more():
    strict, lenient = (
        list(generator(True, rule="linear", epsilon=epsilon).stream(TEXTS)) for epsilon in (1.0, 1e-6)
    )
    share = [sum(g.accepted for g in found) / sum(g.tested for g in found) for found in (strict, lenient)]
    assert share[1] > share[0]


@pytest.mark.parametrize(
    ("draft", "settings", "message"),
    [
        ("lookupp", {}, "draft is 'lookupp', must be a loaded model, 'lookup' or None"),
        ("lookup", {"candidates": 2}, "the drafter 'lookup' offers one candidate block, not 2"),
        (None, {"rule": "blok"}, "unknown rule 'blok'"),
        (None, {"rule": "greedy"}, "rule 'greedy' was removed: rule 'token' at temperature 0 keeps the same"),
        (None, {"rule": "linear", "epsilon": 2.0}, r"epsilon is 2.0, must be in \(0, 1\]"),
        (None, {"stop": ["a", "\udcff"]}, r"stop string '\\udcff' holds a lone surrogate"),
        (None, {"stop": "END"}, "stop is the string 'END', must be a list of strings"),
        (None, {"block_size": (0, 1)}, r"block_size is \(0, 1\), must be a whole number or 'auto'"),
        (None, {"stop": ["a" * 300] * 2}, "stop strings have 600 bytes in all, must have at most 512"),
        ("lookup", {"block_size": 129}, "block_size is 129, must be at most 128"),
        (
            pair.draft(),
            {"block_size": 33, "candidates": 4},
            "block_size times candidates is 132, must be at most 128",
        ),
        (["lookup"] * 9, {}, "the number of drafters is 9, must be at most 8"),
        (None, {"batch_size": 10**8}, "batch_size is 100000000, must be at most 1048576"),
    ],
)
def test_an_impossible_way_to_draft_is_refused(draft, settings, message):
    with pytest.raises(UsageError, match=message):
        TextGenerator(pair.target(), draft, **settings)


def test_compilations_are_announced():
    said = []
    list(generator(on_compile=said.append).stream(TEXTS[:1]))
    assert said == [f"compiling: 4 rows, prompts of up to {pair.INPUTS}, {LIMIT} new tokens"]


@pytest.mark.parametrize(
    ("texts", "settings", "message"),
    [
        (["a", "word " * 40], {}, r"input 1 has \d+ tokens, the model was built for 32: shorten it or pass"),
        (["a", "word " * 40], {"names": ["f:1", "f:7"]}, r"f:7 has \d+ tokens"),
        (["a"], {"temperature": -1.0}, "temperature is -1.0, must be 0 or more and finite"),
        (["a"], {"temperature": float("inf")}, "temperature is inf, must be 0 or more and finite"),
        (["a"], {"top_p": 0.0}, r"top_p is 0.0, must be in \(0, 1\]"),
        (["a"], {"top_k": -1}, "top_k is -1, must be 0"),
        (["a"], {"max_new_tokens": 0}, "max_new_tokens is 0 for prompt 0, must be at least 1"),
        (["a"], {"seed": 2**32}, "seed is 4294967296, must be a whole number from 0 to 4294967295"),
        (["a"], {"seed": -1}, "seed is -1, must be a whole number"),
    ],
)
def test_a_bad_request_is_refused_before_the_first_text(texts, settings, message):
    """No `next`: the caller must hear of it before it opens its output."""
    with pytest.raises(UsageError, match=message):
        generator().stream(texts, **settings)


# --- the pair ---


def altered(model: Pretrained, **card) -> Pretrained:
    return dataclasses.replace(model, card=dataclasses.replace(model.card, **card))


def test_sizes_below_one_are_refused():
    for size in ("block_size", "batch_size"):
        with pytest.raises(UsageError, match=f"{size} is 0, must be at least 1"):
            generator(drafted=True, **{size: 0})


def test_a_draft_with_another_vocabulary_is_refused():
    other = altered(pair.draft(), tokenizer_fingerprint="0" * 64)
    with pytest.raises(UsageError, match="draft draft has another vocabulary than target target"):
        TextGenerator(pair.target(), other)
    with pytest.raises(
        UsageError, match="another vocabulary"
    ):  # nobody can vouch for what is known to differ
        TextGenerator(pair.target(), other, assume_same_vocabulary=True)


def test_of_two_tokenizers_one_is_enough_for_who_vouches():
    unknown = dataclasses.replace(altered(pair.target(), tokenizer_fingerprint=None), tokenizer_bytes=None)
    with pytest.raises(UsageError, match="the vocabulary of target is unknown"):
        TextGenerator(unknown, pair.draft())
    assert TextGenerator(unknown, pair.draft(), assume_same_vocabulary=True).tokenizer == TOKENIZER


def test_a_model_without_a_tokenizer_takes_no_text():
    with pytest.raises(UsageError, match="target carries no tokenizer"):
        tokenizer_of(dataclasses.replace(pair.target(), tokenizer_bytes=None))


def test_a_model_with_fewer_logits_than_pieces_is_refused():
    small = dataclasses.replace(pair.target(), model=tiny.T5_1_1)
    with pytest.raises(
        UsageError, match=f"target has {tiny.VOCAB} logits, too few for the vocabulary's 4096"
    ):
        TextGenerator(small)


# --- prompts ---


def test_a_prompt_is_prefix_text_and_eos():
    form = PromptFormat(Reader(TOKENIZER), "ask: ", None, 5)
    assert form.ids("who?", "x") == [*TOKENIZER.encode("ask: who?"), TOKENIZER.eos_id]
    assert form.ids("", "x") == [*TOKENIZER.encode("ask: "), TOKENIZER.eos_id]


def test_the_longest_prompt_just_fits_and_a_longer_one_is_cut_before_its_eos():
    ids = TOKENIZER.encode("ask: one two three four")
    fits = PromptFormat(Reader(TOKENIZER), "ask: ", len(ids) + 1, 5)
    assert fits.ids("one two three four", "x") == [*ids, TOKENIZER.eos_id]
    short = dataclasses.replace(fits, max_tokens=len(ids))
    with pytest.raises(
        UsageError, match=rf"f:3 has {len(ids) + 1} tokens, the model was built for {len(ids)}"
    ):
        short.ids("one two three four", "f:3")
    cut = dataclasses.replace(short, truncate=True).ids("one two three four", "x")
    assert cut == [*ids[: len(ids) - 1], TOKENIZER.eos_id]


def test_a_models_own_prefix_and_lengths_a_tasks_and_the_users():
    def chosen(target, **options):
        form = prompt_format(target, **options)
        return form.prefix, form.max_tokens, form.max_new_tokens, form.truncate

    own = (pair.PREFIX, pair.INPUTS, pair.TARGETS, False)
    wiki, gsm = ("summarize: ", 192, 128, False), ("solve: ", 192, 288, False)
    bare = pair.target()
    zoo_target = dataclasses.replace(bare, name="zoo:wiki_leads/target")
    assert chosen(bare) == own
    assert chosen(dataclasses.replace(bare, name="zoo:target")) == own
    assert chosen(zoo_target) == wiki
    assert chosen(bare, task="gsm_symbolic") == gsm
    assert chosen(zoo_target, task="gsm_symbolic") == gsm
    assert chosen(zoo_target, prefix="") == ("", *wiki[1:])
    assert chosen(bare, task="gsm_symbolic", prefix="x ") == ("x ", *gsm[1:])
    assert chosen(bare, truncate=True) == (*own[:3], True)
    reader = prompt_format(bare).reader
    assert (reader.ends_with_eos, reader.begins_with_eos, reader.chat) == (True, False, None)
    with pytest.raises(UsageError, match="unknown task 'gsm_symbol': did you mean 'gsm_symbolic'"):
        prompt_format(bare, task="gsm_symbol")


def test_a_card_without_lengths_limits_no_prompt():
    form = prompt_format(altered(pair.target(), feature_lengths={}))
    assert (form.max_tokens, form.max_new_tokens) == (None, 128)


def test_a_text_does_not_depend_on_its_neighbours():
    together = list(generator(drafted=True).stream(TEXTS, temperature=1.0, seed=5))
    others = [TEXTS[0], "Something else.", TEXTS[2], "And this."]
    apart = list(generator(drafted=True).stream(others, temperature=1.0, seed=5))
    assert [together[0], together[2]] == [apart[0], apart[2]]
