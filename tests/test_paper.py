"""The paper's experiments: what pages say of rows, what a kill leaves, and two whole ones on a tiny pair."""

import dataclasses
import functools
import itertools
import re

import gin
import numpy as np
import pytest
from matplotlib.figure import Figure

from benchmarks.arms import Arm, Snapshot
from benchmarks.attempts import Attempts
from benchmarks.paper import __main__ as paper
from benchmarks.paper import a_speedup, d_heat_map, e_prompts, pages, running, scales, verdicts
from benchmarks.paper.experiment import InTurns
from benchmarks.paper.in_turns import PART
from benchmarks.paper.rows import Comparison, Pool, pool, share_above
from distillspec_jax.acceptance import Record
from distillspec_jax.cli import bindings
from distillspec_jax.cli.gin_flags import GinFlags
from distillspec_jax.data import catalog
from distillspec_jax.evaluation import grid
from distillspec_jax.evaluation.paired import Interval
from distillspec_jax.evaluation.prompts import Quality
from distillspec_jax.evaluation.rows import autoregressive_row, drafted_row
from distillspec_jax.evaluation.sweep import sweep
from distillspec_jax.showcase.transfer_texts import GENERATORS, ROWS
from tests.evaluation import simulated

LABELS = {
    "supervised": "SD",
    "control": "control, seed 0",
    "distilled": "DistillSpec, seed 0",
    "none": "none",
}
SMOKE = scales.SCALES["smoke"]
SHARED = {"top_k", "top_p", "seed", "prompts_digest", "max_new_tokens", "device", "version", "batch_size"}


@functools.cache
def example():
    """Rows of a sweep: without a draft, and with one at T = 0."""
    return simulated.rows(block_sizes=(7,))[:2]


def rows():
    """Rows as (a) publishes them, of two seeds of DistillSpec."""
    found = []
    for seed in (0, 1):
        for row in simulated.rows(prompts=40, block_sizes=(7,), seed=3):
            if row.drafter == "distilled" or not seed:
                name = LABELS[row.drafter].replace("seed 0", f"seed {seed}")
                trained = {"label": name, "seed": seed, "steps": 8, "seconds": 2.0, "unit": "s"}
                if seed:  # another draft on the same prompts
                    more = [n + i % 3 for i, n in enumerate(row.per_prompt.target_calls)]
                    row = dataclasses.replace(
                        row, per_prompt=dataclasses.replace(row.per_prompt, target_calls=more)
                    )
                found.append(dataclasses.replace(row, drafter=name, unknown={"trained": trained}))
    return found


def test_a_page_has_the_numbers_of_the_rows_seeds_added_up_prompt_by_prompt():
    """It fails where seeds are averaged as ratios, or one of them is left out."""
    made = rows()
    page = a_speedup.page(made)
    for t in (0.0, 1.0):
        of = {row.drafter: row.per_prompt for row in made if row.temperature == t}
        ours = [of["DistillSpec, seed 0"], of["DistillSpec, seed 1"]]
        tau = sum(sum(one.emitted) for one in ours) / sum(sum(one.target_calls) for one in ours)
        sd = sum(of["SD"].emitted) / sum(of["SD"].target_calls)
        line = next(line for line in page.table.splitlines() if f"T = {t:g}" in line)
        cells = [cell.strip(" *") for cell in line.strip("|").split("|")]
        assert cells[4].startswith(f"{sd:.2f} (")
        value, low, high = map(float, re.fullmatch(r"([\d.]+) \(([\d.]+)–([\d.]+)\)", cells[5]).groups())
        assert value == pytest.approx(tau / sd, abs=0.005)
        assert low < value < high
        # The normal interval of the delta method, another way than the bootstrap's.
        e, c = (np.sum([getattr(one, f) for one in ours], 0) for f in ("emitted", "target_calls"))
        pe, pc = np.array(of["SD"].emitted), np.array(of["SD"].target_calls)
        influence = e / e.mean() - c / c.mean() - pe / pe.mean() + pc / pc.mean()
        half = 1.96 * value * influence.std(ddof=1) / np.sqrt(len(e))
        assert (high - low) / 2 == pytest.approx(half, rel=0.15)
    assert "n = 40 prompts, of which 20 timed, 2 seeds, trainings of 8 steps at most" in page.verdict
    assert re.match(r"\*?\*?\d\.\d\d \(", cells[7]), "DistillSpec over the control"


