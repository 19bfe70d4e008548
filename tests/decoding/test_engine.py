from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest

from distillspec_jax.decoding import (
    CandidatesRule,
    Completion,
    DecodingProgress,
    Engine,
    HybridDrafter,
    ModelDrafter,
    PromptLookup,
    SamplingParams,
    StopOnEos,
    calibration,
)
from distillspec_jax.decoding.adaptive import BlockSizeChoice
from distillspec_jax.decoding.round_costs import RoundCosts
from distillspec_jax.decoding.runner import Runner
from distillspec_jax.errors import UsageError
from distillspec_jax.vocabulary import T5_IDS, Vocabulary
from tests import tiny
from tests.decoding.prefix_model import PrefixModel
from tests.exactness.families import VOCAB, family

PAIR = family("prefix")
PROMPTS = [[2 + (3 * i + j) % 4 for j in range(1 + (5 * i) % 7)] for i in range(10)]
GREEDY = SamplingParams(0.0).distribution(Vocabulary(VOCAB, (1,), (0,)))
LIMITS = [9, 3, 9, 1, 9, 9, 9, 5, 9, 9]


def engine(**options: Any) -> Engine:
    """Speculative, four rows a batch: three batches, the last of them half empty."""
    options = {"block_size": 2, "batch_size": 4, "prompt_bucket": 8, **options}
    return Engine(
        PAIR.target, PAIR.params.target, PAIR.drafter, PAIR.params.draft, measure_overlap=True, **options
    )


@pytest.fixture(scope="module")
def plain() -> Engine:
    return Engine(PAIR.target, PAIR.params.target, batch_size=4, prompt_bucket=8)


@pytest.fixture(scope="module")
def distribution() -> Any:
    """Another temperature for every prompt."""
    return SamplingParams(np.linspace(0, 1.5, len(PROMPTS))).distribution(Vocabulary(VOCAB, (1,), (0,)))


@pytest.fixture(scope="module")
def completions(distribution: Any) -> list[Completion]:
    return engine().generate(PROMPTS, distribution, LIMITS, seed=0)


def test_completions_come_in_order_with_their_own_limit_and_distribution(
    completions: list[Completion], distribution: Any
) -> None:
    assert len(completions) == len(PROMPTS)
    for completion, limit in zip(completions, LIMITS, strict=True):
        tokens = completion.tokens
        assert 1 <= len(tokens) <= limit
        assert (completion.finish_reason == "eos") == (tokens[-1] == 1)
        assert 1 not in tokens[:-1]
        if completion.finish_reason == "length":
            assert len(tokens) == limit
        assert len(tokens) == completion.accepted + completion.target_calls - completion.cut_rounds
        assert completion.accepted <= completion.tested
        assert completion.drafted == 2 * completion.target_calls, "a model always offers a block"
        assert not list(completion.record.violations(2))
        assert completion.overlap is not None
        assert 0 <= completion.overlap <= completion.tested + 1e-4
    # The same prompts the other way round: distribution and limit go with the prompt, the noise with the
    # index.
    turned = engine().generate(PROMPTS[::-1], distribution.select(np.arange(10)[::-1]), LIMITS[::-1], seed=0)[
        ::-1
    ]
    assert turned[0].tokens == completions[0].tokens  # temperature 0
    assert [t.tokens for t in turned] != [c.tokens for c in completions]


def test_greedy_text_is_that_of_autoregressive_decoding(plain: Engine) -> None:
    expected = plain.generate(PROMPTS, GREEDY, LIMITS, seed=0)
    found = engine().generate(PROMPTS, GREEDY, LIMITS, seed=1)
    assert [c.tokens for c in found] == [c.tokens for c in expected]
    assert [c.finish_reason for c in found] == [c.finish_reason for c in expected]
    for completion in expected:
        assert completion.target_calls == len(completion.tokens)
        assert (completion.tested, completion.accepted, completion.overlap) == (0, 0, None)
    assert sum(c.target_calls for c in found) < sum(c.target_calls for c in expected)


