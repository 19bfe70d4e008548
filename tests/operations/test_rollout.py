"""A rollout: what each kind of evidence leads to, once."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest

from distillspec_jax.acceptance import Record
from distillspec_jax.cli import errors
from distillspec_jax.cli import rollout as command
from distillspec_jax.errors import UsageError
from distillspec_jax.operations import arms, rollout
from distillspec_jax.operations.draft_registry import DraftRegistry
from distillspec_jax.operations.rollout import Settings
from distillspec_jax.serving.request_log import RequestLog
from tests.evaluation import simulated
from tests.operations import served, toy

ROOT = Path(__file__).parents[2]
SETTINGS = Settings(stages=[0.1, 0.5], margin=0.05, slower=0.2, least=50, most=600)


@pytest.fixture
def registry(tmp_path):
    made = toy.registry(tmp_path / "drafts", versions=3)
    rollout.start(made, "v2", SETTINGS, "passed the gate")
    return made


def log(tmp_path, candidate, count=300, share=0.1, revision=2, stable=None, waits=None, **more):
    """A log in which the candidate has its share of the prompts; `waits` are those of both drafts."""
    waits = waits or (None, None)
    others = stable or round(count * (1 - share) / share)
    stable = served.lines("v1", others, 0.7, revision=revision, wait=waits[0])
    more["wait"] = waits[1]
    return served.write(
        tmp_path / "log.jsonl", stable, served.lines("v2", count, candidate, revision=revision, **more)
    )


def step(registry, *logs):
    settings, stage = rollout.settings_of(registry), registry.history.last
    decision = rollout.decide(stage, settings, arms.of_logs(logs, stage))
    return decision, rollout.act(registry, stage, settings, decision)


def test_prompts_that_come_again_do_not_look_misrouted(registry, tmp_path):
    """Each is asked ten times, and the stable arm, which has most requests, has most of the repeats."""
    stable, candidate = served.lines("v1", 270, 0.7, revision=2), served.lines("v2", 300, 0.72, revision=2)
    decision, _ = step(registry, served.write(tmp_path / "log.jsonl", stable * 10, candidate))
    assert decision.kind == "advance", decision.reason


@pytest.mark.parametrize(
    ("candidate", "more", "kind", "why"),
    [
        (
            0.72,
            {},
            "advance",
            r"no worse: acceptance 0\.7\d\d \(.*\) of 300 against 0\.(?:69|70)\d \(.*\) of 2,700; \d\d\.\d%",
        ),
        (0.7, {"count": 20}, "hold", "not enough to tell"),
        (0.5, {}, "roll back", "acceptance is worse by more than 5.0%"),
        (0.72, {"seconds": 0.02}, "roll back", "requests are slower by more than 20%"),
        # The stable draft's requests wait for a slot, which hid that the candidate decodes slower.
        (0.72, {"seconds": 0.015, "waits": (5.0, 0.0)}, "roll back", "requests are slower by more than 20%"),
        (0.72, {"share": 0.5}, "escalate", "the candidate got 50.0% of the requests, not 10.0%"),
        (0.72, {"rule": "linear"}, "escalate", "the rule 'linear' served, which changes the texts"),
        (0.72, {"rule": "block"}, "advance", "no worse"),
        (
            0.72,
            {"count": 0, "stable": 600},
            "escalate",
            "the candidate has answered nothing in 600 prompts",
        ),
        (0.665, {"count": 600}, "escalate", "undecided after 600 prompts of the candidate"),
    ],
)
def test_what_evidence_leads_to(registry, tmp_path, candidate, more, kind, why):
    decision, made = step(registry, log(tmp_path, candidate, **more))
    assert decision.kind == kind
    assert re.match(why, decision.reason), decision.reason
    expected = {
        "advance": ("advance", "v2", 0.5, 3),
        "hold": ("start", "v2", 0.1, 2),
        "roll back": ("withdraw", None, 0.0, 3),
        "escalate": ("escalate", "v2", 0.1, 3),
    }[kind]
    assert (made.action, made.candidate, made.share, made.revision) == expected
    assert (registry.state().stable, registry.state().share) == ("v1", made.share)
    if kind != "hold":
        assert made.details["evidence"]["acceptance"]["candidate"]["units"] == more.get("count", 300)


def test_a_step_is_taken_once_by_the_same_evidence(registry, tmp_path):
    """The second call took the next step by the lines of the stage before."""
    path = log(tmp_path, 0.72)
    assert step(registry, path)[0].kind == "advance"
    decision, _ = step(registry, path)
    assert decision.kind == "hold"
    assert registry.state().revision == 3
    evidence = arms.of_logs([path], registry.history.last)
    assert evidence.notes == {"lines of other stages": 3_000}


def test_after_the_last_stage_the_candidate_is_the_stable_draft(registry, tmp_path):
    step(registry, log(tmp_path, 0.72))
    _, made = step(registry, log(tmp_path, 0.72, count=590, share=0.5, revision=3))
    assert (made.action, made.stable, made.candidate, made.share) == ("promote", "v2", None, 0.0)
    assert rollout.settings_of(registry) is None
    assert registry.roll_back("").stable == "v1"


def test_a_decision_on_a_state_that_is_no_more_is_not_acted_on(registry, tmp_path):
    """Somebody had aborted while the log was read, and the candidate was back at 50 %."""
    settings, stage = rollout.settings_of(registry), registry.history.last
    decision = rollout.decide(stage, settings, arms.of_logs([log(tmp_path, 0.72)], stage))
    rollout.abort(registry, "I said so")
    with pytest.raises(UsageError, match=r"at revision 3 by now \(withdraw: I said so\)"):
        rollout.act(registry, stage, settings, decision)
    assert registry.state().candidate is None


def test_after_an_escalation_only_a_person_goes_on(registry, tmp_path):
    path = log(tmp_path, 0.72, rule="linear")
    step(registry, path)
    decision, made = step(registry, path)
    assert (decision.kind, made.revision) == ("escalate", 3)  # asked once
    assert decision.reason.startswith("a person must decide: the rule 'linear' served")
    assert rollout.resume(registry, "it was a test").revision == 4
    with pytest.raises(UsageError, match="no rollout waits for a person"):
        rollout.resume(registry, "again")
    assert step(registry, log(tmp_path, 0.72, revision=4))[1].share == 0.5


def test_lines_are_told_by_their_time_where_they_state_no_revision(registry, tmp_path):
    """Clocks that jump, repeated prompts, other drafts: set aside by name."""
    began = registry.history.last.time
    new = served.lines("v2", 60, 0.7, revision=None, time=began + 5)
    early = served.lines("v1", 4, 0.7, revision=None, time=began + 1)  # while the server loads v2
    path = served.write(
        tmp_path / "log.jsonl",
        new,
        [{**new[0], "time": began + 6}],
        early,
        served.lines("v2", 7, 0.7, revision=None, seed=1, time=began - 5),
        served.lines("v3", 5, 0.7, revision=None, time=began + 5),
        served.lines("v1", 3, 0.7, revision=None),
        [{**line, "draft_version": ["v1"]} for line in served.lines("v1", 2, 0.7)],
    )
    evidence = arms.of_logs([path], registry.history.last)
    assert len(evidence.candidate.records) == 60
    assert evidence.lines == (0, 61)
    assert {name: evidence.notes[name] for name in evidence.notes if "clock" not in name} == {
        "lines of other stages": 9,
        "lines of other drafts": 5,
        "lines of before the candidate's first": 4,
        "lines that tell neither revision nor time": 3,
        "prompts that came again": 1,
    }


def scrapes(began, rate, count=403):
    """Counters of vLLM, 40 rounds of 5 drafts a scrape; the first two were taken before the stage."""
    text, totals = "", [0, 0, 0]
    for number in range(count):
        totals = [totals[0] + 40, totals[1] + 200, totals[2] + round(200 * rate) + number % 3]
        text += f"# scraped_at {began + 10 * (number - 2)}\n"
        for name, value in zip(("drafts", "draft_tokens", "accepted_tokens"), totals, strict=True):
            text += f'vllm:spec_decode_num_{name}_total{{model_name="m"}} {value}\n'
    return text


@pytest.mark.parametrize(("candidate", "kind"), [(0.6, "advance"), (0.3, "roll back")])
def test_counters_of_two_groups_of_servers(registry, tmp_path, candidate, kind):
    stage = registry.history.last
    paths = [tmp_path / "a.txt", tmp_path / "b.txt"]
    for path, rate in zip(paths, (0.6, candidate), strict=True):
        path.write_text(scrapes(stage.time, rate))
    evidence = arms.of_counters(str(paths[0]), str(paths[1]), stage)
    assert evidence.measure == "acceptance_drafted"
    assert [len(arm.records) for arm in (evidence.stable, evidence.candidate)] == [400, 400]
    settings = dataclasses.replace(SETTINGS, margin=0.1)
    assert rollout.decide(stage, settings, evidence).kind == kind
    paths[1].write_text(scrapes(stage.time, 0.6).replace("# scraped_at", "# at"))
    with pytest.raises(UsageError, match="does not tell its time"):
        arms.of_counters(str(paths[0]), str(paths[1]), stage)


def call(*argv):
    return errors.run(command.main, list(argv), command="rollout")


def test_the_command_from_start_to_end(tmp_path, capsys):
    where = f"--registry={toy.registry(tmp_path / 'drafts', versions=2).path}"
    assert call("advance", where, "--log=nowhere.jsonl") == 0  # nothing to do for cron
    flags = ["--stages=0.1,0.5", "--margin=0.05", "--least=50", "--slower=0.3"]
    assert call("start", "v2", where, *flags) == 0
    assert call("advance", where, f"--log={log(tmp_path, 0.7, count=20)}") == 3
    assert call("advance", where, f"--log={log(tmp_path, 0.72, rule='linear')}") == 4
    assert call("resume", where, "--reason=looked") == 0
    assert call("advance", where, f"--log={log(tmp_path, 0.72, revision=4)}") == 0
    assert call("advance", where, f"--log={log(tmp_path, 0.5, share=0.5, revision=5)}") == 1
    assert call("start", "v2", where) == 0
    assert call("abort", where) == 0
    assert call("status", where) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[1] for line in said if line.startswith(str(tmp_path))] == [
        "no rollout is under way",
        "revision 2, start",
        "revision 2, start",
        "revision 3, escalate",
        "revision 4, resume",
        "revision 5, advance",
        "revision 6, withdraw",
        "revision 7, start",
        "revision 8, withdraw",
        "revision 8, withdraw",
    ]
    assert said[1].endswith("v2 10%, v1 the rest")


def test_a_lossy_rule_enters_with_its_quality_alone(tmp_path, capsys):
    where = f"--registry={toy.registry(tmp_path / 'drafts', versions=2).path}"
    rows = [row.to_json() for row in simulated.rows(prompts=6, block_sizes=(5,), verifier="linear:0.5")]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    quality = f"--quality={tmp_path / 'results.jsonl'}"
    for flags, said in (
        (["--lossy=linear:0.5"], "needs both"),
        (["--lossy=block", quality], "that rule is exact"),
        (["--lossy=linea", quality], "did you mean 'linear'?"),
        (["--lossy=linear:0.3", quality], "has no row of the rule 'linear:0.3'"),
    ):
        assert call("start", "v2", where, *flags) == 2
        assert said in capsys.readouterr().err
    assert (
        call(
            "start",
            "v2",
            where,
            "--lossy=linear:0.5",
            quality,
            "--margin=0.05",
            "--slower=0.3",
            "--stages=0.1",
        )
        == 0
    )
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("the rule linear:0.5 ")]
    told = "the rule linear:0.5 changes the texts: rougeL 19.5 with it, 19.5 without"
    cell = "(wiki_leads, T={}, {}, block size 5)"  # the first alone was told, whichever it was
    cells = [cell.format(t, draft) for t in (0, 1) for draft in simulated.ACCEPTANCE]
    assert said == [f"{told} {one}" for one in cells]
    assert call("advance", where, f"--log={log(tmp_path, 0.72, rule='linear:0.5')}") == 0


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["start"], "rollout start needs a VERSION"),
        (["start", "v3"], "has no version 'v3'"),
        (["start", "v1"], "v1 serves already"),
        (["start", "v2", "--stages=0.5,0.1"], "--stages=0.5,0.1: each must be larger"),
        (["start", "v2", "--stages=1.5"], "lie in (0, 1)"),
        (["start", "v2", "--margin=nan"], "--margin=nan: must be at least 0"),
        (["start", "v2", "--log=x"], "takes no --log: it is a flag of advance"),
        (["status", "v2"], "rollout status takes no VERSION"),
        (["advance"], "needs --log, or --stable_metrics and --candidate_metrics"),
        (["advance", "--stable_metrics=x"], "needs --log, or --stable_metrics and"),
        (["abort"], "no rollout is under way"),
        (["advanc"], "did you mean 'advance'?"),
    ],
)
def test_what_is_refused(tmp_path, capsys, argv, said):
    registry = toy.registry(tmp_path / "drafts", versions=2)
    assert call(*argv, f"--registry={registry.path}") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert registry.state().revision == 1


def kill_before_each_change(folder: str) -> None:
    """Kills `advance` before its n-th change of the file system, for every n, and gives it again."""
    for count in range(30):
        path = Path(folder) / str(count)
        path.mkdir()
        registry = toy.registry(path / "drafts", versions=2)
        rollout.start(registry, "v2", dataclasses.replace(SETTINGS, margin=0.3, slower=1.0), "")
        evidence = log(path, 0.9, count=60)
        child = os.fork()
        if child == 0:
            toy.die_before(count)
            step(DraftRegistry(registry.path), evidence)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print("killed" if status == -signal.SIGKILL else "done")
        step(DraftRegistry(registry.path), evidence)
        if status != -signal.SIGKILL:
            return


def test_a_kill_at_any_moment_takes_no_step_twice(tmp_path):
    program = f"from tests.operations import test_rollout as t; t.kill_before_each_change({str(tmp_path)!r})"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    ends = done.stdout.split()
    assert ends[-1] == "done"
    assert len(ends) > 2
    for count in range(len(ends)):
        history = DraftRegistry(tmp_path / str(count) / "drafts").history
        assert [(one.action, one.share) for one in history.transitions[1:]] == [
            ("start", 0.1),
            ("advance", 0.5),
        ]


def test_lines_of_the_server_are_evidence(registry, tmp_path):
    """The server's names for the draft and for the seconds were others than those that are looked for."""
    path = tmp_path / "served.jsonl"
    with RequestLog(str(path), texts=True) as written:
        for number, version in enumerate(["v2", "v1", "v1"]):
            record = Record(emitted_tokens=4, target_calls=2, tested=3, accepted=2)
            sample = types.SimpleNamespace(
                ending=types.SimpleNamespace(record=record, draft=version, reason="stop"),
                stream=types.SimpleNamespace(sent="an answer", stopped=False),
                prompt=types.SimpleNamespace(temperature=1.0, top_k=0, top_p=1.0),
                arrived=9.0,
                began=10.0,
                first_token=10.5,
                ended=12.0,
                revision=registry.history.last.revision,
            )
            written.write(sample, f"cmpl-{number}", f"cmpl-{number}", f"prompt {number}")
    evidence = arms.of_logs([str(path)], registry.history.last)
    assert [len(arm.records) for arm in (evidence.stable, evidence.candidate)] == [2, 1]
    assert evidence.stable.seconds_U.tolist() == [0.5, 0.5]
    assert evidence.notes == {}
