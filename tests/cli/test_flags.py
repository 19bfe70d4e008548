"""Flags as T5X spells them, and what every mistake in them says."""

from pathlib import Path

import gin
import pytest

from distillspec_jax.cli import bindings
from distillspec_jax.cli.flags import CommandParser, list_of, one_of
from distillspec_jax.cli.gin_flags import GinFlags
from distillspec_jax.cli.main import main
from distillspec_jax.data import catalog
from distillspec_jax.distillation.distill import distill
from distillspec_jax.errors import UsageError
from distillspec_jax.evaluation import held_out
from distillspec_jax.evaluation.sweep import sweep
from distillspec_jax.training.finetune import finetune
from tests.cli import gin_toy
from tests.cli.gin_toy import CONFIG, complaint, parse

# --- what is accepted ---


def test_flags_are_collected_in_order():
    flags = parse(
        "--gin_file=a.gin", "--gin.X=1", "--gin_file", "b.gin", "--gin.X=2", "--gin_search_paths=p,q"
    )
    assert flags == GinFlags(("a.gin", "b.gin"), (("X", "1"), ("X", "2")), ("p", "q"))


def test_a_file_and_macros_reach_the_job(write):
    config = write("a.gin", CONFIG)
    job, text = bindings.bind(gin_toy.train, parse("--gin.MODEL_DIR=runs/a b", f"--gin_file={config}"))
    assert job() == (gin_toy.Model(), "runs/a b", 5, None)
    assert "MODEL_DIR = 'runs/a b'" in text


def test_a_later_file_and_a_flag_override(write):
    base = write("a.gin", CONFIG)
    over = write("b.gin", "MODEL_DIR = 'there'\nTRAIN_STEPS = 6")
    job, _ = bindings.bind(
        gin_toy.train, parse(f"--gin_file={base}", f"--gin_file={over}", "--gin.TRAIN_STEPS=7")
    )
    assert job()[1:3] == ("there", 7)


def test_parameters_by_the_names_of_the_file_even_where_no_file_binds_them(write):
    config = write("a.gin", CONFIG)
    flags = parse(
        f"--gin_file={config}",
        "--gin.MODEL_DIR=x",
        "--gin.gin_toy.Model.width=9",
        "--gin.gin_toy.train.name=n",
    )
    job, _ = bindings.bind(gin_toy.train, flags)
    assert job() == (gin_toy.Model(width=9), "x", 5, "n")


def test_a_job_without_any_file():
    job, _ = bindings.bind(gin_toy.schedule, parse("--gin.schedule.peak=0.5"))
    assert job() == (0.5, 0)


def test_a_job_forgets_the_one_before(write):
    config = write("a.gin", CONFIG)
    bindings.bind(
        gin_toy.train, parse(f"--gin_file={config}", "--gin.MODEL_DIR=x", "--gin.gin_toy.Model.width=9")
    )
    job, _ = bindings.bind(gin_toy.train, parse(f"--gin_file={config}", "--gin.MODEL_DIR=x"))
    assert job()[0] == gin_toy.Model()


def test_parameters_that_the_caller_passes_are_not_missed():
    job, _ = bindings.bind(gin_toy.schedule, parse(), given=("peak",))
    assert job(peak=3.0) == (3.0, 0)


def test_search_paths_serve_files_and_includes_and_do_not_leak(write, tmp_path):
    write("configs/models/tiny.gin", CONFIG)
    write("configs/runs/train.gin", "include 'models/tiny.gin'\nTRAIN_STEPS = 8")
    flags = ["--gin_file=runs/train.gin", "--gin.MODEL_DIR=x"]
    job, _ = bindings.bind(gin_toy.train, parse(*flags, f"--gin_search_paths={tmp_path}/configs"))
    assert job()[2] == 8
    assert "no such file" in complaint("--gin_file=models/tiny.gin")
    with pytest.raises((OSError, TypeError)):  # gin on its own is as before, its faulty reader included
        gin.parse_config_file("models/tiny.gin")


