"""Accuracy against cost: markers by family and cut, sized by a third quantity, and the Pareto front.

What was measured is filled, what others published is hollow, and each kind has a front of its own. Colours
are those of Okabe and Ito ("Color Universal Design", 2008), told apart by colour-blind readers; the cut is
told by the marker as well. matplotlib is imported when a figure is drawn, and nothing of its global state is
used.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from hmrbench.errors import DataError, UsageError
from hmrbench.nets.encoders.record import Family, known_families
from hmrbench.nets.record import REFERENCES
from hmrbench.records import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("png", "svg", "pdf")
LABELS = ("auto", "all", "front", "none")
MARKERS = {"S2": "^", "S3": "s", "S4": "o", "": "D"}
_FILLING = {"^": 1.45, "s": 0.8, "o": 1.0, "D": 0.72, "P": 0.9}  # brings the markers to one area for one size
_OTHERS = Family("others", "others", ("#595959", "#C8C8C8"))
# For families without a colour of their own, on white and on dark.
_MORE_COLOURS = (("#E69F00", "#E69F00"), ("#56B4E9", "#BBDDF5"), ("#000000", "#F0E442"), ("#A6761D", "#A6761D"))
_AREA_PT2 = (22.0, 300.0)  # smallest and largest marker
_PLAIN_AREA_PT2 = 48.0
_FEW = 6  # so many points are not spread over the whole plot: a difference of a thousandth is drawn as one
_SIZES_TELL = 1.5  # the largest size is so many times the smallest, or sizes say nothing
_AUTO_LABELS = 45  # more points than that: only those on a front get a label
_DASHES: tuple[Any, Any] = ("solid", (0, (3, 2)))  # of the front of measured and of published points
_DPI = 100.0  # of the layout; labels are placed in these pixels


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


def pareto_front(x: Array, y: Array, x_higher: bool = False, y_higher: bool = True) -> Array:
    """Which of N points no other point beats: (N,) bool.

    A point is beaten by one that is at least as good in both and better in one; of equal points all stay.

    Args:
        x: (N,) cost.
        y: (N,) accuracy.
        x_higher: whether more `x` is better, as with images per second.
        y_higher: whether more `y` is better; not so for errors.
    """
    cost = -np.asarray(x, np.float64) if x_higher else np.asarray(x, np.float64)
    gain = np.asarray(y, np.float64) if y_higher else -np.asarray(y, np.float64)
    as_good = (cost[:, None] <= cost) & (gain[:, None] >= gain)  # (N, N): row at least as good as column
    better = as_good & ((cost[:, None] < cost) | (gain[:, None] > gain))
    front: Array = np.logical_not(better.any(0))
    return front


# --------------------------------------------------------------------------- the figure


def accuracy_cost(
    points: Sequence[Point],
    x: Axis,
    y: Axis,
    size: Axis | None = None,
    *,
    front: bool = True,
    labels: str = "auto",
    dark: bool = False,
    width_in: float = 7.0,
    height_in: float = 4.4,
    y_range: tuple[float | None, float | None] = (None, None),
) -> tuple[Figure, list[str]]:
    """Draw accuracy against cost.

    Args:
        points: the models; `x`, `y` and `size` say what their numbers are.
        front: draw the Pareto front of the measured and of the published points.
        labels: all, front (only those on a front), none, or auto: all unless there are too many.
        y_range: lower and upper end of the accuracy axis; points beyond it are left out.

    Returns:
        The figure, and remarks on what it does not show.

    Raises:
        DataError: there is nothing to draw.
        UsageError: no such kind of labels.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if labels not in LABELS:
        raise UsageError(f"labels are {', '.join(LABELS)}, not '{labels}'")
    remarks = []
    low, high = y_range
    inside = [p for p in points if (low is None or p.y >= low) and (high is None or p.y <= high)]
    if len(inside) < len(points):
        remarks.append(f"{len(points) - len(inside)} points lie beyond the accuracy axis")
    if not inside:
        raise DataError("there is nothing to draw: no model has both numbers")
    ink, back = ("#d8dbe0", "#16181d") if dark else ("#222222", "#ffffff")
    colours = _family_colours(inside, dark)
    figure = Figure(figsize=(width_in, height_in), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    figure.patch.set_alpha(0.0 if dark else 1.0)
    axes = figure.add_subplot()
    _style(axes, inside, x, y, ink, y_range)
    sized = size is not None and _sizes_tell(inside)
    areas = _areas(inside) if sized else np.full(len(inside), _PLAIN_AREA_PT2)
    at = np.array([(p.x / x.scale, p.y / y.scale) for p in inside])
    on_front, corners = _fronts(axes, inside, at, x, y, ink if front else None)
    _draw_points(axes, inside, at, areas, colours, back)
    _legend(axes, inside, colours, size if sized else None, front, ink)
    chosen = labels if labels != "auto" else "all" if len(inside) <= _AUTO_LABELS else "front"
    wanted = [] if chosen == "none" else [i for i in range(len(inside)) if chosen == "all" or on_front[i]]
    measured = {inside[i].label for i in wanted if not inside[i].published}
    wanted = [i for i in wanted if not (inside[i].published and inside[i].label in measured)]
    if labels == "auto" and chosen == "front":
        remarks.append(f"{len(inside)} points: labels only on the front")
    remarks += _write_labels(axes, inside, at, areas, wanted, corners, ink, back)
    if sized and any(p.size is None for p in inside):
        remarks.append("drawn smallest where the size is not known")
    return figure, remarks


def _fronts(
    axes: Axes, points: Sequence[Point], at: Array, x: Axis, y: Axis, ink: str | None
) -> tuple[Array, list[Array]]:
    """Which points are on the front of their kind, and the corners of the fronts, drawn in `ink` (None: not drawn)."""
    on_front = np.zeros(len(points), bool)
    corners = []
    for published in (False, True):
        rows = np.array([i for i, p in enumerate(points) if p.published == published], np.intp)
        if not len(rows):
            continue
        higher = (x.higher_is_better is True, y.higher_is_better is not False)
        members = rows[pareto_front(at[rows, 0], at[rows, 1], *higher)]
        on_front[members] = True
        if ink is not None and len(members) > 1:
            corners.append(_draw_front(axes, at[members], higher[0], published, ink))
    return on_front, corners


def _draw_points(
    axes: Axes, points: Sequence[Point], at: Array, areas: Array, colours: Mapping[str, str], back: str
) -> None:
    """The markers, those of measured points last: a ring round the disc where both are known."""
    for i in np.lexsort((-areas, np.array([not p.published for p in points]))):
        p, colour = points[i], colours[points[i].family]
        axes.scatter(
            at[i, 0],
            at[i, 1],
            s=((areas[i] * _filling(p.cut)) ** 0.5 + (2.0 if p.published else 0.0)) ** 2,
            marker=MARKERS.get(p.cut, "P"),
            facecolors="none" if p.published else colour,
            edgecolors=colour if p.published else back,
            linewidths=1.3 if p.published else 0.7,
            zorder=3,
        )


def places(figure: Figure, points: Sequence[Point], x: Axis, y: Axis) -> list[tuple[float, float]]:
    """Where points lie in a figure of `accuracy_cost`: shares of its width from the left and height from the top.

    Args:
        points: those that were drawn, or some of them.
    """
    figure.draw_without_rendering()  # settles the layout
    at = figure.axes[0].transData.transform([(p.x / x.scale, p.y / y.scale) for p in points])
    shares = figure.transFigure.inverted().transform(at)
    return [(float(left), 1 - float(bottom)) for left, bottom in shares]


def to_bytes(figure: Figure, format: str, dpi: int = 300, outlines: bool = True) -> bytes:
    """A figure as a png, svg or pdf file; the same figure gives the same bytes.

    Args:
        dpi: of a png.
        outlines: letters of an svg as outlines, the same on every machine; else as text, ten times as small.

    Raises:
        UsageError: no such format.
    """
    import matplotlib as mpl

    if format not in FORMATS:
        raise UsageError(f"figures are written as {', '.join(FORMATS)}, not '{format}'")
    buffer = io.BytesIO()
    undated = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[format]
    letters = "path" if outlines else "none"
    with mpl.rc_context({"svg.hashsalt": "hmrbench", "svg.fonttype": letters, "pdf.fonttype": 42}):
        figure.savefig(buffer, format=format, dpi=dpi, metadata=undated)
    return buffer.getvalue()


def _families() -> dict[str, Family]:
    return known_families() | {family.name: family for family in (REFERENCES, _OTHERS)}


def _family_colours(points: Sequence[Point], dark: bool) -> dict[str, str]:
    """The colour of each family in the points, families with a colour of their own first."""
    known = _families()
    families = sorted(
        {p.family for p in points}, key=lambda f: (f not in known, list(known).index(f) if f in known else 0, f)
    )
    more = cycle(_MORE_COLOURS)
    pairs = {f: (known[f].colour if f in known else None) or next(more) for f in families}
    return {f: pair[dark] for f, pair in pairs.items()}


def _filling(cut: str) -> float:
    return _FILLING[MARKERS.get(cut, "P")]


def _sizes_tell(points: Sequence[Point]) -> bool:
    """Whether the third quantity differs enough to be seen as sizes."""
    known = [p.size for p in points if p.size]
    return bool(known) and max(known) >= _SIZES_TELL * min(known)


def _areas(points: Sequence[Point]) -> Array:
    """Marker areas in square points, in proportion to the third quantity."""
    largest = max(p.size or 0 for p in points)
    return np.array([max(_AREA_PT2[0], _AREA_PT2[1] * (p.size or 0) / largest) for p in points])


def _style(
    axes: Axes,
    points: Sequence[Point],
    x: Axis,
    y: Axis,
    ink: str,
    y_range: tuple[float | None, float | None],
) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.patch.set_alpha(0.0)
    costs = np.array([p.x / x.scale for p in points])
    scores = np.array([p.y / y.scale for p in points])
    few = len(points) <= _FEW
    if costs.min() > 0 and costs.max() / costs.min() > 6:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0), numticks=30))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
        span = np.log(costs.max() / costs.min())
        axes.set_xlim(costs.min() / np.exp(0.09 * span), costs.max() * np.exp(0.2 * span))
    elif few and costs.min() >= 0:
        axes.set_xlim(0, 1.25 * costs.max() or 1.0)
    else:
        span = np.ptp(costs) or abs(costs[0]) or 1.0
        axes.set_xlim(costs.min() - 0.09 * span, costs.max() + 0.2 * span)
    span = np.ptp(scores) or 1.0
    least = 0.1 * np.abs(scores).max() if few else 0.0  # of the axis; a tenth of the score
    room = max(0.1 * span, (least - span) / 2)
    low, high = y_range
    axes.set_ylim(scores.min() - room if low is None else low, scores.max() + room if high is None else high)
    words = {True: ", higher is better", False: ", lower is better", None: ""}
    axes.set_xlabel(x.title, color=ink, fontsize=9)
    axes.set_ylabel(y.title + (words[y.higher_is_better] if y.higher_is_better is False else ""), color=ink, fontsize=9)
    axes.tick_params(colors=ink, labelsize=8, length=3)
    axes.grid(color=ink, alpha=0.12, linewidth=0.6)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(ink)
        spine.set_linewidth(0.8)


