"""Shards: which share of a run each takes, how it is named, and what a merge refuses."""

import dataclasses
import json

import pytest

from distillspec_jax import outputs, shards
from distillspec_jax.errors import UsageError
from distillspec_jax.shards import CARD, Part, Shard

PART = Part("generate", 0, 3, 10, {"lines.jsonl": 2}, {"seed": 0, "stop": ("a",), "limit": None})


@pytest.fixture(autouse=True)
def no_scheduler(monkeypatch):
    names = ("ARRAY_TASK_ID", "ARRAY_TASK_COUNT", "ARRAY_TASK_MAX", "PROCID", "NTASKS")
    others = ("JOB_COMPLETION_INDEX", "DISTILLSPEC_MULTIHOST", "JAX_PROCESS_ID", "JAX_NUM_PROCESSES")
    others += ("TPU_WORKER_ID", "TPU_WORKER_HOSTNAMES", "MEGASCALE_NUM_SLICES")
    for name in (*(f"SLURM_{name}" for name in names), *others):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def written(tmp_path):
    """The three parts of a run, whole; each can be changed."""
    for index in range(3):
        folder = Shard(index, 3).folder(tmp_path / "out")
        folder.mkdir()
        dataclasses.replace(PART, shard=index).begin(folder)
        (folder / "lines.jsonl").write_text("{}\n{}\n")
    return tmp_path / "out"


def part(output, index):
    return Shard(index, 3).folder(output)


def change(folder, **fields):
    card = json.loads((folder / CARD).read_text())
    (folder / CARD).write_text(json.dumps(card | fields))


def test_a_folder_without_a_name_gets_the_one_that_it_has(tmp_path, monkeypatch):
    (tmp_path / "here" / "below").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here" / "below")
    assert Shard(1, 2).folder(".") == tmp_path / "here" / "below-00001-of-00002"
    assert Shard(1, 2).folder("..") == tmp_path / "here-00001-of-00002"


