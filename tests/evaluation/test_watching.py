"""`distillspec watch` with a reference: verdicts, its memory between calls, and what it writes for others."""

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from scipy import stats

from distillspec_jax import locks
from distillspec_jax.acceptance import PartialRecord
from distillspec_jax.cli.main import main
from distillspec_jax.errors import UsageError
from distillspec_jax.evaluation import reference, results, served_files
from distillspec_jax.evaluation.reference import ALL, Reference
from tests.test_documents import ROOT

RNG = np.random.default_rng(3)
DEMO = str(ROOT / "docs" / "results" / "demo" / "results.jsonl")
VLLM = ROOT / "tests" / "fixtures" / "engines" / "vllm_metrics.txt"


def lines(number: int, rate: float, **extra) -> list[str]:
    """Answers whose difficulty differs by request."""
    tested = RNG.integers(5, 60, number)
    accepted = RNG.binomial(tested, RNG.beta(15 * rate, 15 * (1 - rate), number))
    told = zip(tested.tolist(), accepted.tolist(), strict=True)
    return [
        json.dumps(
            {"inputs": f"{RNG.integers(10**12)}", "emitted_tokens": a + 9, "target_calls": 9, "tested": t}
            | {"accepted": a, **extra}
        )
        for t, a in told
    ]


def write(path: Path, *parts: list[str], mode: str = "w") -> str:
    with path.open(mode) as file:
        file.writelines(line + "\n" for part in parts for line in part)
    return str(path)


@pytest.fixture(scope="module")
def fine(tmp_path_factory) -> str:
    return write(tmp_path_factory.mktemp("fine") / "fine.jsonl", lines(400, 0.65))


def watch(capsys, *arguments: str) -> tuple[int, str]:
    status = main(["watch", *arguments])
    told = capsys.readouterr()
    return status, told.out + told.err


def test_a_stream_is_fine_until_it_drops(fine, tmp_path, capsys):
    served = write(tmp_path / "s.jsonl", lines(1_500, 0.65))
    status, told = watch(capsys, served, f"--profile={fine}")
    assert status == 0
    assert f"{served}: fine: acceptance 0.6" in told
    assert "on 400 prompts, the alarm is below 0.6" in told
    write(tmp_path / "s.jsonl", lines(1_500, 0.57), mode="a")
    status, told = watch(capsys, served, f"--profile={fine}")
    assert status == 1
    assert "drift: acceptance is below 0.6" in told


def test_few_requests_and_few_prompts_are_not_enough(fine, tmp_path, capsys):
    served = write(tmp_path / "s.jsonl", lines(40, 0.65))
    status, told = watch(capsys, served, f"--profile={fine}")
    assert status == 3
    assert "in 40 requests" in told
    assert "a drop of 10% takes about" in told
    small = write(tmp_path / "small.jsonl", lines(12, 0.65))
    status, told = watch(capsys, write(tmp_path / "s.jsonl", lines(300, 0.65)), f"--profile={small}")
    assert status == 3
    assert "a drop of 10% may never show: a reference of more prompts would show it" in told
    tiny = write(tmp_path / "tiny.jsonl", lines(9, 0.65))
    status, told = watch(capsys, served, f"--profile={tiny}")
    assert status == 2
    assert "9 prompts with drafts, a reference needs 10" in told


def test_the_memory_gives_the_same_as_one_reading_and_counts_nothing_twice(fine, tmp_path, capsys):
    parts = [lines(300, 0.65), lines(7, 0.65), lines(400, 0.64)]
    whole = write(tmp_path / "whole.jsonl", *parts)
    once, again = tmp_path / "once.json", tmp_path / "again.json"
    assert watch(capsys, f"s={whole}", f"--profile={fine}", f"--state={once}")[0] == 0
    for number, part in enumerate(parts):
        write(tmp_path / "s.jsonl", part, mode="a")
        watch(capsys, f"s={tmp_path / 's.jsonl'}", f"--profile={fine}", f"--state={again}")
        if number == 1:
            watch(capsys, f"s={tmp_path / 's.jsonl'}", f"--profile={fine}", f"--state={again}")  # nothing new
    (one,), (two,) = (json.loads(path.read_text())["streams"] for path in (once, again))
    assert one["texts"] == two["texts"] == 707
    first, second = one["segments"][0]["evidence"], two["segments"][0]["evidence"]
    assert first["units"] == second["units"] == 707
    assert first["now"] == pytest.approx(second["now"])
    assert first["luckiest"]["begun"] == second["luckiest"]["begun"]