def test_a_search_path_precedes_the_packaged_files(write, tmp_path, monkeypatch):
    write("packaged/runs/train.gin", "gin_toy.never_read = 1")
    write("mine/runs/train.gin", CONFIG)
    monkeypatch.setattr(bindings, "packaged_configs", lambda: tmp_path / "packaged")
    flags = parse("--gin_file=runs/train.gin", "--gin.MODEL_DIR=x", f"--gin_search_paths={tmp_path}/mine")
    assert bindings.bind(gin_toy.train, flags)[0]()[2] == 5


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("100", "100"),
        ("1e-3", "1e-3"),
        ("-3", "-3"),
        ("None", "None"),
        ("'a b'", "'a b'"),
        ("[1, @f, %M]", "[1, @f, %M]"),
        ("{'inputs': 64}", "{'inputs': 64}"),
        ("@t5.tiny()", "@t5.tiny()"),
        ("%STEPS", "%STEPS"),
        ("zoo:wiki_leads/target", "'zoo:wiki_leads/target'"),
        ("runs/a", "'runs/a'"),
        ("2026-01-02", "'2026-01-02'"),
        ("1.2.3", "'1.2.3'"),
        ("it's", '"it\'s"'),
        ("/data/*.jsonl", "'/data/*.jsonl'"),
        ("a=b", "'a=b'"),
        ("", "''"),
        ("two\nlines", "'two\\nlines'"),
    ],
)
def test_an_unquoted_value_that_is_no_literal_is_a_string(text, value):
    assert bindings.gin_value("NAME", text) == value


# --- what is refused, and how ---


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("true", "did you mean True?"),
        ("false", "did you mean False?"),
        ("[a, b]", "strings inside it need quotes"),
    ],
)
def test_values_that_would_surprise_are_refused(text, says):
    with pytest.raises(UsageError, match=r"--gin\.NAME=") as caught:
        bindings.gin_value("NAME", text)
    assert says in str(caught.value)


@pytest.mark.parametrize("argument", ["--gin.STEPS", "--gin.=3"])
def test_a_binding_without_its_equals_sign(argument):
    with pytest.raises(UsageError, match=r"--gin\.NAME=VALUE"):
        parse(argument)


@pytest.mark.parametrize(
    ("flag", "says"),
    [
        ("--gin.TRAIN_STPS=3", "did you mean 'TRAIN_STEPS'?"),
        ("--gin.gin_toy.train.stepz=3", "gin_toy.train has no parameter 'stepz': did you mean 'steps'?"),
        ("--gin.gin_toy.trian.steps=3", "there is no 'gin_toy.trian': did you mean 'gin_toy.train'?"),
        ("--gin.gin_toyy.train.steps=3", "no gin file imports 'gin_toyy': did you mean 'gin_toy'?"),
        ("--gin.train.steps=3", "did you mean 'gin_toy.train.steps'?"),
        ("--gin.MODEL=@gin_toy.Modle()", "there is no 'gin_toy.Modle': did you mean 'gin_toy.Model'?"),
        ("--gin.MODEL=%TRAIN_STPS", "the macro TRAIN_STPS needs a value (did you mean 'TRAIN_STEPS'?)"),
        (
            "--gin.TRAIN_STEPS=%STEPS",
            "the macro STEPS needs a value: give --gin.STEPS=VALUE or a gin file that sets it",
        ),
    ],
)
def test_a_bad_flag_is_named_with_the_nearest_choice(write, flag, says):
    message = complaint(f"--gin_file={write('a.gin', CONFIG)}", "--gin.MODEL_DIR=x", flag)
    assert says in message
    assert message.startswith(flag) or "=%" in flag


@pytest.mark.parametrize("job", [finetune, distill])
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (
            "{job}.warmup_steps=9",
            "has no parameter 'warmup_steps': write the macro WARMUP_STEPS, or optimizers.warmup_cosine.",
        ),
        ("{job}.learning_rate=9", "write the macro LEARNING_RATE, or optimizers.warmup_cosine.learning_rate"),
        ("{job}.hold_until=9", "write the macro HOLD_UNTIL, or optimizers.warmup_cosine.hold_until"),
        ("{job}.final_fraction=9", "write optimizers.warmup_cosine.final_fraction"),
        ("OPTIMIZER=@optimizers.adamw", "OPTIMIZER is the function adamw: write @optimizers.adamw()"),
    ],
)
def test_the_names_of_0_1_are_answered_by_their_new_ones(job, old, new):
    name = job.__name__
    macros = ["TARGET", "DRAFT"] if job is distill else ["MODEL"]
    given = [f"--gin.{macro}=x" for macro in (*macros, "MODEL_DIR", "MIXTURE_OR_TASK_NAME", "TRAIN_STEPS")]
    old_flag = f"--gin.{old.format(job=f'{name}.{name}')}"
    assert new in complaint(f"--gin_file=runs/{name}.gin", *given, old_flag, job=job)


