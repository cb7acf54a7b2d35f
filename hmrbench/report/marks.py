"""What stands for a model in a figure: colours, markers, sizes, and the legend that says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from hmrbench.nets.encoders.record import Family, known_families
from hmrbench.nets.record import REFERENCES
from hmrbench.records import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
MARKERS = {"S2": "^", "S3": "s", "S4": "o", "": "D"}
_KINDS = ("o", "s", "^", "v", "<", ">", "p", "h", "X", "*", "d")  # of other cuts, such as runtimes, in order
_FILLING = {"^": 1.45, "s": 0.8, "o": 1.0, "D": 0.72, "P": 0.9}  # brings the markers to one area for one size
_OTHERS = Family("others", "others", ("#595959", "#C8C8C8"))
# For families without a colour of their own, on white and on dark.
_MORE_COLOURS = (("#E69F00", "#E69F00"), ("#56B4E9", "#BBDDF5"), ("#000000", "#F0E442"), ("#A6761D", "#A6761D"))
_AREA_PT2 = (22.0, 300.0)  # smallest and largest marker
_SIZES_TELL = 1.5  # the largest size is so many times the smallest, or sizes say nothing
DASHES: tuple[Any, Any] = ("solid", (0, (3, 2)))  # of the front of measured and of published points


@dataclass(frozen=True)
class Axis:
    """What lies along an axis: title, what a value is divided by, which way is better (None: neither)."""

    title: str
    scale: float = 1.0
    higher_is_better: bool | None = None


@dataclass(frozen=True)
class Point:
    """One model in a plot. `size` is the third quantity; `published` says that others reported `y`."""

    label: str
    family: str
    cut: str
    x: float
    y: float
    size: float | None = None
    published: bool = False


def draw_points(
    axes: Axes, points: Sequence[Point], at: Array, areas: Array, colours: Mapping[str, str], back: str
) -> None:
    """The markers, those of measured points last: a ring round the disc where both are known."""
    markers = _markers(points)
    for i in np.lexsort((-areas, np.array([not p.published for p in points]))):
        p, colour = points[i], colours[points[i].family]
        axes.scatter(
            at[i, 0],
            at[i, 1],
            s=((areas[i] * _FILLING.get(markers[p.cut], 1.0)) ** 0.5 + (2.0 if p.published else 0.0)) ** 2,
            marker=markers[p.cut],
            facecolors="none" if p.published else colour,
            edgecolors=colour if p.published else back,
            linewidths=1.3 if p.published else 0.7,
            zorder=3,
        )


def _families() -> dict[str, Family]:
    return known_families() | {family.name: family for family in (REFERENCES, _OTHERS)}


def family_colours(points: Sequence[Point], dark: bool) -> dict[str, str]:
    """The colour of each family in the points, families with a colour of their own first."""
    known = _families()
    families = sorted(
        {p.family for p in points}, key=lambda f: (f not in known, list(known).index(f) if f in known else 0, f)
    )
    more = cycle(_MORE_COLOURS)
    pairs = {f: (known[f].colour if f in known else None) or next(more) for f in families}
    return {f: pair[dark] for f, pair in pairs.items()}


def _markers(points: Sequence[Point]) -> dict[str, str]:
    """The marker of each cut in the points."""
    cuts = dict.fromkeys(p.cut for p in points)
    others = sorted(c for c in cuts if c not in MARKERS)
    known = {c: m for c, m in MARKERS.items() if c in cuts}
    return {**known, **dict(zip(others, cycle(_KINDS), strict=False))}


def sizes_tell(points: Sequence[Point]) -> bool:
    """Whether the third quantity differs enough to be seen as sizes."""
    known = [p.size for p in points if p.size]
    return bool(known) and max(known) >= _SIZES_TELL * min(known)


def marker_areas(points: Sequence[Point]) -> Array:
    """Marker areas in square points, in proportion to the third quantity."""
    largest = max(p.size or 0 for p in points)
    return np.array([max(_AREA_PT2[0], _AREA_PT2[1] * (p.size or 0) / largest) for p in points])


def draw_legend(
    axes: Axes, points: Sequence[Point], colours: Mapping[str, str], size: Axis | None, front: bool, ink: str
) -> None:
    """One column right of the plot: what colour, marker, filling and size mean."""
    from matplotlib.lines import Line2D
    from matplotlib.offsetbox import AnchoredOffsetbox, DrawingArea, HPacker, TextArea, VPacker

    rows: list[Any] = []

    def head(text: str) -> None:
        rows.append(TextArea(text, textprops={"color": ink, "fontsize": 8, "fontweight": "bold"}))

    def entry(text: str, line: Line2D, height: float = 10.0) -> None:
        box = DrawingArea(22, height)
        box.add_artist(line)
        words = TextArea(text, textprops={"color": ink, "fontsize": 8})
        rows.append(HPacker(children=[box, words], pad=0, sep=4, align="center"))

    def mark(text: str, marker: str = "o", area: float = 36.0, colour: str = ink, hollow: bool = False) -> None:
        height = max(10.0, area**0.5 + 2)
        face, width = ("none", 1.3) if hollow else (colour, 0.0)
        line = Line2D([11], [height / 2], marker=marker, markersize=area**0.5, markeredgecolor=colour)
        line.set(markerfacecolor=face, markeredgewidth=width)
        entry(text, line, height)

    head("backbone")
    for family, colour in colours.items():
        mark(_families()[family].title if family in _families() else family, colour=colour)
    markers = _markers(points)
    if list(markers) != [""]:
        head("stages kept" if markers.keys() <= MARKERS.keys() else "run by")
        for cut, marker in markers.items():
            text = (cut.removeprefix("S") or "no truncation") if cut in MARKERS else cut
            mark(text, marker, 36 * _FILLING.get(marker, 1.0))
    head("numbers")
    for published, name in ((False, "measured"), (True, "published")):
        if any(p.published == published for p in points):
            mark(name, hollow=published)
    for published, name in ((False, "Pareto front"), (True, "front of published")):
        if front and sum(p.published == published for p in points) > 1:
            entry(
                name,
                Line2D([0, 22], [5, 5], color=ink, alpha=0.5, linewidth=1.0, linestyle=DASHES[published]),
            )
    if size is not None and any(p.size for p in points):
        head(size.title)
        known = [p.size / size.scale for p in points if p.size]
        largest = max(known)
        for value in _round_sizes(min(known), largest):
            mark(f"{value:g}", area=_AREA_PT2[1] * value / largest, hollow=True)
    column = VPacker(children=rows, pad=0, sep=3.5, align="left")
    place: dict[str, Any] = {"bbox_to_anchor": (1.015, 0.5), "bbox_transform": axes.transAxes, "borderpad": 0}
    axes.add_artist(AnchoredOffsetbox("center left", child=column, frameon=False, **place))


def _round_sizes(smallest: float, largest: float) -> list[float]:
    """Up to three round numbers for the legend, the last of them the largest cut to one digit."""
    step = 10.0 ** np.floor(np.log10(largest))
    top = float(np.floor(largest / step) * step)
    return [value for value in (top / 10, top / 2, top) if value >= smallest / 2]