@pytest.mark.parametrize(("units", "count"), [(8, 8), (10, 3), (1, 1), (257, 8)])
def test_every_unit_is_in_one_share_and_shares_are_even(units, count):
    shares = [list(Shard(index, count).of(units, "texts")) for index in range(count)]
    assert [unit for share in shares for unit in share] == list(range(units))
    assert {len(share) for share in shares} <= {units // count, -(-units // count)}


def test_more_shards_than_units_are_refused():
    with pytest.raises(UsageError, match=r"--shard=0/9: there are 8 texts to share: use 8 shards or fewer"):
        Shard(0, 9).of(8, "texts")


@pytest.mark.parametrize(
    ("text", "environment", "expected"),
    [
        ("2/8", {}, Shard(2, 8)),
        ("auto/8", {"SLURM_ARRAY_TASK_ID": "7"}, Shard(7, 8)),
        ("auto/8", {"JOB_COMPLETION_INDEX": "0"}, Shard(0, 8)),
        (
            "auto",
            {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MAX": "3"},
            Shard(3, 4),
        ),
        ("auto", {"SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, Shard(1, 2)),
        ("auto", {"DISTILLSPEC_MULTIHOST": "1", "SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, Shard(1, 2)),
        (
            "auto",
            {"DISTILLSPEC_MULTIHOST": "1", "JAX_PROCESS_ID": "3", "JAX_NUM_PROCESSES": "4"},
            Shard(3, 4),
        ),
        ("auto", {"TPU_WORKER_ID": "1", "TPU_WORKER_HOSTNAMES": "a,b"}, Shard(1, 2)),
        # On GKE a pod of single-host slices is worker 0 of its slice: the Job's index comes first.
        ("auto/4", {"TPU_WORKER_ID": "0", "JOB_COMPLETION_INDEX": "3"}, Shard(3, 4)),
        ("0/8", {"DISTILLSPEC_MULTIHOST": "0"}, Shard(0, 8)),
        # The step of an array's task is process 0 of 1: the array's index comes first.
        ("auto/4", {"SLURM_PROCID": "0", "SLURM_NTASKS": "1", "SLURM_ARRAY_TASK_ID": "2"}, Shard(2, 4)),
    ],
)
def test_a_shard_is_named_or_found_in_the_environment(text, environment, expected, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert shards.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "environment", "said"),
    [
        ("8/8", {}, "shard 8 is not one of 0/8 to 7/8"),
        ("3", {}, "write I/N"),
        ("-1/8", {}, "write I/N"),
        ("٣/8", {}, "write I/N"),
        ("0/0", {}, "must be of 1 to 99999 shards"),
        ("0/1" + "0" * 5000, {}, "must be of 1 to 99999 shards"),
        ("9" * 5000 + "/8", {}, "is not one of 0/8 to 7/8"),
        (
            "auto/8",
            {},
            "none of JAX_PROCESS_ID, SLURM_ARRAY_TASK_ID, JOB_COMPLETION_INDEX, SLURM_PROCID, TPU_WORKER_ID",
        ),
        ("auto", {"JOB_COMPLETION_INDEX": "3"}, "JOB_COMPLETION_INDEX=3 does not say of how many"),
        # One task of an array, started again by itself, is not shard 0 of 1.
        (
            "auto",
            {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "1", "SLURM_ARRAY_TASK_MAX": "3"},
            "does not say of how many: write auto/N",
        ),
        ("auto/8", {"SLURM_ARRAY_TASK_ID": "8"}, "SLURM_ARRAY_TASK_ID=8 is not one of 0 to N-1 of 8"),
        ("0/8", {"DISTILLSPEC_MULTIHOST": "1"}, "every host would take it: write auto"),
        ("0/8", {"DISTILLSPEC_MULTIHOST": "yes"}, "DISTILLSPEC_MULTIHOST='yes': write 1"),
        ("auto", {"TPU_WORKER_ID": "1"}, "of how many, and TPU_WORKER_HOSTNAMES is not set: write auto/N"),
        (
            "auto/8",
            {"JOB_COMPLETION_INDEX": "3", "MEGASCALE_NUM_SLICES": "2"},
            "each of 2 slices .* has JOB_COMPLETION_INDEX=3",
        ),
    ],
)
def test_what_is_no_shard_is_one_line(text, environment, said, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=said):
        shards.parse(text)


def test_whole_parts_are_found_in_order(written):
    (written.parent / "out-notes-of-mine").mkdir()
    assert shards.find(written) == [part(written, index) for index in range(3)]
    shards.joined(shards.find(written), "lines.jsonl", written.parent / "whole")
    assert (written.parent / "whole").read_text() == "{}\n" * 6


def test_a_gap_is_named(written):
    part(written, 1).rename(written.parent / "elsewhere")
    with pytest.raises(UsageError, match=r"out-00001-of-00003 is missing: .* --shard=1/3"):
        shards.find(written)


def test_an_overlap_is_named(written):
    change(part(written, 1), shard=0)
    with pytest.raises(UsageError, match=r"out-00001-of-00003 holds shard 0/3 .* overlaps with another"):
        shards.find(written)


def test_other_numbers_of_shards_are_named(written):
    Shard(0, 4).folder(written).mkdir()
    with pytest.raises(UsageError, match=r"out-00000-of-00003 is one of 3 shards, .*of-00004 one of 4"):
        shards.find(written)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"settings": {"seed": 1, "stop": ["a"], "limit": None}}, "a run whose seed is 1, not 0 as in"),
        ({"settings": {"seed": 0, "stop": ["a"], "limit": None, "x": 2}}, "a run whose x is 2, not None"),
        ({"units": 11}, "a run whose units is 11, not 10"),
        ({"command": "collect"}, "a run whose command is 'collect', not 'generate'"),
        ({"settings": {"seed": 0, "stop": ["b"], "limit": None}}, "a run whose stop is another than in"),
        ({"lines": {"rows.jsonl": 2}}, "a run whose list of files is another than in"),
        ({"lines": {"../../x": 2}}, "not the card of a shard"),
    ],
)
def test_other_runs_are_named(written, fields, said):
    change(part(written, 2), **fields)
    with pytest.raises(UsageError, match=rf"out-00002-of-00003.*{said}"):
        shards.find(written)


@pytest.mark.parametrize(("content", "found"), [("{}\n", 1), ("{}\n{}", 1), ("{}\n{}\n{}\n", 3), (None, 0)])
def test_a_part_that_is_not_finished_is_named(written, content, found):
    path = part(written, 1) / "lines.jsonl"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(UsageError, match=rf"not finished \({found} of 2 lines in .* --shard=1/3 again"):
        shards.find(written)


def test_nothing_to_merge_is_one_line(tmp_path):
    with pytest.raises(UsageError, match=r"no shards of .*out: a run with --shard=0/8 would leave"):
        shards.find(tmp_path / "out")
    (tmp_path / "out-00000-of-00001").mkdir()
    with pytest.raises(UsageError, match=r"no part of a run: it has no shard\.json"):
        shards.find(tmp_path / "out")


def test_a_run_goes_on_with_its_own_part_alone(written):
    with outputs.run():
        PART.check(part(written, 0))
        with pytest.raises(UsageError, match="a run whose seed is 0, not 3 as in this run"):
            dataclasses.replace(PART, settings={**PART.settings, "seed": 3}).check(part(written, 0))
        (part(written, 1) / CARD).unlink()
        with pytest.raises(UsageError, match=r"it holds lines\.jsonl, but no shard\.json"):
            PART.check(part(written, 1))


@pytest.mark.parametrize("flag", ["--shard=2/8", "--shard auto/8", "--gin.SHARD=0/8", "--gin.SHARD='0/8'"])
def test_the_command_of_the_whole_run_names_no_shard(flag):
    found = shards.whole_command(f"distillspec sweep {flag} --seed=1 --output=a--shard=0/8")
    assert found == "distillspec sweep --seed=1 --output=a--shard=0/8"
