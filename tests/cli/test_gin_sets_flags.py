"""A gin file sets a command's own flags, through the checks of the command line."""

import importlib
import textwrap
from pathlib import Path

import pytest

from distillspec_jax.cli.flags import CommandParser, list_of, one_of
from distillspec_jax.errors import UsageError

COMMAND_CONFIG = """
    MODEL = %gin.REQUIRED
    toy_command:
      model = %MODEL
      block_size = 3
      drafter = ['a', 'b']
      layers = (1, 2)
      rule = None
      chat = True
      resume = False
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "a.gin"
    path.write_text(textwrap.dedent(text))
    return path


def parser_for_gin() -> CommandParser:
    parser = CommandParser("toy_command", "Generates.", gin_sets_flags=True)
    parser.add_argument("--block_size", type=int, default=5)
    parser.add_argument("--rule", type=one_of("token", "block"), default="token")
    parser.add_argument("--drafter", action="append")
    parser.add_argument("--layers", type=list_of(int))
    parser.add_argument("--chat", action="store_true")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--model", required=True)
    return parser


def flags_from(*argv: str) -> tuple[object, ...]:
    found = parser_for_gin().parse(argv)
    names = ("model", "block_size", "drafter", "layers", "rule", "chat", "resume")
    return tuple(getattr(found, name) for name in names)


def test_a_gin_file_sets_a_commands_flags_and_the_command_line_overrides_them(tmp_path):
    file = f"--gin_file={write(tmp_path, COMMAND_CONFIG)}"
    assert flags_from(file, "--gin.MODEL=m") == ("m", 3, ["a", "b"], [1, 2], "token", True, False)
    over = ("--block_size=4", "--drafter=c", "--rule=block", "--resume")
    assert flags_from(file, "--gin.MODEL=m", *over) == ("m", 4, ["c"], [1, 2], "block", True, True)
    assert flags_from("--model=m") == ("m", 5, None, None, "token", False, False)


def test_a_file_without_its_name_is_one_line():
    """A second parser printed its usage, too."""
    with pytest.raises(UsageError, match="argument --gin_file: expected one argument"):
        parser_for_gin().parse(["--gin_file"])


def test_a_gin_file_that_is_no_text_is_one_line(tmp_path):
    path = tmp_path / "a.gin"
    path.write_bytes(b"\xed\xa0\x80")
    with pytest.raises(UsageError, match=r"--gin_file=.*a\.gin: not UTF-8 text"):
        parser_for_gin().parse([f"--gin_file={path}"])


def test_a_text_is_needed_where_a_text_is_taken(tmp_path):
    """A number named a file."""
    config = write(tmp_path, COMMAND_CONFIG + "    MODEL = 1.5")
    with pytest.raises(UsageError, match=r"toy_command\.model=1\.5: must be a text in quotes"):
        parser_for_gin().parse([f"--gin_file={config}"])


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("toy_command.block_size = 'many'", "argument --block_size: invalid int value: 'many'"),
        ("toy_command.rule = 'blok'", "'blok' is not one of them: did you mean 'block'?"),
        ("toy_command.blok_size = 3", "toy_command has no parameter 'blok_size'"),
        ("MODEL = %gin.REQUIRED", "the macro MODEL needs a value: give --gin.MODEL=VALUE"),
    ],
)
def test_a_bad_value_in_a_gin_file_is_answered_as_the_flag_is(tmp_path, line, says):
    config = write(tmp_path, COMMAND_CONFIG + "    MODEL = 'm'\n    " + line)
    with pytest.raises(UsageError) as caught:
        parser_for_gin().parse([f"--gin_file={config}"])
    assert says in str(caught.value)


def test_a_task_is_called_by_another_name(tmp_path):
    """The nearest by letters is that of its lengths."""
    config = write(tmp_path, "MIXTURE_OR_TASK_NAME = 'a'\nTASK_FEATURE_LENGTHS = None\n")
    with pytest.raises(UsageError, match="macro TASK: did you mean 'MIXTURE_OR_TASK_NAME'"):
        parser_for_gin().parse([f"--gin_file={config}", "--gin.TASK=b"])


@pytest.mark.parametrize(
    ("command", "file", "macros", "flags"),
    [
        ("generate", "generate", {"MODEL": "m", "INPUT": "i", "OUTPUT": "o"}, {"input": "i", "seed": 0}),
        ("evaluate", "eval", {"MODEL": "['m', 'n']"}, {"model": ["m", "n"], "task": "wiki_leads"}),
        ("collect", "collect", {"TARGET": "m", "OUTPUT": "o"}, {"model": "m", "temperature": [1.0]}),
        ("collect", "collect", {"TARGET": "m", "OUTPUT": "o", "SHARD": "0/8"}, {"shard": "0/8"}),
        ("advise", "advise", {"TARGET": "m", "DRAFTER": "d"}, {"block_sizes": [1, 3, 5, 7], "target": "m"}),
    ],
)
def test_the_run_files_set_flags_that_their_commands_have(command, file, macros, flags, monkeypatch):
    seen = {}

    def parse(parser, argv):
        seen.update(vars(parse_flags(parser, argv)))
        raise KeyboardInterrupt

    parse_flags = CommandParser.parse
    monkeypatch.setattr(CommandParser, "parse", parse)
    argv = [f"--gin_file=runs/{file}.gin", *(f"--gin.{name}={value}" for name, value in macros.items())]
    if file in ("eval", "collect"):
        argv.insert(0, "--gin_file=tasks/wiki_leads.gin")
    with pytest.raises(KeyboardInterrupt):
        importlib.import_module(f"distillspec_jax.cli.{command}").main(argv)
    assert seen | flags == seen