def test_rotated_copied_and_overwritten_files_are_read_on(fine, tmp_path, capsys):
    state, served = tmp_path / "w.json", tmp_path / "s.jsonl"

    def texts(path: Path) -> int:
        assert watch(capsys, f"s={path}", f"--profile={fine}", f"--state={state}")[0] in (0, 3)
        return json.loads(state.read_text())["streams"][0]["texts"]

    write(served, lines(100, 0.65))
    assert texts(served) == 100
    write(served, lines(10, 0.65), mode="a")
    os.rename(served, tmp_path / "s.jsonl.1")
    write(served, lines(20, 0.65))
    assert texts(tmp_path / "s.jsonl.1") == 110  # its end was not read before it was rotated
    assert texts(served) == 130
    (tmp_path / "copy").write_bytes(served.read_bytes())
    served.write_text("")
    assert texts(tmp_path / "copy") == 130
    write(served, lines(5, 0.65))
    assert texts(served) == 135
    assert texts(tmp_path / "s.jsonl.1") == 135


def test_a_call_that_is_cut_off_leaves_the_memory_as_it_was(fine, tmp_path, capsys, monkeypatch):
    state, served = tmp_path / "w.json", write(tmp_path / "s.jsonl", lines(100, 0.65))
    watch(capsys, served, f"--profile={fine}", f"--state={state}")
    before = state.read_bytes()
    write(tmp_path / "s.jsonl", lines(100, 0.65), mode="a")

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("distillspec_jax.reports.watch_metrics.generate_latest", killed)
        assert (
            main(["watch", served, f"--profile={fine}", f"--state={state}", "--prometheus=/dev/null"]) == 130
        )
    assert state.read_bytes() == before
    watch(capsys, served, f"--profile={fine}", f"--state={state}")
    assert json.loads(state.read_text())["streams"][0]["texts"] == 200
    missing = tmp_path / "new.json"
    assert main(["watch", "nowhere", f"--profile={fine}", f"--state={missing}"]) == 2
    assert not missing.exists()


def test_the_memory_is_one_process_and_of_one_setting(fine, tmp_path, capsys):
    state, served = tmp_path / "w.json", write(tmp_path / "s.jsonl", lines(100, 0.65))
    watch(capsys, served, f"--profile={fine}", f"--state={state}")
    status, told = watch(capsys, served, f"--profile={fine}", f"--state={state}", "--margin=0.1")
    assert status == 2
    assert "was begun with margin 0.05, not 0.1: move it away to begin anew" in told
    status, told = watch(capsys, served, f"--profile={served}", f"--state={state}")
    assert status == 2
    assert "was begun with profile" in told
    with state.open("rb") as file:
        assert locks.lock(file.fileno())
        status, told = watch(capsys, served, f"--profile={fine}", f"--state={state}")
    assert status == 2
    assert "another watch is using it" in told
    status, told = watch(capsys, served, f"--profile={fine}", "--state=/dev/null")
    assert (status, Path("/dev/null").is_char_device()) == (2, True)
    assert "/dev/null: the state must be a file" in told
    notes = write(tmp_path / "notes.json", ["{}"])
    status, told = watch(capsys, served, f"--profile={fine}", f"--state={notes}")
    assert status == 2
    assert "no earlier output" in told
    state.write_text(state.read_text().replace('"units": 100', '"units": "x"', 1))
    status, told = watch(capsys, served, f"--profile={fine}", f"--state={state}")
    assert status == 2
    assert "not the state of a watch: field" in told or "the state of a watch" in told