def test_a_function_that_nothing_registers(write):
    assert "there is no function 'trian': did you mean 'train'?" in complaint(
        "--gin.train.model_dir=x", "--gin.trian.steps=3"
    )


def test_a_required_macro_without_a_value(write):
    message = complaint(f"--gin_file={write('a.gin', CONFIG)}")
    assert message == "the macro MODEL_DIR needs a value: give --gin.MODEL_DIR=VALUE"


def test_a_required_parameter_without_a_value():
    assert complaint(job=gin_toy.schedule).startswith(
        "schedule needs a value for 'peak': give --gin.schedule.peak="
    )


def test_a_missing_file_names_its_neighbour(write, tmp_path, monkeypatch):
    write("runs/finetune.gin", CONFIG)
    monkeypatch.chdir(tmp_path)
    message = complaint("--gin_file=runs/finetuen.gin")
    assert message.startswith("--gin_file=runs/finetuen.gin: no such file: did you mean 'runs/finetune.gin'?")


def test_a_folder_is_no_file(tmp_path):
    assert "is a folder" in complaint(f"--gin_file={tmp_path}")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("include 'runs/nothing.gin'", "include 'runs/nothing.gin': no such file"),
        ("gin_toy.train.stepz = 1", "did you mean 'steps'?"),
        ("gin_toy.trian.steps = 1", "did you mean 'gin_toy.train'?"),
        ("gin_toy.train.name = word", "word is no Python literal"),
        ("gin_toy.train.name 3", "couldn't parse statement"),
        ("import no_such_module", "no module named 'no_such_module'"),
    ],
)
def test_a_bad_line_is_named_with_its_file(write, line, says):
    path = write("bad.gin", CONFIG + "    " + line)
    lines = len(Path(path).read_text().splitlines())
    message = complaint(f"--gin_file={path}", "--gin.MODEL_DIR=x")
    assert message.startswith(f"{path} line {lines}: ")
    assert says in message


def test_a_bad_line_of_an_included_file_is_named_there(write, tmp_path):
    inner = write("inner.gin", CONFIG + "    gin_toy.train.stepz = 1")
    outer = write("outer.gin", f"TRAIN_STEPS = 1\ninclude '{inner}'")
    assert complaint(f"--gin_file={outer}").startswith(
        f"{inner} line 13: gin_toy.train has no parameter 'stepz'"
    )


def test_a_defect_of_an_imported_module_keeps_its_traceback(write, tmp_path, monkeypatch):
    write("broken_module.py", "missing_name.attribute")
    monkeypatch.syspath_prepend(tmp_path)
    config = write("a.gin", "import broken_module")
    with pytest.raises(NameError, match="missing_name") as caught:
        bindings.bind(gin_toy.train, parse(f"--gin_file={config}"))
    assert not isinstance(caught.value, UsageError)


# --- plain flags ---


