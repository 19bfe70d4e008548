"""Shards of every command that takes them, merged: the bytes of one process but for times."""

import json

import pytest

from distillspec_jax.buckets import copies
from distillspec_jax.cli import errors
from distillspec_jax.cli.main import main
from distillspec_jax.data import catalog
from distillspec_jax.data.task_spec import TaskSpec
from distillspec_jax.data.text_sources import Files
from tests import emulators

TASK, ROWS = "test_merge", 7
TIMES = ("seconds", "baseline_seconds", "speedup", "speedup_ci95", "timing")


@pytest.fixture(scope="module", autouse=True)
def task(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "test.jsonl"
    lines = [{"q": f"row {i} " + "more " * (i % 3), "a": f"say {i}"} for i in range(ROWS)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    source = Files.one_each({"train": path, "test": path})
    lengths = {"inputs": 16, "targets": 8}
    catalog.add_task(TaskSpec(TASK, "", "say: ", "q", "a", source, "rouge", lengths, "none"))


@pytest.fixture(scope="module", autouse=True)
def small_files():
    with pytest.MonkeyPatch.context() as patch:
        for module in ("data.target_set", "distillation.collect"):
            patch.setattr(f"distillspec_jax.{module}.ROWS_A_SHARD", 4)
        yield


@pytest.fixture
def commands(target_dir, draft_dir, tmp_path):
    """Command lines, less where they write."""
    prompts, with_options = tmp_path / "prompts.jsonl", tmp_path / "requests.jsonl"
    asked = [{"id": i, "inputs": f"text {i}"} for i in range(ROWS)]
    prompts.write_text("".join(json.dumps(line) + "\n" for line in asked))
    with_options.write_text(
        "".join(json.dumps(line | {"temperature": line["id"] % 2}) + "\n" for line in asked)
    )
    pair = [f"--model={target_dir}", f"--drafter={draft_dir}", "--max_new_tokens=8", "--block_size=2"]
    grid = ["--block_sizes=2", "--temperatures=0,1", "--limit=2", "--timing_prompts=0", "--max_new_tokens=8"]
    return {
        "generate": [*pair, f"--input={with_options}", "--batch_size=2", "--resume"],
        "collect": [*pair, f"--task={TASK}", "--batch_size=2", "--num_samples=2", "--top_logprobs=3"],
        "evaluate": [f"--model={target_dir}", f"--task={TASK}", "--batch_size=2"],
        "sweep": [f"--target={target_dir}", f"--drafter=d={draft_dir}", f"--inputs={prompts}", *grid],
    }


OUTPUT = {"sweep": "output_dir"}


def contents(path, whole):
    """The files of an output by name, less the times in rows and the place in commands."""
    found = {}
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        name = str(file.relative_to(path)) if path.is_dir() else ""
        if name.endswith("results.jsonl"):
            rows = [json.loads(line) for line in file.read_text().splitlines()]
            found[name] = [{k: v for k, v in row.items() if k not in TIMES} for row in rows]
        elif file.is_file():
            found[name] = file.read_bytes()
    return found


@pytest.fixture
def run(commands, monkeypatch, capsys):
    """Runs a command as a process of its own would, with its command line in the provenance."""

    def run(command, output, *more):
        argv = [command, *commands[command], f"--{OUTPUT.get(command, 'output')}={output}", *more]
        monkeypatch.setattr("sys.argv", ["distillspec", *(w.replace(str(output), "OUT") for w in argv)])
        assert main(argv) == 0
        capsys.readouterr()

    return run


@pytest.mark.parametrize(
    ("command", "other", "said"),
    [
        ("generate", "--seed=3", "whose seed is 0, not 3 as in this run"),
        ("collect", "--seed=3", "whose seed is 0, not 3 as in this run"),
        ("evaluate", "--limit=5", "whose units is 7, not 5 as in this run"),
        ("sweep", "--temperatures=0,2", "whose cells is "),
    ],
)
def test_merged_shards_are_the_bytes_of_one_process(command, other, said, run, commands, tmp_path, capsys):
    """The second shard is interrupted, and is not gone on with under other settings."""
    run(command, tmp_path / "one")
    out, folder = tmp_path / "two", tmp_path / "two-00001-of-00002"
    for index in (1, 0):  # in any order
        run(command, out, f"--shard={index}/2")
    before = contents(folder, out)
    cut_off(command, folder)
    again = [f"--{OUTPUT.get(command, 'output')}={out}", "--shard=1/2"]
    for argv, complaint in (
        (["merge", str(out)], "is not finished"),
        ([command, *commands[command], *again, other], said),
    ):
        assert main(argv) == errors.USAGE
        assert complaint in capsys.readouterr().err
    assert not out.exists()
    run(command, out, "--shard=1/2")
    assert contents(folder, out) == before
    assert main(["merge", str(out)]) == 0
    assert contents(out, out) == contents(tmp_path / "one", tmp_path / "one")


@pytest.mark.slow
@pytest.mark.parametrize("command", ["generate", "collect", "evaluate", "sweep"])
def test_shards_in_a_bucket_are_merged_to_the_same(command, run, tmp_path, monkeypatch):
    run(command, tmp_path / "one")
    with emulators.store("memory") as bucket:
        for machine, shard in enumerate(("--shard=1/2", "--shard=0/2")):
            monkeypatch.setenv("DISTILLSPEC_CACHE", str(tmp_path / f"machine-{machine}"))
            copies._copied.cache_clear()
            run(command, f"{bucket}/two", shard)
        assert main(["merge", f"{bucket}/two"]) == 0
        copies._copied.cache_clear()
        found = copies.local(f"{bucket}/two")
    assert contents(found, found) == contents(tmp_path / "one", tmp_path / "one")


def cut_off(command, folder):
    """Leaves what a kill would leave of a shard."""
    name = {"collect": "texts", "generate": "lines", "evaluate": "model-0", "sweep": "results"}[command]
    path = folder / f"{name}.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    if command == "evaluate":
        path.unlink()
    elif command == "sweep":
        path.write_text("".join(lines[:-1]) + lines[-1][:300])
    else:
        path.unlink()
        (folder / f"{name}.jsonl.partial").write_text(lines[0] + lines[1][:9])
    if command == "collect":
        (folder / "logprobs" / "00000.npz").unlink()


def test_a_set_is_not_merged_over_another_nor_with_a_hole(run, tmp_path, capsys):
    run("collect", tmp_path / "out", "--shard=0/1")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    assert main(["merge", str(tmp_path / "out")]) == errors.USAGE
    assert "holds something already" in capsys.readouterr().err
    (tmp_path / "out" / "notes.txt").unlink()
    (tmp_path / "out-00000-of-00001" / "logprobs" / "00003.npz").unlink()
    assert main(["merge", str(tmp_path / "out")]) == errors.USAGE
    assert "00003.npz is missing" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("command", ["generate", "evaluate"])
def test_shards_need_an_output_to_lie_beside(command, commands, capsys):
    assert main([command, *commands[command], "--shard=0/2"]) == errors.USAGE
    assert "name an --output" in capsys.readouterr().err