def test_segments_share_the_rate_of_false_alarms_and_new_ones_are_named(tmp_path, capsys):
    fine = write(tmp_path / "f.jsonl", lines(300, 0.65, language="en"), lines(300, 0.45, language="de"))
    mixed = [
        x
        for pair in zip(lines(900, 0.65, language="en"), lines(900, 0.37, language="de"), strict=True)
        for x in pair
    ]
    served = write(tmp_path / "s.jsonl", mixed, lines(30, 0.2, language="fr"), lines(2, 0.6))
    page = tmp_path / "w.html"
    status, told = watch(capsys, f"s={served}", f"--profile={fine}", "--by=language", f"--html={page}")
    assert status == 1
    assert "acceptance of language=de is below" in told
    assert "of language=en is below" not in told
    rows = {row.split()[1]: row.split() for row in told.splitlines() if row.startswith(" s ")}
    assert rows["language=en"][-1] == "fine"
    assert rows["language=de"][-1] == "drift"
    assert rows["language=fr"][-1] == "new"
    assert rows["language=en"][-2] == "120"  # 3 tests, and half of the rate is the reference's: 2 x 3 / 0.05
    assert "2 answers without a field of --by" in told
    assert "language=fr" in page.read_text()
    assert page.read_text().count("<polyline") == page.read_text().count("<circle") == 2
    status, told = watch(capsys, served, f"--profile={fine}", "--by=langauge")
    assert status == 2
    assert "--by=langauge:" in told


def test_segments_of_a_bare_rate_share_it_in_the_order_they_come(tmp_path, capsys):
    served = write(tmp_path / "s.jsonl", lines(60, 0.65, task="a"), lines(300, 0.3, task="b"))
    status, told = watch(capsys, f"s={served}", "--at_least=0.5", "--by=task")
    assert status == 1
    rows = {row.split()[1]: row.split()[-2:] for row in told.splitlines() if row.startswith(" s ")}
    assert (rows["all"][0], rows["task=a"], rows["task=b"]) == ("40", ["80", "fine"], ["240", "drift"])


def test_metrics_are_prometheus_text_of_the_same_numbers(fine, tmp_path, capsys):
    served = write(tmp_path / "s.jsonl", lines(900, 0.65))
    out = tmp_path / "watch.prom"
    assert watch(capsys, f'a "b"={served}', f"--profile={fine}", f"--prometheus={out}")[0] == 0
    families = {family.name: family for family in text_string_to_metric_families(out.read_text())}
    (status,) = families["distillspec_watch_status"].samples
    assert (status.labels, status.value) == ({"stream": 'a "b"'}, 0)
    (units,) = families["distillspec_watch_units"].samples
    assert (units.labels["segment"], units.value) == ("all", 900)
    told = [json.loads(line) for line in Path(served).read_text().splitlines()]
    pooled = sum(line["accepted"] for line in told) / sum(line["tested"] for line in told)
    (rate,) = families["distillspec_watch_acceptance"].samples
    assert rate.value == pytest.approx(pooled)
    assert watch(capsys, served, f"--profile={fine}", f"--prometheus={out}")[0] == 0  # its own file
    other = write(tmp_path / "other.prom", ["up 1"])
    status, told = watch(capsys, served, f"--profile={fine}", f"--prometheus={other}")
    assert status == 2
    assert "no earlier output" in told


def test_a_sweep_is_a_reference_by_drafter_and_temperature(tmp_path, capsys):
    served = write(tmp_path / "s.jsonl", lines(400, 0.65))
    for arguments, message in (
        ([], "has several: choose by --drafter"),
        (["--drafter=distiled"], "has no drafter distiled: did you mean 'distilled'?"),
        (["--drafter=distilled"], "has several: choose by --temperature"),
        (["--drafter=distilled", "--temperature=0.5"], "has no temperature 0.5"),
    ):
        status, told = watch(capsys, served, f"--profile={DEMO}", *arguments)
        assert status == 2
        assert message in told
    status, told = watch(capsys, served, f"--profile={DEMO}", "--drafter=distilled", "--temperature=1")
    assert status in (0, 3)
    assert "results.jsonl has 0.6" in told