def _draw_front(axes: Axes, at: Array, x_higher: bool, published: bool, ink: str) -> Array:
    """The front as a staircase, between two of whose points no better trade is known; returns its corners."""
    at = at[np.lexsort((at[:, 1], at[:, 0]))]
    turns = np.stack([at[:-1, 0], at[1:, 1]], 1) if x_higher else np.stack([at[1:, 0], at[:-1, 1]], 1)
    corners = np.empty((2 * len(at) - 1, 2))
    corners[::2], corners[1::2] = at, turns
    axes.plot(*corners.T, color=ink, alpha=0.5, linewidth=1.0, linestyle=_DASHES[published], zorder=2)
    return corners


def _legend(
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
    cuts = [c for c in MARKERS if any(p.cut == c for p in points)]
    if cuts != [""]:
        head("stages kept")
        for cut in cuts:
            mark(cut.removeprefix("S") or "no truncation", MARKERS[cut], 36 * _filling(cut))
    head("numbers")
    for published, name in ((False, "measured"), (True, "published")):
        if any(p.published == published for p in points):
            mark(name, hollow=published)
    for published, name in ((False, "Pareto front"), (True, "front of published")):
        if front and sum(p.published == published for p in points) > 1:
            entry(
                name,
                Line2D([0, 22], [5, 5], color=ink, alpha=0.5, linewidth=1.0, linestyle=_DASHES[published]),
            )
    if size is not None and any(p.size for p in points):
        head(size.title)
        known = [p.size / size.scale for p in points if p.size]
        largest = max(known)
        for value in _round_sizes(min(known), largest):
            mark(f"{value:g}", area=_AREA_PT2[1] * value / largest, hollow=True)
    column = VPacker(children=rows, pad=0, sep=3.5, align="left")
    axes.add_artist(
        AnchoredOffsetbox(
            "center left",
            child=column,
            frameon=False,
            bbox_to_anchor=(1.015, 0.5),
            bbox_transform=axes.transAxes,
            borderpad=0,
        )
    )


def _round_sizes(smallest: float, largest: float) -> list[float]:
    """Up to three round numbers for the legend, the last of them the largest cut to one digit."""
    step = 10.0 ** np.floor(np.log10(largest))
    top = float(np.floor(largest / step) * step)
    return [value for value in (top / 10, top / 2, top) if value >= smallest / 2]


def _write_labels(
    axes: Axes,
    points: Sequence[Point],
    at: Array,
    areas: Array,
    wanted: Sequence[int],
    fronts: Sequence[Array],
    ink: str,
    back: str,
) -> list[str]:
    """Write the labels where they are clear; returns a remark on those that found no place."""
    import textalloc

    if not wanted:
        return []
    figure: Any = axes.figure
    figure.draw_without_rendering()  # settles the layout
    with contextlib.redirect_stdout(io.StringIO()):  # it says there that no label found a place; we say it too
        allocate: Any = textalloc.allocate  # its annotations leave out what it takes
        _, _, texts, _ = allocate(
            axes,
            *at[wanted].T,
            [points[i].label for i in wanted],
            x_scatter=at[:, 0],
            y_scatter=at[:, 1],
            scatter_sizes=np.sqrt(areas),
            text_scatter_sizes=np.sqrt(areas[wanted]),
            x_lines=[front[:, 0] for front in fronts] or None,
            y_lines=[front[:, 1] for front in fronts] or None,
            textsize=7,
            textcolor=ink,
            linecolor=ink,
            linewidth=0.5,
            plot_kwargs={"alpha": 0.45, "zorder": 2},
            nbr_candidates=1000,
            max_distance=0.3,
            min_distance=0.008,
            margin=0.004,
            draw_all=False,
            zorder=5,
            bbox={"facecolor": back, "edgecolor": "none", "alpha": 0.7, "pad": 0.4},
        )
    for text in texts:
        if text is not None:
            text.set_in_layout(False)
    lost = [points[i].label for i, text in zip(wanted, texts, strict=True) if text is None]
    return [f"no room for the labels of {', '.join(lost)}"] if lost else []