def generate_parser() -> CommandParser:
    parser = CommandParser("generate", "Generates.")
    parser.add_argument("--block_size", type=int, default=5)
    parser.add_argument("--rule", type=one_of("token", "block"), default="token")
    parser.add_argument("--model", required=True)
    return parser


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--blok_size=3"], "unknown flag --blok_size: did you mean '--block_size'?"),
        (["--block=3"], "unknown flag --block: did you mean '--block_size'?"),
        (["--ru=token"], "unknown flag --ru: did you mean '--rule'?"),
        (["--block_size=many"], "argument --block_size: invalid int value: 'many'"),
        (["--block_size"], "argument --block_size: expected one argument"),
        (["--rule=blok"], "argument --rule: 'blok' is not one of them: did you mean 'block'?"),
        (["prompts.jsonl"], "unexpected argument 'prompts.jsonl'"),
        (["--gin.X=3"], "unknown flag --gin.X"),
    ],
)
def test_a_bad_plain_flag(argv, says):
    with pytest.raises(UsageError) as caught:
        generate_parser().parse(["--model=m", *argv])
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "argument", ["--block_size=", "--rule=", "--model=", "--sizes=", "--sizes=,", "--gin_file="]
)
def test_an_empty_value_is_none(argument):
    parser = CommandParser("generate", "", gin=True, may_be_empty=("prefix",))
    for name, kind in (
        ("model", str),
        ("block_size", int),
        ("rule", one_of("token")),
        ("sizes", list_of(int)),
    ):
        parser.add_argument(f"--{name}", type=kind)
    parser.add_argument("--prefix")
    parser.add_argument("--stop", action="append")
    with pytest.raises(
        UsageError, match=f"argument {argument.partition('=')[0]}: .* give one, or leave the flag out"
    ):
        parser.parse([argument])
    found = parser.parse(["--prefix=", "--stop= ", "--sizes=1,,2"])
    assert (found.prefix, found.stop, found.sizes) == ("", [" "], [1, 2])


def test_bytes_that_are_no_text_are_refused():
    """Later, each place that wrote or printed them had a traceback of its own."""
    with pytest.raises(UsageError, match="--model=caf\udce9: the command line holds bytes that are no UTF-8"):
        generate_parser().parse(["--model=caf\udce9"])


def test_a_required_flag_that_is_misspelt_is_not_called_missing():
    with pytest.raises(UsageError, match="unknown flag --modle: did you mean '--model'"):
        generate_parser().parse(["--modle=m"])
    with pytest.raises(UsageError, match="the following arguments are required: --model"):
        generate_parser().parse([])


def test_good_plain_flags():
    namespace = generate_parser().parse(["--block_size=3", "--rule", "block", "--model=m"])
    assert (namespace.block_size, namespace.rule) == (3, "block")


def test_a_gin_file_that_has_moved_is_found_where_it_lies_now():
    needed = ("--gin.TARGET=t", "--gin.DRAFTERS={}", "--gin.TASK=wiki_leads", "--gin.OUTPUT_DIR=o")
    bindings.bind(sweep, parse("--gin_file=experiments/sweep.gin", *needed))
    assert gin.get_bindings(sweep)["block_sizes"] == (1, 3, 5, 7)


def test_a_command_that_needs_a_task_alone_lets_gin_make_it(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"inputs": "a", "targets": "b"}\n')
    flags = GinFlags(("tasks/jsonl.gin",), (("TASK_NAME", "made_by_gin"), ("TRAIN_FILE", str(path))))
    assert bindings.task(GinFlags()) is None
    assert bindings.task(flags) == "made_by_gin"
    assert [row["inputs"] for row in catalog.read_rows(catalog.find_task("made_by_gin"), "train")] == ["a"]
    with pytest.raises(UsageError, match="MIXTURE_OR_TASK_NAME"):
        bindings.task(GinFlags(("models/zoo_draft.gin",), ()))


def test_evaluate_reads_the_lengths_and_the_task_of_gin_files(tmp_path, monkeypatch):
    """The lengths had no effect, --task never saw the file's task, and a file of flags alone was refused."""
    (tmp_path / "rows.jsonl").write_text('{"inputs": "a", "targets": "b"}\n')
    (tmp_path / "limit.gin").write_text("evaluate.limit = 3\n")
    seen = []

    def measure(model, task, **options):
        seen.append((task, options["limit"], options["lengths"]))
        raise UsageError("enough")

    monkeypatch.setattr(held_out, "measure", measure)
    rows = tmp_path / "rows.jsonl"
    mine = ["--gin_file=tasks/jsonl.gin", "--gin.TASK_NAME=mine_here", f"--gin.TRAIN_FILE={rows}"]
    mine += [f"--gin.VALIDATION_FILE={rows}", "--gin.INPUTS_LENGTH=20"]
    for more in (mine, ["--task=mine_here", *mine], [f"--gin_file={tmp_path / 'limit.gin'}"]):
        assert main(["evaluate", "--model=zoo:wiki_leads/draft", *more]) == 2
    made = ("mine_here", None, {"inputs": 20, "targets": 128})
    assert seen == [made, made, ("wiki_leads", 3, None)]