def test_batch_size_and_visits_do_not_change_a_text(completions: list[Completion], distribution: Any) -> None:
    found = engine(batch_size=3, rounds_per_visit=1).generate(PROMPTS, distribution, LIMITS, seed=0)
    assert [c.tokens for c in found] == [c.tokens for c in completions]
    assert [c.accepted_at for c in found] == [c.accepted_at for c in completions]


def test_the_seed_matters(completions: list[Completion], distribution: Any) -> None:
    again = engine().generate(PROMPTS, distribution, LIMITS, seed=0)
    other = engine().generate(PROMPTS, distribution, LIMITS, seed=1)
    assert again == completions
    assert other != completions


def test_progress_and_compilations_are_reported(distribution: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    refilled: list[str] = []

    def refill(self: Runner, state: Any, fresh: Any, slot_B: Any, own: Any = Runner.refill) -> Any:
        refilled.append(f"{len(slot_B)} of 4")
        return own(self, state, fresh, slot_B)

    monkeypatch.setattr(Runner, "refill", refill)
    seen: list[DecodingProgress] = []
    reporting = engine(on_compile=said.append, rounds_per_visit=2)
    found = reporting.generate(PROMPTS, distribution, LIMITS, seed=0, progress=seen.append)
    announced = [f"compiling: {n} rows, prompts of up to 8, 16 new tokens" for n in (4, *refilled)]
    assert refilled
    assert said == list(dict.fromkeys(announced))
    # Another limit, the same shape: the longest output is rounded up.
    reporting.generate(PROMPTS[:2], distribution.select(np.arange(2)), 12, seed=0)
    assert len(said) == len(set(announced))
    assert seen[-1] == DecodingProgress(10, 10, sum(len(c.tokens) for c in found))
    assert [p.done_prompts for p in seen] == sorted(p.done_prompts for p in seen)
    assert [p.emitted_tokens for p in seen] == sorted(p.emitted_tokens for p in seen)
    assert len(seen) > 3


def test_prompts_take_the_slots_of_those_that_are_done(
    completions: list[Completion], distribution: Any
) -> None:
    """One slot is held by a long text; the other serves all short ones meanwhile, and each once."""
    limits = [9, *[1] * 9]
    found = list(engine(batch_size=2, rounds_per_visit=50).stream(PROMPTS, distribution, limits, seed=0))
    order = [index for index, _ in found]
    assert sorted(order) == list(range(10))
    assert order != sorted(order)
    assert order.index(0) > 1
    assert dict(found)[0] == completions[0]  # the same row, whatever went on beside it
    assert all(len(completion.tokens) == 1 for index, completion in found if index)


def test_a_completion_is_yielded_before_the_next_prompts_are_done(
    completions: list[Completion], distribution: Any
) -> None:
    seen: list[DecodingProgress] = []
    stream = engine().stream(PROMPTS, distribution, LIMITS, seed=0, progress=seen.append)
    index, completion = next(stream)
    assert completion == completions[index]
    assert seen[-1].done_prompts < len(PROMPTS)


def test_no_prompts_give_no_completions(plain: Engine) -> None:
    assert plain.generate([], GREEDY, 4, seed=0) == []


@dataclasses.dataclass(frozen=True)
class Doubling(PrefixModel):
    """Prefers its output table halved."""

    def prepare(self, params: Any, rows: int) -> Any:
        assert rows == 4  # one token for each of the slots
        return {**params, "out_DV": params["out_DV"] * 2}


def test_a_model_may_prepare_its_parameters(plain: Engine) -> None:
    halved = {**PAIR.params.target, "out_DV": PAIR.params.target["out_DV"] / 2}
    prepared = Engine(Doubling(8), halved, batch_size=4, prompt_bucket=8)
    found = prepared.generate(PROMPTS, GREEDY, LIMITS, seed=0)
    assert found == plain.generate(PROMPTS, GREEDY, LIMITS, seed=0)


def test_a_prompt_may_end_with_the_id_0_where_that_is_no_padding() -> None:
    model, distribution = tiny.LLAMA, SamplingParams(0.0).distribution(Vocabulary(None, (1,), ()))
    served = Engine(model, tiny.params(model), batch_size=2, prompt_bucket=3)
    for prompt, done in zip(
        prompts := [[5, 7, 0], [5, 7]], served.generate(prompts, distribution, 4, seed=0), strict=True
    ):
        line = np.array([[*prompt, *done.tokens]])
        after = np.asarray(tiny.logits(model, tiny.params(model), {"decoder_input_tokens": line}))[0]
        assert list(done.tokens) == after.argmax(-1)[len(prompt) - 1 : -1].tolist()


@pytest.mark.parametrize(
    "prompts, limit, culprit",
    [
        ([[2], []], 4, "prompt 1 is empty"),
        ([[2, -1, 3]], 4, "prompt 0 holds the id -1"),
        ([[2], [3]], [4, 0], "max_new_tokens is 0 for prompt 1"),
        ([[2], [3]], [4, 2**32 + 5], "is 4294967301 for prompt 1, .* at most 2147483647 and whole"),
        ([[2], [3]], 10**30, "max_new_tokens is 10+ for prompt 0, must be at least 1, at most 2147483647"),
        ([[2], [3]], [4, 3.7], "max_new_tokens is 3.7 for prompt 1, .* and whole"),
        ([[2], [3]], [4], "max_new_tokens has 1 values for 2 prompts"),
    ],
)
def test_impossible_requests_are_named(
    plain: Engine, prompts: list[list[int]], limit: Any, culprit: str
) -> None:
    with pytest.raises(UsageError, match=culprit):
        plain.stream(prompts, GREEDY, limit, seed=0)


def test_widths_are_rounded_no_further_than_the_models_positions() -> None:
    """40 positions: a prompt rounded up to 16 tokens and 31 more are too many, 10 and 31 are not."""
    served = Engine(tiny.GPT, tiny.params(tiny.GPT), batch_size=1, prompt_bucket=8, stopping=StopOnEos(()))
    prompt = [2 + i for i in range(10)]
    assert (
        len(served.generate([prompt], SamplingParams(0.0).distribution(T5_IDS), 31, seed=0)[0].tokens) == 31
    )
    with pytest.raises(UsageError, match="prompts of up to 10 tokens and 32 more do not fit the model's 40"):
        served.stream([prompt], SamplingParams(0.0).distribution(T5_IDS), 32, seed=0)
    params = tiny.params(tiny.GPT)
    drafted = Engine(tiny.GPT, params, ModelDrafter(tiny.GPT), params, batch_size=1, block_size=3)
    with pytest.raises(UsageError, match=r"and 35 more .* \(31 asked for, and 4 for a block of drafts\)"):
        drafted.stream([prompt], SamplingParams(0.0).distribution(T5_IDS), 31, seed=0)


@pytest.mark.parametrize("name", ["t5", "decoder_only"])
def test_short_prompts_beside_a_long_one_are_read_at_a_width_of_their_own(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is read narrowly gives the text of one width for all; with a model's memory and a lookup's."""
    pair, widths = family(name), []

    def read(self: Runner, prompt_BT: Any, *args: Any, own: Any = Runner.read) -> Any:
        widths.append(prompt_BT.shape[1])
        return own(self, prompt_BT, *args)

    monkeypatch.setattr(Runner, "read", read)
    prompts = [[2 + (i + j) % 4 for j in range(size)] for i, size in enumerate((2, 16, 4, 9, 3))]
    texts, both = [], (pair.params.draft, None)
    for bucket in (16, 2):
        served = Engine(
            pair.target,
            pair.params.target,
            HybridDrafter((pair.drafter, PromptLookup(VOCAB)), block_size=1),
            both,
            verifier=CandidatesRule(),
            block_size=1,
            batch_size=1,
            prompt_bucket=bucket,
        )
        found = served.generate(prompts, GREEDY, 6, seed=0)
        texts.append([(completion.tokens, completion.accepted_at) for completion in found])
    assert texts[0] == texts[1]
    assert widths == [16] * 5 + [2, 16, 4, 16, 4]


def test_a_distribution_for_another_number_of_prompts_is_refused(plain: Engine, distribution: Any) -> None:
    with pytest.raises(UsageError, match="the distribution has 10 rows for 1 prompts"):
        plain.stream([[2]], distribution, 4, seed=0)


@pytest.mark.parametrize("size", ["batch_size", "prompt_bucket", "rounds_per_visit", "block_size"])
def test_sizes_below_one_are_refused(size: str) -> None:
    with pytest.raises(UsageError, match=f"{size} is 0"):
        engine(**{size: 0})


def test_a_failed_row_is_named_and_the_others_finish(plain: Engine) -> None:
    faulty = {**PAIR.params.target, "fault_V": np.where(np.arange(8) == 5, np.nan, 0).astype(np.float32)}
    found = Engine(PAIR.target, faulty, batch_size=4, prompt_bucket=8).generate(
        PROMPTS, GREEDY, LIMITS, seed=0
    )
    sound = plain.generate(PROMPTS, GREEDY, LIMITS, seed=0)
    for prompt, a, b in zip(PROMPTS, found, sound, strict=True):
        fails = 5 in [prompt[-1], *b.tokens[:-1]]
        assert (a.finish_reason == "failed") == fails
        assert fails or a == b
    assert {c.finish_reason for c in found} > {"failed"}


def test_an_adaptive_engine_gives_the_same_greedy_texts_and_true_counts(plain: Engine) -> None:
    """Slots are refilled while block sizes change; drafts are good, so some must be accepted."""
    pair = PAIR.params
    sizes = (0, 1, 3)
    engine = Engine(
        PAIR.target, pair.target, PAIR.drafter, pair.draft, block_size=sizes, batch_size=2, prompt_bucket=8
    )
    found = engine.generate(PROMPTS, GREEDY, LIMITS, seed=0)
    expected = plain.generate(PROMPTS, GREEDY, LIMITS, seed=0)
    assert [done.tokens for done in found] == [done.tokens for done in expected]
    assert all(len(done.tokens) == done.accepted + done.target_calls - done.cut_rounds for done in found)
    assert not [said for done in found for said in done.record.violations(max(sizes))]


def test_a_drafter_that_resumes_has_missed_nothing(plain: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The target drafts for itself, so every draft is accepted, however often it was let go and refilled."""
    runs = itertools.cycle([(3, 1), (0, 1), (1, 1), (0, 2), (3, 1), (1, 1), (0, 1)])
    monkeypatch.setattr(calibration, "round_costs", lambda *_: RoundCosts({0: 1.0, 1: 1.2, 3: 1.5}))
    monkeypatch.setattr(BlockSizeChoice, "next", lambda _: next(runs))
    read_for: list[int | None] = []

    def read(self: Runner, *args: Any, own: Any = Runner.read) -> Any:
        read_for.append(args[-1])
        return own(self, *args)

    monkeypatch.setattr(Runner, "read", read)
    itself = ModelDrafter(PAIR.target)
    pair, options = PAIR.params, {"block_size": (0, 1, 3), "batch_size": 2, "prompt_bucket": 8}
    found = Engine(PAIR.target, pair.target, itself, pair.target, **options).generate(
        PROMPTS, GREEDY, LIMITS, seed=0
    )
    assert [done.tokens for done in found] == [
        done.tokens for done in plain.generate(PROMPTS, GREEDY, LIMITS, seed=0)
    ]
    assert all(done.accepted == done.tested for done in found)
    assert sum(done.tested for done in found) > 10
    assert {0, 3} <= set(read_for)  # some prompts were read before plain decoding, some before drafts


def choosing(**options: Any) -> Engine:
    options = {"block_size": (0, 1, 3), "batch_size": 2, "prompt_bucket": 8, **options}
    return Engine(PAIR.target, PAIR.params.target, PAIR.drafter, PAIR.params.draft, **options)


class _Watch:
    """A clock on which every run takes two seconds and one more a round, and nothing else takes any."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds, self.rounds = 0.0, dict[int, list[int]]()
        monkeypatch.setattr(calibration.time, "perf_counter", lambda: self.seconds)
        monkeypatch.setattr(Runner, "run", self._run(Runner.run))

    def _run(self, own: Any) -> Any:
        def run(of: Runner, state: Any, block_size: int, max_rounds: int, enough: int) -> Any:
            before = int(np.max(state.counts.rounds_B))
            state = own(of, state, block_size, max_rounds, enough)
            self.rounds.setdefault(block_size, []).append(int(np.max(state.counts.rounds_B)) - before)
            self.seconds += 2 + self.rounds[block_size][-1]
            return state

        return run


def test_costs_are_of_whole_runs_wherever_a_text_would_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a text that ends with its first token every size would bear a run's fixed cost in one round."""
    model, distribution = PrefixModel(999), SamplingParams(0.0).distribution(T5_IDS)
    params, options = model.init_params(1), {"block_size": (0, 1, 3), "batch_size": 1, "rounds_per_visit": 4}

    def of(stopping: StopOnEos) -> Engine:
        return Engine(model, params, ModelDrafter(model), params, stopping=stopping, **options)

    first = of(StopOnEos(())).held_to(0).generate(PROMPTS[:1], distribution, 1, seed=0)[0].tokens
    watch = _Watch(monkeypatch)
    costs = of(StopOnEos(first)).round_costs(PROMPTS[:1], distribution, 32, repeats=1)
    assert {size: max(rounds) for size, rounds in watch.rounds.items()} == {0: 4, 1: 4, 3: 4}
    assert costs.seconds == {0: 1.5, 1: 1.5, 3: 1.5}
    short = of(StopOnEos(())).round_costs(PROMPTS[:1], distribution, 4, repeats=1)
    assert short.seconds[3] == 3.0  # a run and its one round; the untimed one is no part of its text


def test_the_start_holds_what_beginning_a_run_costs_beyond_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    _Watch(monkeypatch)
    costs = choosing(stopping=StopOnEos(()), rounds_per_visit=4).round_costs(
        PROMPTS[:2], GREEDY, 32, repeats=2
    )
    assert costs.seconds == {0: 1.5, 1: 1.5, 3: 1.5}
    assert costs.start == {0: 3.0, 1: 3.0, 3: 3.0}  # two slots, a run of one round for each


def test_an_engine_held_to_a_size_is_one_of_that_size(plain: Engine) -> None:
    several = choosing()
    for size in (0, 3):
        expected = plain if size == 0 else choosing(block_size=3)
        found = several.held_to(size).generate(PROMPTS, GREEDY, LIMITS, seed=0)
        wanted = expected.generate(PROMPTS, GREEDY, LIMITS, seed=0)
        assert [done.tokens for done in found] == [done.tokens for done in wanted]
        assert [done.target_calls for done in found] == [done.target_calls for done in wanted]
    with pytest.raises(UsageError, match=r"block_size is 2, must be one of \[0, 1, 3\]"):
        several.held_to(2)


def test_several_block_sizes_need_plain_decoding_among_them() -> None:
    with pytest.raises(UsageError, match="lack 0"):
        Engine(PAIR.target, PAIR.params.target, PAIR.drafter, PAIR.params.draft, block_size=(1, 3))
