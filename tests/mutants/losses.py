"""The mutants of outputs: by each of them something of the user's was lost, or would be."""

from __future__ import annotations

from tests.mutants.catalog import Edit, Mutant

ATTACK = (
    "tests/attack/test_attack.py::test_nothing_is_lost_and_every_call_ends_in_one_line_or_well[losses]",
)

_OUTPUTS, _REQUESTS, _FILES = "outputs.py", "generation/request_files.py", "files.py"


def _lost(number: str, bug: str, *edits: tuple[str, str, str]) -> Mutant:
    return Mutant(f"L{number}", bug, tuple(Edit(*edit) for edit in edits), ATTACK)


LOSSES = (
    _lost(
        "1",
        "an output is not compared with what the run reads",
        (
            _OUTPUTS,
            "read = under_way.files.name_of(real)",
            "read = None",
        ),
    ),
    _lost(
        "2",
        "files that are read are known by their paths, so that a hard link is another file",
        (
            "run_inputs.py",
            "self._known[_inode(found)] = _Input(name, path.absolute(), found.st_mtime_ns)",
            "self._known[str(path.resolve())] = _Input(name, path.absolute(), found.st_mtime_ns)",
        ),
        ("run_inputs.py", "self._known.get(_inode(found))", "self._known.get(str(path.resolve()))"),
    ),
    _lost(
        "3",
        "generate writes over whatever file is there",
        (_REQUESTS, "    outputs.check(path, holds_answers)\n", "    outputs.check(path)\n"),
    ),
    _lost(
        "4",
        "a file called OUTPUT.partial is taken for the lines of an interrupted run",
        (
            _REQUESTS,
            "if foreign and not (began and (_is_torn(partial) or holds_answers(partial))):",
            "if partial.is_dir():",
        ),
    ),
    _lost(
        "5",
        "a file called OUTPUT.partial.settings is written over",
        (
            _REQUESTS,
            'outputs.check(settings, lambda there: "seed" in _fields(there.read_text(encoding="utf-8")))',
            "outputs.check(settings)",
        ),
    ),
    _lost(
        "6",
        "evaluate writes over whatever file is there",
        (
            "cli/evaluate.py",
            "outputs.check(flags.output, held_out.is_written)",
            "outputs.check(flags.output)",
        ),
        (
            "evaluation/held_out.py",
            "files.write_json(path, {name: one.summary for name, one in found.items()}, is_written)",
            "files.write_json(path, {name: one.summary for name, one in found.items()})",
        ),
    ),
    _lost(
        "7",
        "advise writes over whatever file is there",
        ("cli/advise.py", "outputs.check(flags.output, _is_ours)", "outputs.check(flags.output)"),
        (
            "cli/advise.py",
            "files.write_json(flags.output, dataclasses.asdict(found), _is_ours)",
            "files.write_json(flags.output, dataclasses.asdict(found))",
        ),
    ),
    _lost(
        "8",
        "report writes over whatever file is there",
        ("reports/html.py", "        head = file.read(4096)\n", "        return bool(file)\n"),
    ),
    _lost(
        "9",
        "a part of a checkpoint directory may be an output",
        (_OUTPUTS, "if is_ours and not _is_own(folder, under_way):", "if False:"),
    ),
    _lost(
        "10",
        "collect takes any folder over, another model's too",
        (_OUTPUTS, "if taken and not (card and (root / card).is_file()):", "if False:"),
    ),
    _lost(
        "11",
        "a sweep cuts off a last line that it did not write",
        (
            "evaluation/results.py",
            "if not cut_short.startswith(beginning[: len(cut_short)]):",
            "if not cut_short:",
        ),
    ),
    _lost(
        "12",
        "a device is replaced by a file",
        (
            _OUTPUTS,
            "return status is not None and not stat.S_ISREG(status.st_mode) and",
            "return False and",
        ),
    ),
    _lost(
        "13",
        "only /dev/null is known to be a device",
        (
            _OUTPUTS,
            "return status is not None and not stat.S_ISREG(status.st_mode) and",
            'return str(path) == "/dev/null" and',
        ),
    ),
    _lost(
        "14",
        "a temporary file has a name that the user's may have, and replaces it",
        (_FILES, 'f".partial-{secrets.token_hex(6)}{suffix}"', 'path.name + ".tmp"'),
        (_FILES, "os.O_CREAT | os.O_EXCL | os.O_WRONLY", "os.O_CREAT | os.O_TRUNC | os.O_WRONLY"),
    ),
    _lost(
        "15",
        "a link is replaced, and not the file that it leads to",
        (
            _OUTPUTS,
            "return Path(path) if is_special(path) else Path(path).resolve()",
            "return Path(os.path.abspath(path))",
        ),
    ),
    _lost(
        "16",
        "a new checkpoint may go into a folder that holds something",
        (
            "new_folders.py",
            "if not set(_entries(real)) <= set(_left(real)) and not (ours and ours(real)):",
            "if False:",
        ),
    ),
)
