"""How the figures grow, as a picture. Pure: figures to SVG."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10

from benchmarks.scheduler.measuring import Figures, of_rounds

WIDTH, HEIGHT = 360, 300
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 56, 44
SERIES = (("ours", "#0b6e4f", 17), ("HAMi v2.8.0", "#b5482a", -8))
"""Names, colours, and how far below its point a value stands: the peer is the upper line."""
FONT = "font-family='Helvetica, Arial, sans-serif'"


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart: what is shown of each figure over the number of nodes, both logarithmic, and the
    targets as nodes and value.
    """

    title: str
    of: Callable[[Figures], float]
    targets: tuple[tuple[int, float], ...] = ()


PANELS = (
    Panel(
        "filter without the PATCH, p50, ms",
        lambda f: of_rounds(f.without, 0.5),
        ((1_000, 2.0), (5_000, 8.0)),
    ),
    Panel("CPU of the scheduler a filter, ms", lambda f: f.cpu_ms),
    Panel("memory, MiB", lambda f: f.memory_last, ((1_000, 250.0),)),
)


def picture(found: Sequence[Figures]) -> str:
    """The three panels side by side."""
    parts = [_panel(panel, found, number * WIDTH) for number, panel in enumerate(PANELS)]
    width = WIDTH * len(PANELS)
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{width}' height='{HEIGHT}' "
        f"viewBox='0 0 {width} {HEIGHT}' {FONT} font-size='11'>\n"
        f"<rect width='{width}' height='{HEIGHT}' fill='white'/>\n"
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _panel(panel: Panel, found: Sequence[Figures], offset: int) -> str:
    shown = [(f.name, f.nodes, panel.of(f)) for f in found if panel.of(f) > 0]
    across = _Scale([n for _, n, _ in shown], offset + LEFT + 12, offset + WIDTH - RIGHT - 20)
    up = _Scale(
        [value for *_, value in shown] + [value for _, value in panel.targets],
        HEIGHT - BOTTOM,
        TOP,
        whole=True,
    )
    parts = [_text(offset + LEFT, 22, panel.title, weight="bold")]
    for mark in up.marks:
        y = up.at(mark)
        parts.append(
            f"<line x1='{offset + LEFT}' y1='{y:.1f}' x2='{offset + WIDTH - RIGHT}' y2='{y:.1f}' "
            "stroke='#dddddd'/>"
        )
        parts.append(_text(offset + LEFT - 6, y + 4, f"{mark:,g}", anchor="end"))
    parts += [
        _text(across.at(nodes), HEIGHT - BOTTOM + 16, f"{nodes:,}", "middle")
        for nodes in sorted({nodes for _, nodes, _ in shown})
    ]
    parts.append(_text((across.first + across.last) / 2, HEIGHT - 10, "nodes of 8 cards", "middle"))
    for number, (name, colour, below) in enumerate(SERIES):
        points = sorted((nodes, value) for one, nodes, value in shown if one == name)
        if not points:
            continue
        line = " ".join(f"{across.at(nodes):.1f},{up.at(value):.1f}" for nodes, value in points)
        parts.append(f"<polyline points='{line}' fill='none' stroke='{colour}' stroke-width='2'/>")
        for nodes, value in points:
            x, y = across.at(nodes), up.at(value)
            parts.append(f"<circle cx='{x:.1f}' cy='{y:.1f}' r='3.5' fill='{colour}'/>")
            parts.append(_text(x, y + below, _shown(value), "middle", colour=colour))
        parts.append(_text(offset + LEFT + 70 * number, 38, name, weight="bold", colour=colour))
    for nodes, value in panel.targets:
        x, y = across.at(nodes), up.at(value)
        parts.append(
            f"<line x1='{x - 14:.1f}' y1='{y:.1f}' x2='{x + 14:.1f}' y2='{y:.1f}' stroke='#333333' "
            "stroke-width='2' stroke-dasharray='4 2'/>"
        )
        parts.append(_text(x - 18, y + 4, f"target {value:g}", "end"))
    return "\n".join(parts)


class _Scale:
    """A logarithmic axis from the smallest to the largest value; `whole` widens it to powers of
    ten, which are its `marks`.
    """

    def __init__(
        self, values: Sequence[float], first: float, last: float, *, whole: bool = False
    ) -> None:
        low, high = log10(min(values)), log10(max(values))
        if whole:
            low, high = floor(low), max(ceil(high), floor(low) + 1)
        self._low, self._high = low, high if high > low else low + 1
        self.first, self.last = first, last
        self.marks = [10.0**power for power in range(ceil(low), floor(self._high) + 1)]

    def at(self, value: float) -> float:
        share = (log10(value) - self._low) / (self._high - self._low)
        return self.first + share * (self.last - self.first)


def _shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _text(
    x: float,
    y: float,
    text: str,
    anchor: str = "start",
    weight: str = "normal",
    colour: str = "#333333",
) -> str:
    return (
        f"<text x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}' font-weight='{weight}' "
        f"fill='{colour}' stroke='white' stroke-width='3' paint-order='stroke'>{text}</text>"
    )