def test_the_share_of_prompts_that_gain_is_counted_by_hand():
    made = [row for row in rows() if row.temperature == 1]
    ours, theirs = pool(made, "DistillSpec"), pool(made, "SD")
    up = down = 0
    for i in range(40):
        emitted, calls = (
            [sum(getattr(row.per_prompt, field)[i] for row in one.rows) for one in (ours, theirs)]
            for field in ("emitted", "target_calls")
        )
        tau = [e / c for e, c in zip(emitted, calls, strict=True)]
        up, down = up + (tau[0] > tau[1]), down + (tau[0] < tau[1])
    assert share_above("", ours, theirs).interval.value == pytest.approx(up / (up + down))


def compared(value, low, high, p_value):
    return Comparison("x", Interval(value, low, high), p_value)


def test_a_verdict_is_null_where_the_interval_includes_no_difference():
    null, above, below = (
        compared(1.02, 0.97, 1.08, 0.4),
        compared(1.2, 1.1, 1.3, 1e-6),
        compared(0.8, 0.7, 0.9, 1e-6),
    )
    assert verdicts.verdict([null]).startswith("Null: nothing to see")
    assert verdicts.verdict([above, above]).startswith("It held: of 2 comparisons 2 above")
    part = "It held in part: of 2 comparisons 1 above, 0 below, 1 null"
    assert verdicts.verdict([above, null]).startswith(part)
    assert verdicts.verdict([below, null]).startswith("It did not hold")
    assert verdicts.verdict([below], expected=-1).startswith("It held:")
    assert verdicts.verdict([above, null], expected=0).startswith("It held in part")
    assert verdicts.verdict([below, null], expected=0).startswith("It held:")
    # Alone it counts, among twenty nulls it is one that chance would bring.
    lonely = compared(1.05, 1.001, 1.1, 0.04)
    assert verdicts.verdict([lonely]).startswith("It held:")
    assert verdicts.verdict([lonely, *[null] * 20]).startswith("Null")
    assert verdicts.verdict([lonely], among=[lonely, *[null] * 20]).startswith("Null: nothing")
    unknown = compared(1.0, float("nan"), float("nan"), 1.0)
    assert verdicts.verdict([unknown]).startswith("Cannot be told")


def bound(scale, one):
    """The values that a measurement gives the sweep; labels, rules and lengths are such as gin takes."""
    given = {"TARGET": "t", "DRAFTERS": dict.fromkeys(one.drafters, "d"), "TASK": one.task}
    given |= {"LIMIT": one.limit, "OUTPUT_DIR": "o", **one.bindings}
    flags = GinFlags((one.file,), tuple((name, str(value)) for name, value in given.items()))
    bindings.bind(sweep, flags, given=("gin",))
    found = gin.get_bindings(sweep)
    gin.clear_config()
    assert len(found["drafters"]) == len(one.drafters)
    assert one.timed == 0 or (found["batch_sizes"] == (1,) and one.timed <= one.limit)
    points = grid.cells(
        one.drafters, found["block_sizes"], found["temperatures"], found["rules"], found["batch_sizes"]
    )
    return points, found["split"]


