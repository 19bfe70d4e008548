"""`distillspec sweep` and `distillspec report` from their command lines."""

import json

import pytest

from distillspec_jax import checkpoint, model_card
from distillspec_jax.cli import main as console
from distillspec_jax.evaluation import results
from tests.evaluation import simulated, tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    directory = tmp_path_factory.mktemp("models") / "target"
    made = tiny.model("target", 0)
    model_card.write_card(directory, made.card, made.tokenizer_bytes)
    checkpoint.save_params(directory, 1, made.params)
    return str(directory)


def fails(capsys, *argv):
    assert console.main(list(argv)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err.removeprefix(f"distillspec {argv[0]}: error: ").rstrip()


def test_a_sweep_of_the_baseline_alone_by_gin_and_by_flags(model, tmp_path, capsys):
    flags = ["--limit=2", "--max_new_tokens=3", "--temperatures=0", "--timing_prompts=0"]
    gin = ["--gin_file=runs/sweep.gin", f"--gin.TARGET={model}", "--gin.DRAFTERS={}"]
    gin += ["--gin.TASK=office_help_ende", f"--gin.OUTPUT_DIR={tmp_path / 'out'}"]
    assert console.main(["sweep", *gin, *flags]) == 0
    captured = capsys.readouterr()
    (row,) = results.read([tmp_path / "out" / "results.jsonl"])
    assert (row.task, row.prompts, row.max_new_tokens) == ("office_help_ende", 2, 3)
    assert "[0/1] no draft, T = 0" in captured.err
    assert "office_help_ende: 2 prompts" in captured.out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--block_sizes=0"], "block_size is 0, must be a whole number of at least 1"),
        (["--block_sizes=x"], "argument --block_sizes: invalid list of int value: 'x'"),
        (["--temperatures=-1"], "temperature is -1.0, must be 0 or more"),
        (["--task=wiki"], "unknown task 'wiki'"),
        (["--drafter=b/d"], "--drafter=b/d: the label 'd' is taken; write LABEL=MODEL"),
        (["--drafter=x="], "--drafter=x=: write LABEL=MODEL or MODEL"),
        (["--blocksizes=1"], "unknown flag --blocksizes: did you mean '--block_sizes'?"),
        (["--target=zoo:no/target"], "the zoo has no model 'no/target'"),
        (["--inputs=x.jsonl", "--split=test"], "--split=test: the lines of --inputs have no splits"),
        (["--metric=rouge"], "--metric is about the lines of --inputs: give such a file, or leave it out"),
        (["--truncate_inputs"], "--truncate_inputs is about the lines of --inputs"),
    ],
)
def test_bad_flags_of_a_sweep(model, tmp_path, capsys, flags, message):
    base = [f"--target={model}", f"--drafter=d={model}", "--task=wiki_leads", f"--output_dir={tmp_path}"]
    assert fails(capsys, "sweep", *base, *flags).startswith(message)
    assert not list(tmp_path.iterdir())


def test_a_missing_flag_is_named(model, capsys):
    assert fails(capsys, "sweep", f"--drafter=d={model}") == "--target is missing"
    assert fails(capsys, "sweep", f"--target={model}", f"--drafter=d={model}") == "--output_dir is missing"


def test_report_prints_the_table_and_names_the_page(tmp_path, capsys):
    for row in simulated.rows(prompts=10, block_sizes=(5,)):
        results.append(tmp_path / "results.jsonl", row)
    page = tmp_path / "page.html"
    assert console.main(["report", str(tmp_path / "results.jsonl"), f"--output={page}", "--title=Mine"]) == 0
    out = capsys.readouterr().out
    assert "wiki_leads: 10 prompts" in out
    assert "At T = 1 and γ = 5, distilled emits" in out
    assert out.endswith(f"report: {page}\n")
    assert "<h1>Mine</h1>" in page.read_text()


def test_report_of_a_partly_broken_file_names_the_lines_and_uses_the_rest(tmp_path, capsys):
    (row, *_) = [row for row in simulated.rows(prompts=6) if row.is_drafted]
    results.append(tmp_path / "results.jsonl", row)
    with (tmp_path / "results.jsonl").open("a") as file:
        file.write('{"schema_version": 1, "task": 3}\n')
    page = tmp_path / "page.html"
    assert console.main(["report", str(tmp_path / "results.jsonl"), f"--output={page}"]) == 0
    out = capsys.readouterr().out
    assert f"{tmp_path}/results.jsonl:2: " in out
    assert "1 lines cannot be read and are left out, 1 rows are used" in out
    assert "1 line of the results could not be read and is left out." in page.read_text()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "the following arguments are required: RESULTS"),
        (["absent.jsonl"], "cannot read 'absent.jsonl': No such file or directory"),
        (["x.jsonl", "--training=y"], "--training=y: write LABEL=FILE"),
        (["x.jsonl", "--block_size=0"], "--block_size=0: must be at least 1"),
    ],
)
def test_bad_flags_of_a_report(capsys, flags, message):
    assert fails(capsys, "report", *flags) == message


def test_advise_prints_the_table_and_a_sentence_and_writes_the_numbers(model, tmp_path, capsys):
    flags = ["--task=office_help_ende", "--limit=2", "--max_new_tokens=6", "--block_sizes=2"]
    written = tmp_path / "advice.json"
    assert (
        console.main(["advise", f"--target={model}", f"--drafter={model}", *flags, f"--output={written}"])
        == 0
    )
    printed = " ".join(capsys.readouterr().out.split())
    assert "no draft" in printed
    assert "best block size: 2" in printed or "speculation does not pay here" in printed
    numbers = json.loads(written.read_text())
    (size,) = numbers["sizes"]
    # The draft is the target itself: all drafts are accepted, and a text's end cuts off one token on average.
    assert numbers["acceptance"] == 1
    length = numbers["tokens"] / 2
    assert size["tokens"] == pytest.approx(3 * length / (length + 1))
    assert (numbers["prompts"], size["block_size"]) == (2, 2)
    assert min(numbers["plain_ms"], size["round_ms"], size["draft_ms"], size["verify_ms"]) > 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--block_sizes=3,0"], "block_sizes is [3, 0]: each must be at least 1"),
        (["--task=wiki"], "unknown task 'wiki'"),
        (["--limit=0"], "limit is 0, must be at least 1 prompt"),
        (["--inputs=x.jsonl", "--split=test"], "--split=test: the lines of --inputs have no splits"),
        (["--inputs={long}"], "{long}:1 has 304 tokens, the model was built for 192: shorten it or"),
        (["--inputs={long}", "--truncate_inputs", "--block_sizes=0"], "block_sizes is [0]: each must be"),
        ([], "{model} names no task: give one, or a file of inputs"),
    ],
)
def test_bad_flags_of_advise(model, tmp_path, capsys, flags, message):
    long = tmp_path / "long.jsonl"
    long.write_text(json.dumps({"inputs": "x y " * 99}) + "\n")
    flags, message = [flag.format(long=long) for flag in flags], message.format(long=long, model=model)
    task = ["--task=wiki_leads"] if flags and not flags[0].startswith("--task") else []
    error = fails(capsys, "advise", f"--target={model}", f"--drafter={model}", *task, *flags)
    assert error.startswith(message)
