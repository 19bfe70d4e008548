from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from distillspec_jax.decoding import Completion, Engine, SamplingParams, adaptive, calibration, randomness
from distillspec_jax.decoding.online import OnlineBatch, OnlinePrompt
from distillspec_jax.decoding.round_costs import RoundCosts
from distillspec_jax.errors import UsageError
from distillspec_jax.vocabulary import Vocabulary
from tests.exactness.families import VOCAB, family

PAIR = family("prefix")
VOCABULARY = Vocabulary(VOCAB, (1,), (0,))
PROMPTS = [
    OnlinePrompt([2 + (3 * i + j) % 4 for j in range(1 + (5 * i) % 7)], *settings)
    for i, settings in enumerate(
        [
            (9, 1.0, 0, 1.0, 1),
            (6, 0.0, 0, 1.0, 0),
            (9, 1.5, 2, 1.0, 0),
            (9, 1.0, 0, 1.0, 2),
            (9, 0.0, 0, 1.0, 7),
            (9, 1.0, 0, 1.0, 11),
            (8, 1.5, 0, 0.5, 0),
        ]
    )
]


def batch(slots: int = 2, block_size: int | Sequence[int] = 2) -> OnlineBatch:
    return OnlineBatch(
        PAIR.target,
        PAIR.params.target,
        PAIR.drafter,
        PAIR.params.draft,
        vocabulary=VOCABULARY,
        block_size=block_size,
        slots=slots,
        prompt_width=8,
        width=16,
        prompt_bucket=4,
        rounds_per_visit=1,
    )


def drained(
    online: OnlineBatch, before_visit: Callable[[int], None] = lambda _: None
) -> tuple[dict[int, Completion], dict[int, tuple[int, ...]]]:
    """Visits until nothing is left; the completions, and the tokens of all updates, by ticket."""
    done: dict[int, Completion] = {}
    told: dict[int, tuple[int, ...]] = {}
    for number in range(200):
        before_visit(number)
        for update in online.visit():
            assert update.ticket not in done, "nothing is told of a prompt that is done"
            told[update.ticket] = told.get(update.ticket, ()) + update.tokens
            if update.completion:
                done[update.ticket] = update.completion
        if not online.busy and number > 20:
            return done, told
    raise AssertionError("prompts are left")


@pytest.fixture(scope="module")
def offline() -> list[Completion]:
    """Each prompt by the other engine, alone."""
    engine = Engine(
        PAIR.target,
        PAIR.params.target,
        PAIR.drafter,
        PAIR.params.draft,
        block_size=2,
        batch_size=2,
        prompt_bucket=8,
    )
    return [
        engine.generate(
            [one.ids],
            SamplingParams(one.temperature, one.top_k, one.top_p).distribution(VOCABULARY),
            one.max_new_tokens,
            one.seed,
        )[0]
        for one in PROMPTS
    ]


def test_prompts_that_join_at_any_time_get_the_texts_and_counts_of_the_engine(
    offline: list[Completion],
) -> None:
    online = batch()
    tickets: dict[int, int] = {}

    def join(visit: int) -> None:
        for i, at in enumerate([0, 1, 2, 2, 2, 9, 20]):
            if at == visit:
                tickets[online.submit(PROMPTS[i])] = i

    done, told = drained(online, join)
    assert len(done) == len(PROMPTS)
    for ticket, completion in done.items():
        expected = dataclasses.replace(offline[tickets[ticket]], overlap=None)
        assert completion == expected
        assert told[ticket] == completion.tokens


def test_a_prompt_that_is_given_up_leaves_its_slot_and_the_others_as_they_are(
    offline: list[Completion], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adaptive, "_UNNOTICED_SECONDS", 0)  # a round a visit, though all slots are taken
    online = batch()
    long, other, waiting, last = (online.submit(PROMPTS[i]) for i in (0, 2, 5, 6))

    def give_up(visit: int) -> None:
        if visit == 3:
            online.cancel(long)
            online.cancel(waiting)

    done, told = drained(online, give_up)
    assert done[long].finish_reason == done[waiting].finish_reason == "cancelled"
    assert 0 < len(done[long].tokens) < len(offline[0].tokens)
    assert done[long].tokens == offline[0].tokens[: len(done[long].tokens)] == told[long]
    assert not done[waiting].tokens
    assert (done[other].tokens, done[last].tokens) == (offline[2].tokens, offline[6].tokens)
    online.cancel(last)  # it is done: nothing happens
    assert online.visit() == []


@pytest.fixture
def costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes blocks look expensive, so that the choice is to draft now and then."""
    table = RoundCosts({0: 1.0, 2: 2.9})
    monkeypatch.setattr(calibration, "round_costs", lambda *_: table)


@pytest.mark.usefixtures("costs")
def test_block_sizes_that_change_on_the_way_leave_greedy_texts_as_they_are(offline: list[Completion]) -> None:
    online = batch(block_size=(0, 2))
    online.warm()
    tickets = [online.submit(dataclasses.replace(one, temperature=0.0, top_k=0)) for one in PROMPTS * 3]
    done, _ = drained(online)
    drafted, calls = (
        sum(getattr(one, name) or 0 for one in done.values()) for name in ("drafted", "target_calls")
    )
    assert 0 < drafted < calls, "some rounds draft, others do not"
    for i in (1, 4):
        assert done[tickets[i]].tokens == done[tickets[i + len(PROMPTS)]].tokens == offline[i].tokens


def test_nothing_is_compiled_for_a_prompt_once_the_batch_is_warm(request: Any) -> None:
    import jax

    online = batch(slots=3)  # shapes that no other test has compiled
    online.warm()
    names: list[str] = []
    jax.monitoring.register_event_duration_secs_listener(lambda name, *_, **__: names.append(name))
    request.addfinalizer(jax.monitoring.clear_event_listeners)
    for one in [PROMPTS[0]] * 3 + PROMPTS:  # three of one width are read together
        online.submit(one)
    drained(online)
    assert not [name for name in names if "backend_compile" in name]


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        (OnlinePrompt([2] * 9, 4), "at most 8 tokens of a prompt and 16 new ones"),
        (OnlinePrompt([2], 17), "at most 8 tokens of a prompt and 16 new ones"),
        (OnlinePrompt([], 4), "is empty"),
        (OnlinePrompt([2], 0), "max_new_tokens is 0"),
        (OnlinePrompt([2], 4, temperature=-1.0), "temperature is"),
        (OnlinePrompt([2], 4, top_p=0.0), "top_p is"),
        (OnlinePrompt([2], 4, seed=2**32), "seed is"),
    ],
)
def test_an_impossible_prompt_is_refused_when_it_comes(prompt: OnlinePrompt, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        batch().submit(prompt)


def test_keys_of_several_seeds_are_those_of_each() -> None:
    import jax

    seeds = [0, 1, 7, 2**31, 2**32 - 1]
    several = jax.random.key_data(randomness.seed_keys(np.array(seeds, np.uint32)))
    np.testing.assert_array_equal(several, [jax.random.key_data(randomness.seed_key(one)) for one in seeds])
