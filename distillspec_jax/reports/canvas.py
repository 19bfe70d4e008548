"""One pair of matplotlib axes as inline SVG that takes its colours from the page.

matplotlib draws with placeholder colours, which are exchanged for CSS variables: one drawing serves light and
dark pages. Text stays text, so that it is sharp, selectable and read aloud. Every plot is small enough to be
legible at the width of a phone.
"""

from __future__ import annotations

import hashlib
import html
import io
import re
from collections.abc import Callable

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from distillspec_jax.terminal import shown

# A placeholder stands for the CSS variable of the same place in `_VARIABLES`.
FOREGROUND, MUTED, GRID = "#010101", "#020202", "#030303"
SERIES = ("#040404", "#050505", "#060606", "#070707", "#080808", "#090909")
MARKERS = ("o", "s", "^", "D", "v", "P")
"""A series has a marker of its own, too: colour alone tells nothing apart."""
DASHED = (0, (4, 3))
WIDTH, HEIGHT = 4.6, 3.1
"""Inches of a plot; one with a line a draft is taller."""
_VARIABLES = {
    FOREGROUND: "var(--text)",
    MUTED: "var(--muted)",
    GRID: "var(--rule)",
    **{color: f"var(--series-{i})" for i, color in enumerate(SERIES)},
}
_LONGEST_NAME = 40
"""Characters of a name that is drawn."""
_LEGEND = 72
"""Characters of a legend's line, with its handles."""
_STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a label may hold dollars
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": FOREGROUND,
    "axes.labelcolor": FOREGROUND,
    "axes.edgecolor": GRID,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "lines.linewidth": 1.8,
    "lines.markersize": 5.5,
    "legend.frameon": False,
    "legend.fontsize": 9,
}


def svg(draw: Callable[[Axes], None], title: str, height: float = HEIGHT) -> str:
    """Draws one pair of axes as an `<svg>` element that says what it shows.

    Args:
      draw: fills the axes.
      title: read aloud in the place of the drawing.
      height: inches; the width is the same for all.
    """
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        draw(figure.subplots())
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    # Several drawings share one page: their ids must not meet.
    name = f"p{hashlib.sha256(svg.encode()).hexdigest()[:8]}-"
    svg = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{name}", svg)
    for color, variable in _VARIABLES.items():
        svg = svg.replace(color, variable)
    svg = re.sub(r"font(-family)?: ([^;\"]*?)'?(DejaVu Sans|sans-serif)[^;\"]*", _page_font, svg)
    label = html.escape(shown(title), quote=True)
    head = f'<svg role="img" aria-label="{label}"'
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"| (width|height)="[\d.]+pt"', "", svg, count=4)  # HTML implies them
    return svg.replace("<svg", head, 1)


def legend(axes: Axes) -> None:
    """Puts a legend above the axes, where it hides nothing, in as many columns as fit."""
    longest = max(map(len, axes.get_legend_handles_labels()[1]), default=0)
    columns = max(1, min(3, _LEGEND // (longest + 6)))
    options = {"ncols": columns, "fontsize": 8, "columnspacing": 1.2, "handlelength": 1.6}
    axes.figure.legend(loc="outside upper left", **options)


def in_legend(name: str) -> str:
    """A name as a legend has it, which would leave out one that begins with a line below."""
    return f" {short(name)}" if name.startswith("_") else short(name)


def short(name: str) -> str:
    """A name as it is drawn; of a long one the middle is left out, or no room were left for the plot."""
    text = shown(name)
    half = _LONGEST_NAME // 2
    return text if len(text) <= _LONGEST_NAME else f"{text[:half]}…{text[-half:]}"


def _page_font(match: re.Match[str]) -> str:
    return "font-family: inherit" if match[1] else f"font: {match[2].strip()} var(--font)"
