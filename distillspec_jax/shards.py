"""Shards: splits a run over independent processes, and merges their parts.

A run has an ordered list of units (requests, groups of cells, batches of rows). Shard I of N takes the I-th
of N contiguous shares, computes the same results as the whole run would, and writes them into its own folder
next to the run's output, `OUTPUT-0000I-of-0000N`, with a card (`shard.json`) that identifies the run.
`distillspec merge OUTPUT` reads the cards, rejects gaps, overlaps and parts of different runs, and joins the
parts in order.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec

from distillspec_jax import bounds, files, outputs, schema
from distillspec_jax.buckets import copies, stores
from distillspec_jax.errors import UsageError, shown

CARD = "shard.json"

_AUTO = {
    "JAX_PROCESS_ID": "JAX_NUM_PROCESSES",  # one process per host, without a scheduler
    "SLURM_ARRAY_TASK_ID": "SLURM_ARRAY_TASK_COUNT",  # sbatch --array=0-7
    "JOB_COMPLETION_INDEX": None,  # an indexed Job of Kubernetes does not report its number of pods
    "SLURM_PROCID": "SLURM_NTASKS",  # srun --ntasks=8
    "TPU_WORKER_ID": "TPU_WORKER_HOSTNAMES",  # a TPU slice on GKE; the names of its hosts
}
"""Variables with a process's index and with the number of processes; the first that is set is used."""

_SLICES = "MEGASCALE_NUM_SLICES"
_PER_SLICE = ("JOB_COMPLETION_INDEX", "TPU_WORKER_ID")
"""Variables whose indices begin anew in every slice of TPUs."""

_HOSTS = "DISTILLSPEC_MULTIHOST"

_FLAG = re.compile(r" --(shard|gin\.SHARD)[ =]('[^']*'|\S+)")
_PART = re.compile(r"-(\d{5})-of-(\d{5})")