def test_every_measurement_of_the_full_scale_binds_to_a_sweep():
    full = scales.SCALES["full"]
    for experiment in paper.EXPERIMENTS.values():
        for one in experiment.measure(full, None):
            assert isinstance(one, InTurns) or bound(full, one)[0]
    blocks = paper.EXPERIMENTS["i"].measure(full, None)[0]
    cells = bound(full, blocks)[0]
    assert {cell.block_size for cell in cells} == set(range(17))
    assert {cell.temperature for cell in cells} == {0.0, 0.3, 0.7, 1.0}


def halved(timing, timed):
    """The timing of a target that is twice as fast as the large one."""
    columns = ("seconds", "emitted", "baseline_emitted")
    first = {name: getattr(timing, name)[:timed] for name in columns}
    return dataclasses.replace(timing, **first, baseline_seconds=[2 * s for s in first["seconds"]])


def simulate(scale, one, number):
    """The rows of a measurement, from a decoder of known acceptance that differs by label."""
    if isinstance(one, InTurns):
        for name, t in itertools.product(one.targets, one.temperatures):
            row = dataclasses.replace(example()[0], task=one.task, temperature=t)
            yield dataclasses.replace(
                row, timing=halved(row.timing, one.timed), unknown={"part": PART + name}
            )
        return
    points, split = bound(scale, one)
    hardness = np.random.default_rng(number).normal(0, 0.08, one.limit)
    alone = simulated.measured(0.0, 0, one.limit, 1, hardness)
    row = example()[0]
    quality = Quality("rougeL", {"rougeL": 20.0}, [20.0 + h for h in hardness])
    for k, cell in enumerate(points):
        label = cell.drafter.partition(", seed")[0]
        acceptance = 0.5 + (sum(map(ord, label)) % 30) / 100
        drafted = simulated.measured(acceptance, cell.block_size, one.limit, 7 * k, hardness)
        shared = {f.name: getattr(row, f.name) for f in dataclasses.fields(row) if f.name in SHARED}
        shared |= {"task": one.task, "split": split, "temperature": cell.temperature, "prompts": one.limit}
        shared |= {"verifier": cell.rule, "drafter_path": None, "target": str(one.target)[:30]}
        if cell.is_baseline:
            made = autoregressive_row(alone, quality, shared)
        else:
            made = drafted_row(cell.drafter, cell.block_size, 0.1, drafted, alone, quality, shared)
        model = one.drafters.get(cell.drafter)
        cost = {"steps": 8, "seconds": 3.0 + len(label), "unit": "s"}
        trained = {"trained": {"label": label, "seed": 0, **cost}}
        more = trained if isinstance(model, Arm | Snapshot) else {}
        yield dataclasses.replace(made, unknown={**more, **({"part": one.part} if one.part else {})})


def test_every_experiment_has_a_page_of_its_rows(tmp_path, monkeypatch):
    """It fails where a page asks for a label, part or cell that its own measurements do not make."""
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **_: path.touch())  # half of the test's time
    scale = dataclasses.replace(SMOKE, rates=(1e-3, 2e-3), prompts=10, timed=5, per_generator=1)
    for experiment in paper.EXPERIMENTS.values():
        found, known = [], None
        for _ in range(experiment.stages):
            measured = experiment.measure(scale, known)
            for number, one in enumerate(measured):
                found += simulate(scale, one, number)
            known = list(found)
        if found:
            running.publish(found, tmp_path / experiment.name)
    known, attempts = list(paper.EXPERIMENTS.values()), Attempts()
    lines = list(pages.write(known, known, tmp_path, attempts))
    assert not attempts.failed
    assert len(lines) == 10
    for line, experiment in zip(lines, paper.EXPERIMENTS.values(), strict=True):
        assert re.search(r"n = [\d or]+ prompts", line), line
        assert re.search(r"held|not hold|Null|Cannot be told", line), line
        text = (tmp_path / experiment.name / pages.PAGE).read_text()
        assert experiment.claim in text
        assert text.count("|") > 20
        assert "nan" not in text
    garden = (tmp_path / paper.EXPERIMENTS["h"].name / pages.PAGE).read_text()
    assert "medium, distilled, no draft | 2.00 (2.00–2.00)" in garden
    heat = (tmp_path / paper.EXPERIMENTS["d"].name / pages.PAGE).read_text()
    assert "wiki_leads, T = 0" in heat
    assert len(re.findall(r"^\| (?:FKL|RKL|TVD|JSD 0.5) \|", heat, re.MULTILINE)) == 2 * 2
    assert heat.count(" (edge) |") == 2 * 4, "both rates of two are at the edge"