def test_the_prompts_of_a_sweep_count_once_and_under_an_exact_rule(tmp_path):
    rows = [row for row in results.read([DEMO]) if (row.drafter, row.temperature) == ("distilled", 1)]
    (row,) = (row for row in rows if row.block_size == 5)
    more = {"verifier": "exponential:0.5"}, {"batch_size": row.batch_size + 7}, {}
    again = [dataclasses.replace(row, **changes) for changes in more]
    path = tmp_path / "r.jsonl"
    path.write_text("".join(map(results.as_line, [*rows, *again])))
    found = reference.read(str(path), None, None)
    assert list(found.segments[ALL]) == row.per_prompt.records
    assert reference.read(str(path), None, None, 3).block_size == 3
    path.write_text(results.as_line(again[0]))
    with pytest.raises(UsageError, match="only lenient rules"):
        reference.read(str(path), None, None)
    path.write_text(results.as_line(row) + results.as_line(dataclasses.replace(row, target="another")))
    with pytest.raises(UsageError, match="and another: keep those of one"):
        reference.read(str(path), None, None)


def test_drafts_of_a_log_are_told_apart_or_chosen(tmp_path, capsys):
    served = write(
        tmp_path / "s.jsonl", lines(500, 0.4, draft_version="v1"), lines(900, 0.65, draft_version="v2")
    )
    fine = write(tmp_path / "f.jsonl", lines(400, 0.65, draft_version="v2"))
    state = f"--state={tmp_path / 'w.json'}"
    status, told = watch(capsys, served, f"--profile={fine}", state)
    assert status == 2
    assert (
        f"{served}:501: an answer with the draft v2, but those before had v1: choose one by --draft" in told
    )
    status, told = watch(capsys, served, f"--profile={fine}", state, "--draft=v2")
    assert status == 0
    assert "500 answers of another draft" in told
    assert watch(capsys, served, f"--profile={fine}", state, "--draft=v2")[0] == 0
    assert watch(capsys, served, f"--profile={fine}", "--by=draft_version")[0] == 1


def test_few_prompts_and_many_segments_lower_the_threshold_as_students_t_does():
    """A bootstrap of 4,000 resamples knows nothing of a tail of 0.025 %, and is too narrow at ten prompts."""
    tested, accepted = [40] * 12, [20, 22, 24, 26, 20, 22, 24, 26, 20, 22, 24, 26]
    records = [PartialRecord(tested=t, accepted=a) for t, a in zip(tested, accepted, strict=True)]
    known = Reference("r", {ALL: records}).threshold(ALL, "acceptance_tested", 0.0, 0.0005)
    low = stats.ttest_1samp(np.divide(accepted, tested), 0.0).confidence_interval(0.9995).low
    assert known.value == pytest.approx(low)


def scrape(drafts: int, accepted: np.ndarray) -> str:
    text = VLLM.read_text().split("# scraped_at")[2].split("\n", 1)[1]
    for old, new in (("143.0", drafts), ("429.0", 3 * drafts), ("160.0", int(accepted.sum()))):
        text = text.replace(f" {old}", f" {new}")
    for old, new in zip(("84.0", "48.0", "28.0"), accepted.tolist(), strict=True):
        text = text.replace(f" {old}", f" {new}")
    return text


def test_counters_are_watched_scrape_by_scrape(tmp_path, capsys):
    """Ninety scrapes, each written over the one before, as a cron job's curl does; then a drop."""
    fine = write(tmp_path / "fine.jsonl", lines(800, 0.65))
    state, served = str(tmp_path / "w.json"), tmp_path / "metrics.txt"
    drafts, accepted = 1_000, np.array([700, 500, 350])
    statuses, told = [], ""
    for number in range(90):
        rate = 0.65 if number < 45 else 0.55
        rounds = RNG.multinomial(1_500, [1 - rate, rate * (1 - rate), rate**2 * (1 - rate), rate**3])
        drafts, accepted = drafts + 1_500, accepted + np.cumsum(rounds[:0:-1])[::-1]
        served.write_text(scrape(drafts, accepted))
        if number % 5 < 4 and number not in (0, 44, 89):  # others are missed, which costs nothing
            continue
        status, told = watch(capsys, str(served), f"--profile={fine}", f"--state={state}")
        statuses.append(status)
    assert statuses[0] == 3
    assert 1 not in statuses[:9]
    assert statuses[-1] == 1
    assert "drift: acceptance is below 0.6" in told
    assert "noticed at interval" in told
    status, told = watch(capsys, str(tmp_path / "fine.jsonl"), f"--profile={VLLM}")
    assert status == 2
    assert "counters do not tell requests apart: a reference needs answers" in told


