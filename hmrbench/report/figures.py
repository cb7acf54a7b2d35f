"""Accuracy against cost: markers by family and cut, sized by a third quantity, and the Pareto front.

What was measured is filled, what others published is hollow, and each kind has a front of its own. Colours
are those of Okabe and Ito ("Color Universal Design", 2008), told apart by colour-blind readers; the cut is
told by the marker as well. matplotlib is imported when a figure is drawn, and nothing of its global state is
used.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hmrbench.errors import DataError, UsageError
from hmrbench.records import Array
from hmrbench.report.marks import (
    DASHES,
    Axis,
    Point,
    draw_legend,
    draw_points,
    family_colours,
    marker_areas,
    sizes_tell,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("png", "svg", "pdf")
LABELS = ("auto", "all", "front", "none")
_PLAIN_AREA_PT2 = 48.0
_FEW = 6  # so many points are not spread over the whole plot: a difference of a thousandth is drawn as one
_AUTO_LABELS = 45  # more points than that: only those on a front get a label
_DPI = 100.0  # of the layout; labels are placed in these pixels


@dataclass(frozen=True)
class FigureSettings:
    """What a figure shows, and how.

    Attributes:
        front: draw the Pareto front of the measured and of the published points.
        labels: all, front (only those on a front), none, or auto: all unless there are too many.
        dark: on a dark page.
        width_in: inches.
        height_in: inches.
        y_range: lower and upper end of the accuracy axis; points beyond it are left out.
    """

    front: bool = True
    labels: str = "auto"
    dark: bool = False
    width_in: float = 7.0
    height_in: float = 4.4
    y_range: tuple[float | None, float | None] = (None, None)


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
    settings: FigureSettings | None = None,
) -> tuple[Figure, list[str]]:
    """Draw accuracy against cost.

    Args:
        points: the models; `x`, `y` and `size` say what their numbers are.
        settings: what to show, and how.

    Returns:
        The figure, and remarks on what it does not show.

    Raises:
        DataError: there is nothing to draw.
        UsageError: no such kind of labels.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    s = settings or FigureSettings()
    if s.labels not in LABELS:
        raise UsageError(f"labels are {', '.join(LABELS)}, not '{s.labels}'")
    remarks = []
    low, high = s.y_range
    inside = [p for p in points if (low is None or p.y >= low) and (high is None or p.y <= high)]
    if len(inside) < len(points):
        remarks.append(f"{len(points) - len(inside)} points lie beyond the accuracy axis")
    if not inside:
        raise DataError("there is nothing to draw: no model has both numbers")
    ink, back = ("#d8dbe0", "#16181d") if s.dark else ("#222222", "#ffffff")
    colours = family_colours(inside, s.dark)
    figure = Figure(figsize=(s.width_in, s.height_in), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    figure.patch.set_alpha(0.0 if s.dark else 1.0)
    axes = figure.add_subplot()
    _style(axes, inside, x, y, ink, s.y_range)
    sized = size is not None and sizes_tell(inside)
    areas = marker_areas(inside) if sized else np.full(len(inside), _PLAIN_AREA_PT2)
    at = np.array([(p.x / x.scale, p.y / y.scale) for p in inside])
    on_front, corners = _fronts(axes, inside, at, x, y, ink if s.front else None)
    draw_points(axes, inside, at, areas, colours, back)
    draw_legend(axes, inside, colours, size if sized else None, s.front, ink)
    chosen = s.labels if s.labels != "auto" else "all" if len(inside) <= _AUTO_LABELS else "front"
    wanted = [] if chosen == "none" else [i for i in range(len(inside)) if chosen == "all" or on_front[i]]
    measured = {inside[i].label for i in wanted if not inside[i].published}
    wanted = [i for i in wanted if not (inside[i].published and inside[i].label in measured)]
    if s.labels == "auto" and chosen == "front":
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
    axes.plot(*corners.T, color=ink, alpha=0.5, linewidth=1.0, linestyle=DASHES[published], zorder=2)
    return corners


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