def test_a_cell_of_the_heat_map_is_at_the_rate_that_validation_prompts_prefer():
    scale = dataclasses.replace(SMOKE, rates=(1e-3, 2e-3), prompts=20)
    (first,) = d_heat_map.measure(scale, None)
    found = list(simulate(scale, first, 0))
    assert {row.split for row in found} == {"validation"}
    second = d_heat_map.measure(scale, found)
    assert [one.bindings["TEMPERATURES"] for one in second] == ["(0,)", "(1,)"]
    for one, t in zip(second, (0.0, 1.0), strict=True):
        tau = {row.drafter: row.block_efficiency for row in found if row.temperature == t and row.is_drafted}
        assert len(one.drafters) == 1 + 2 * 4
        for label in [label for label in one.drafters if label != "SD"]:
            cell = label.rpartition(", ")[0]
            assert tau[label] == max(tau[f"{cell}, {rate:g}"] for rate in scale.rates)
    tau = {(row.drafter, row.temperature): row.block_efficiency for row in found}
    both = {
        rate: tau[f"TVD, target, {rate:g}", 0.0] * tau[f"TVD, target, {rate:g}", 1.0] for rate in (1e-3, 2e-3)
    }
    assert both[d_heat_map.chosen(found)["wiki_leads", "TVD", "target"]] == max(both.values())


def test_the_gap_of_independent_acceptance_is_split_into_what_makes_it():
    """Simulated drafts are accepted independently at one rate a prompt: prompts and ends are all there is."""
    hardness = np.random.default_rng(1).normal(0, 0.08, 1000)
    row = next(row for row in simulated.rows(prompts=1000, block_sizes=(7,), seed=1) if row.is_drafted)
    ours = Pool([row])
    found = e_prompts.gap(ours)
    calls = (60 / e_prompts.expected(np.clip(0.62 + hardness, 0, 1))).sum()
    assert found.prompts.value == pytest.approx(60_000 / calls - found.told, abs=0.02)
    assert abs(found.position) < 0.03
    assert -0.2 < found.ends < -0.05
    assert sum(found.parts.values()) == pytest.approx(ours.efficiency.value - found.told)
    tilted = Record(
        emitted_tokens=9, target_calls=9, tested=9, accepted=9, tested_at=(900, 500), accepted_at=(500, 400)
    )
    assert e_prompts.flatness(tilted) < 1e-6


def test_the_transfer_file_has_every_generator_in_turns_and_nothing_that_was_trained_on():
    spec = catalog.find_task("reasoning_gym")
    found = [fields for _, fields in spec.source.rows("test")]
    assert [row["generator"] for row in found] == list(GENERATORS) * ROWS
    questions = {row["question"] for row in found}
    assert len(questions) == len(found) == 18 * 64
    trained = {row["inputs"] for row in catalog.read_rows(catalog.GSM_SYMBOLIC, "train")}
    assert not questions & trained
    assert len((catalog.CORPORA / "reasoning_gym.test.jsonl.gz").read_bytes()) < 300_000


def test_bad_input_is_one_line(tmp_path, capsys):
    for argv, says in (
        (["--scale=smal"], "unknown scale 'smal': did you mean 'small'"),
        (["--only=z"], "unknown experiment 'z'"),
    ):
        assert paper.errors.run(paper.main, [*argv, f"--output={tmp_path / 'none'}"], command="paper") == 2
        assert says in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