def test_a_stream_is_of_one_kind(fine, tmp_path, capsys):
    state = tmp_path / "w.json"
    served = write(tmp_path / "s.jsonl", lines(20, 0.65))
    watch(capsys, f"s={served}", f"--profile={fine}", f"--state={state}")
    status, told = watch(capsys, f"s={VLLM}", f"--profile={fine}", f"--state={state}")
    assert status == 2
    assert "answers and counters in one stream: give each a label of its own" in told


def test_ratios_that_depend_on_the_block_size_are_compared_at_one_alone(tmp_path, capsys):
    answer = {"timings": {"predicted_n": 9, "draft_n": 20, "draft_n_accepted": 9, "draft_n_verif_steps": 4}}
    fine = write(tmp_path / "fine.jsonl", [json.dumps(answer)] * 30)
    served = write(tmp_path / "s.jsonl", [json.dumps(answer)] * 50)
    status, told = watch(capsys, served, f"--profile={fine}")
    assert status in (0, 3)
    assert "accepted / drafted 0.45 in 50 requests" in told
    answer["timings"].pop("draft_n_verif_steps")
    untold = write(tmp_path / "u.jsonl", [json.dumps(answer)] * 50)
    ours = write(tmp_path / "ours.jsonl", lines(30, 0.6))  # they do not tell drafts
    status, told = watch(capsys, untold, f"--profile={ours}")
    assert status == 2
    assert "no ratio is told by both" in told
    status, told = watch(capsys, served, f"--profile={fine}", "--measure=accepted_length")
    assert status == 2
    assert "give them by --block_size" in told
    arguments = (f"--profile={fine}", "--measure=accepted_length", "--block_size=5")
    status, told = watch(capsys, served, *arguments)
    assert status in (0, 3)
    assert "accepted length 3.25 in 50 requests" in told


def test_flags_that_judge_nothing_or_contradict_each_other_are_refused(fine, tmp_path, capsys):
    served = write(tmp_path / "s.jsonl", lines(20, 0.65))
    for arguments, message in (
        (["--by=task"], "--by needs --profile or --at_least"),
        ([f"--state={tmp_path / 'w'}"], "--state needs --profile or --at_least"),
        ([f"--profile={fine}", "--at_least=0.5"], "--profile and --at_least: give the one or the other"),
        (["--at_least=0.5", "--margin=0.1"], "--margin belongs to --profile"),
        ([f"--profile={fine}", "--drafter=x"], "is no sweep, which alone has several drafters"),
        ([f"--profile={fine}", "--margin=1"], "--margin=1.0: must lie in [0, 0.9]"),
        ([f"--profile={fine}", "--false_alarms=0"], "--false_alarms=0.0: must lie in"),
        ([f"--profile={fine}", "--measure=acceptance"], "--measure=acceptance: did you mean 'acceptance_"),
        ([f"--profile={fine}", "--block_size=0"], "--block_size=0: must be from 1 to 128"),
        ([f"--profile={fine}", "--temperature=nan"], "--temperature=nan: must be at least 0"),
        ([f"--profile={tmp_path}"], "has no profile.json: a distillation makes it at its end"),
        ([f"--profile={tmp_path / 'none'}"], "there is no reference"),
        ([f"--profile={fine}", f"--html={served}"], "no earlier output of this command"),
    ):
        status, told = watch(capsys, served, *arguments)
        assert status == 2, arguments
        assert message in told


def test_what_is_known_of_a_file_is_its_beginning(tmp_path):
    path = tmp_path / "a"
    path.write_text("one\ntwo\nthr")
    first = served_files.news(str(path), [])
    assert (first.lines, first.first) == (["one", "two"], 1)
    path.write_text("one\ntwo\nthree\n")
    known = served_files.remembered([], first)
    second = served_files.news(str(path), known)
    assert (second.lines, second.first) == (["three"], 3)
    assert served_files.remembered(known, second) == [second.now]
    path.write_text("one\nTWO\nthree\n")
    assert served_files.news(str(path), [second.now]).lines == ["one", "TWO", "three"]