@dataclasses.dataclass(frozen=True)
class Shard:
    """The share with index `index` among `count` equal shares of a run."""

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def of(self, units: int, what: str) -> range:
        """Computes the shard's share of a run's units; shares differ by at most one unit.

        Args:
          what: name of the units, for errors.

        Raises:
          UsageError: there are fewer units than shards.
        """
        if units < self.count:
            raise UsageError(
                f"--shard={self}: there are {units} {what} to share: use {units} shards or fewer"
            )
        return range(units * self.index // self.count, units * (self.index + 1) // self.count)

    def folder(self, output: str | Path) -> Path:
        """Returns the folder of this shard for a run that writes `output`."""
        whole = _named(output)
        return whole.with_name(f"{whole.name}-{self.index:05}-of-{self.count:05}")


def _named(output: str | Path) -> Path:
    """Returns an output as a path with a name, because numbers cannot be appended to `.` and `..`."""
    return Path(output) if Path(output).name not in ("", "..") else Path(os.path.abspath(output))


def several_hosts() -> bool:
    """Decides whether this process is one of several hosts, from `DISTILLSPEC_MULTIHOST`.

    Raises:
      UsageError: the variable is neither 1 or true nor 0, false or empty.
    """
    given = os.environ.get(_HOSTS, "")
    if given.lower() not in ("", "0", "1", "false", "true"):
        raise UsageError(f"{_HOSTS}={given!r}: write 1 for one of several hosts, or 0")
    return given.lower() in ("1", "true")


def parse(text: str) -> Shard:
    """Parses `I/N` with I from 0, `auto/N` with I from the scheduler's environment, or `auto` with both.

    Raises:
      UsageError: there is no such shard, the environment does not define it, or several hosts would take it.
    """
    index, slash, count = text.partition("/")
    if index != "auto" and several_hosts():
        raise UsageError(
            f"--shard={text}: with DISTILLSPEC_MULTIHOST every host would take it: write auto, a shard a host"
        )
    if index == "auto":
        index, count = _from_environment(text, count if slash else None)
    if not (index.isdecimal() and index.isascii() and count.isdecimal() and count.isascii()):
        raise UsageError(f"--shard={text}: write I/N, as 0/8 to 7/8, or auto/N for a scheduler's index")
    if len(count) > len(str(bounds.SHARDS)) or not 1 <= int(count) <= bounds.SHARDS:
        raise UsageError(f"--shard={text}: must be of 1 to {bounds.SHARDS} shards")
    if len(index) > len(count) or not int(index) < int(count):
        raise UsageError(f"--shard={text}: shard {index} is not one of 0/{count} to {int(count) - 1}/{count}")
    return Shard(int(index), int(count))


def _from_environment(text: str, count: str | None) -> tuple[str, str]:
    name = next((name for name in _AUTO if os.environ.get(name)), None)
    if name is None:
        raise UsageError(f"--shard={text}: none of {', '.join(_AUTO)} is set: name the shard, as 0/8")
    index = os.environ[name]
    if name in _PER_SLICE and os.environ.get(_SLICES, "1") != "1":
        slices = os.environ[_SLICES]
        raise UsageError(
            f"--shard={text}: each of {slices} slices ({_SLICES}) has {name}={index}: name the shard, as 0/8"
        )
    if count is None:
        count = os.environ.get(_AUTO[name] or "", "")
        if name == "TPU_WORKER_ID" and count:
            count = str(len(count.split(",")))
        last = os.environ.get("SLURM_ARRAY_TASK_MAX") if name == "SLURM_ARRAY_TASK_ID" else None
        # An array other than 0 to N-1 (e.g. one restarted task) does not determine N.
        if not count.isdecimal() or last not in (None, str(int(count) - 1)):
            lacks = f", and {_AUTO[name]} is not set" if _AUTO[name] and not count else ""
            raise UsageError(f"--shard={text}: {name}={index} does not say of how many{lacks}: write auto/N")
    if not index.isdecimal() or (count.isdecimal() and int(index) >= int(count)):
        raise UsageError(f"--shard={text}: {name}={index} is not one of 0 to N-1 of {count}")
    return index, count


_Name = Annotated[str, msgspec.Meta(pattern=r"^\w[\w.-]*$")]
"""A file directly in a part's folder."""


@dataclasses.dataclass(frozen=True)
class Part:
    """The card of a shard: the run, the share and the files.

    Attributes:
      command: the run's command.
      shard, shards: index of the share, and number of shares.
      units: number of units of the whole run.
      lines: files of the part that are concatenated, and the number of lines of each when complete.
      settings: everything that the run's results depend on; equal in all parts.
    """

    command: schema.Text
    shard: schema.Count
    shards: schema.Size
    units: schema.Count
    lines: dict[_Name, schema.Count]
    settings: dict[str, Any]

    def check(self, folder: Path) -> None:
        """Takes a folder for the run; rejects it if it holds anything but this part, complete or not.

        Raises:
          UsageError: names the difference.
        """
        outputs.take_folder(folder, CARD, names=[CARD, *self.lines])
        if (folder / CARD).is_file():
            own = Part(**json.loads(files.as_json(dataclasses.asdict(self))))  # as read back: without tuples
            _compare(read_card(folder), own, f"{folder} is part of", "this run: choose another output")

    def begin(self, folder: Path) -> None:
        """Writes the card if it does not exist."""
        if not (folder / CARD).is_file():
            files.write_json(folder / CARD, dataclasses.asdict(self))


def read_card(folder: Path) -> Part:
    """Reads the card of a part.

    Raises:
      UsageError: there is none, or it is not valid.
    """
    if not (folder / CARD).is_file():
        raise UsageError(f"{folder} is no part of a run: it has no {CARD}")
    return schema.read_file(Part, folder / CARD, "the card of a shard")


def _compare(one: Part, other: Part, before: str, after: str) -> None:
    """Rejects two parts of different runs; names the first difference."""
    pairs = [(name, getattr(one, name), getattr(other, name)) for name in ("command", "shards", "units")]
    names = dict.fromkeys([*one.settings, *other.settings])
    pairs += [(name, one.settings.get(name), other.settings.get(name)) for name in names]
    pairs.append(("list of files", [*one.lines], [*other.lines]))
    for name, here, there in pairs:
        if here != there:
            values = f"is {shown(here)}, not {shown(there)} as"
            told = values if shown(here) != shown(there) else "is another than"  # objects or lists look equal
            raise UsageError(f"{before} a run whose {name} {told} in {after}")


def find(output: str | Path) -> list[Path]:
    """Finds the folders of all parts of a run, in order; checks that they are complete and of one run.

    Args:
      output: the run's output.

    Raises:
      UsageError: there are no parts, one is missing or incomplete, a card contradicts its folder's name, or
        the parts are of different runs or numbers of shards; names the part.
    """
    whole = _named(output)
    numbered = {}
    for folder in _beside(whole):
        if match := _PART.fullmatch(folder.name.removeprefix(whole.name)):
            numbered[copies.local(folder)] = (int(match[1]), int(match[2]))
    if not numbered:
        run, left = stores.address(output), stores.address(Shard(0, 8).folder(output))
        raise UsageError(f"no shards of {run}: a run with --shard=0/8 would leave {left}")
    first, (_, count) = next(iter(numbered.items()))
    for folder, (_, of) in numbered.items():
        if of != count:
            raise UsageError(
                f"{first} is one of {count} shards, {folder} one of {of}: move away those of one run"
            )
    missing = [i for i in range(count) if i not in {index for index, _ in numbered.values()}]
    if missing:
        others = f", and {len(missing) - 1} more of {count}" if len(missing) > 1 else ""
        at = Shard(missing[0], count)
        raise UsageError(
            f"{stores.address(at.folder(output))} is missing{others}: run the same command with --shard={at}"
        )
    cards = {folder: read_card(folder) for folder in numbered}
    for folder, card in cards.items():
        if (card.shard, card.shards) != numbered[folder]:
            raise UsageError(
                f"{folder} holds shard {card.shard}/{card.shards} by its {CARD}, which overlaps with "
                "another: run the shard of its name again"
            )
        _compare(card, cards[first], f"{folder} is part of", str(first))
    for folder, card in cards.items():
        _check_whole(folder, card)
    return list(cards)


def _beside(whole: Path) -> list[Path]:
    """Lists the folders whose names begin with the output's, as its shards' do."""
    if stores.is_bucket(whole):
        return [whole.with_name(name) for name in copies.folders(whole.parent) if name.startswith(whole.name)]
    return [
        folder for folder in sorted(whole.parent.glob(f"{_escaped(whole.name)}-*-of-*")) if folder.is_dir()
    ]


def _escaped(name: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", name)


def _check_whole(folder: Path, card: Part) -> None:
    for name, expected in card.lines.items():
        path = folder / name
        outputs.reads(path)
        found = 0
        if path.is_file():
            with path.open("rb") as file:
                found = sum(block.count(b"\n") for block in iter(functools.partial(file.read, 1 << 20), b""))
        if found != expected:
            raise UsageError(
                f"{folder} is not finished ({found} of {expected} lines in {name}): run the same "
                f"command with --shard={card.shard}/{card.shards} again"
            )


def joined(folders: Sequence[Path], name: str, path: Path) -> None:
    """Concatenates the files of one name from all parts into a path."""
    with path.open("wb") as whole:
        for folder in folders:
            with (folder / name).open("rb") as part:
                shutil.copyfileobj(part, whole, 1 << 20)


def whole_command(command: Any) -> Any:
    """Returns the command of the whole run for its provenance: a shard's command without the shard flag."""
    return _FLAG.sub("", command) if isinstance(command, str) else command
