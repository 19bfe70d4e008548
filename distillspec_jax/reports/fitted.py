"""Tables that fit a terminal: cells wrap between words, and what is still too wide becomes a list.

Nothing is ever cut inside a word: `0,10,19,29` and paths stay whole, to be read and copied. Nor is anything
taken for markup, or obeyed by the terminal.
"""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Sequence
from typing import NamedTuple

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from distillspec_jax.terminal import shown


class Column(NamedTuple):
    """A column.

    Attributes:
      name: its heading.
      is_text: words, on the left; numbers stand on the right.
      is_key: says which line it is; a list puts it in front.
    """

    name: str
    is_text: bool = False
    is_key: bool = False


def print_table(
    console: Console,
    columns: Sequence[Column],
    lines: Sequence[Sequence[str]],
    *,
    title: str = "",
    ends: Collection[int] = (),
) -> None:
    """Prints a table, or a list where the console is too narrow for one.

    Args:
      lines: a cell for every column.
      title: printed above.
      ends: numbers of the lines that end a section.
    """
    columns = [column._replace(name=shown(column.name)) for column in columns]
    lines = [[shown(cell) for cell in line] for line in lines]
    if title:
        print_text(console, title)
    chosen = widths(columns, lines, console.width)
    if chosen is None:
        for line in lines:
            print_text(console, *_entry(columns, line))
        console.print()
        return
    padding = int(sum(chosen) + 2 * len(columns) < console.width)  # two blanks between columns where they fit
    made = Table(box=box.SIMPLE_HEAD, padding=(0, padding, 0, 0))
    for column, width in zip(columns, chosen, strict=True):
        made.add_column(Text(column.name), justify="left" if column.is_text else "right", width=width)
    for number, line in enumerate(lines):
        made.add_row(*map(Text, line), end_section=number in ends)
    console.print(made)


def print_text(console: Console, *paragraphs: str) -> None:
    """Prints paragraphs wrapped between words; all but the first are indented."""
    for number, paragraph in enumerate(paragraphs):
        indent = "  " if number else ""
        wrapped = textwrap.fill(
            shown(paragraph),
            console.width,
            initial_indent=indent,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
        console.print(Text(wrapped), soft_wrap=True)


def widths(columns: Sequence[Column], lines: Sequence[Sequence[str]], total: int) -> list[int] | None:
    """Chooses a width for every column: headings wrap first, keys last; None if even words do not fit."""
    cells = [[line[i] for line in lines] for i in range(len(columns))]
    heads = [column.name for column in columns]
    whole = [max(map(cell_len, (head, *of))) for head, of in zip(heads, cells, strict=True)]
    headed = [max(_word(head), *map(cell_len, of), 0) for head, of in zip(heads, cells, strict=True)]
    least = [max(map(_word, (head, *of))) for head, of in zip(heads, cells, strict=True)]
    room = total - len(columns) - 1  # a blank between columns, and the edges
    keyed = [h if column.is_key else w for column, h, w in zip(columns, headed, least, strict=True)]
    chosen = whole
    for floor in (headed, keyed, least):
        chosen = list(chosen)
        while sum(chosen) > room and chosen != floor:
            widest = max(range(len(chosen)), key=lambda i: chosen[i] - floor[i])
            chosen[widest] -= 1
    return chosen if sum(chosen) <= room else None


def _word(text: str) -> int:
    return max(map(cell_len, text.split()), default=0)


def _entry(columns: Sequence[Column], line: Sequence[str]) -> tuple[str, str]:
    """A line as a paragraph of its keys and one of its numbers."""
    named = list(zip(columns, line, strict=True))
    keys = [(column.name, cell) for column, cell in named if column.is_key and cell != "–"]
    said = (f"{name} = {cell}" if cell[:1].isdigit() else cell for name, cell in keys)
    return ", ".join(said), "; ".join(f"{column.name}: {cell}" for column, cell in named if not column.is_key)
