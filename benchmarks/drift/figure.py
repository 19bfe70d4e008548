"""The figure of a study: block efficiency over time by policy, and the processor seconds that were won."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.drift import accounting
from benchmarks.drift.accounting import Account, Span

WINDOW = 500
"""Requests in a point."""
_EVERY = 50


def draw(
    accounts: Mapping[str, Account],
    never: Account,
    turns: list[tuple[str, Span]],
    seconds_a_call: float,
) -> Figure:
    """Draws one seed: policies by name, each in its colour in both panels."""
    drawn = Figure(figsize=(9.5, 6.5), layout="constrained")
    upper, lower = drawn.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    for i, (policy, one) in enumerate(accounts.items()):
        points = list(accounting.windows(one, WINDOW))
        style = {"color": "0.45" if one.policy == never.policy else f"C{i - 1}", "lw": 1.6}
        upper.plot(
            [end - WINDOW / 2 for end, _ in points], [value for _, value in points], label=policy, **style
        )
        for at in one.changes():
            upper.axvline(at, color=style["color"], lw=0.8, ls=":")
        won_R = accounting.balance(one, never, seconds_a_call)
        lower.plot(range(0, len(won_R), _EVERY), won_R[::_EVERY], **style)
    for number, (name, (first, end)) in enumerate(turns):
        for axes in (upper, lower):
            axes.axvspan(first, end, color="0.93" if number % 2 else "1.0", lw=0, zorder=0)
        upper.text(
            (first + end) / 2, 1.01, name, transform=upper.get_xaxis_transform(), ha="center", fontsize=8
        )
    upper.set(ylabel="tokens a target call", xlim=(0, len(never.calls_R)))
    lower.set(xlabel="requests", ylabel="seconds saved − spent")
    upper.legend(fontsize=8, loc="lower left")
    lower.axhline(0.0, color="0.7", lw=0.8, zorder=1)
    return drawn


def save(drawn: Figure, path: Path) -> None:
    """Writes a figure that depends on its numbers alone."""
    drawn.savefig(path, dpi=110, metadata={"Software": None})
