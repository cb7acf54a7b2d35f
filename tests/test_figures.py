"""Plots: the front, labels that do not overlap, colours, formats, measured and published points."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.text import Text
from test_cli import hmrbench
from test_tables import CARDS, eval_row, gather, profile_row, save

from hmrbench.errors import DataError, UsageError
from hmrbench.nets.encoders.record import known_families
from hmrbench.records import Array
from hmrbench.report import figures, marks, plots
from hmrbench.report.figures import FigureSettings
from hmrbench.report.marks import Axis, Point
from hmrbench.report.references import load_references

MACS, AP = Axis("MACs (G)", 1e9, False), Axis("AP (%)", 1.0, True)


def zoo_points(seed: int = 0) -> list[Point]:
    """As many points as the paper has pose models, crowded as they are there, and some published."""
    rng = np.random.default_rng(seed)
    found = []
    for family, top in (("swin", 74.5), ("gmf", 76.5), ("vmamba", 75.5)):
        for size, macs in (("T", 4.5), ("S", 8.0), ("B", 15.0)):
            for cut, share in (("S2", 0.45), ("S3", 0.85), ("S4", 1.0)):
                y = top + 0.9 * np.log(macs / 4.5) - (1.6 if cut == "S2" else 0) + rng.normal(0, 0.15)
                x = 1e9 * macs * share * rng.uniform(0.95, 1.05)
                found.append(Point(f"{family.title()}Pose-{size}-{cut}", family, cut, x, y, 6 * x / 1e3))
    for size, macs, y in (("S", 6.1, 73.8), ("B", 17.9, 75.8), ("L", 59.8, 78.3), ("H", 122.9, 79.1)):
        found += [Point(f"ViTPose-{size}", "vit", "", 1e9 * macs, y - 0.03 * k, 6e6 * macs, k == 0) for k in (0, 1)]
    return found


# --------------------------------------------------------------------------- the front


@pytest.mark.parametrize("x_higher", [False, True])
@pytest.mark.parametrize("y_higher", [False, True])
def test_front_is_what_nothing_beats(x_higher: bool, y_higher: bool) -> None:
    rng = np.random.default_rng(1)
    x, y = rng.integers(0, 6, (2, 30)).astype(float)  # many ties
    front = figures.pareto_front(x, y, x_higher, y_higher)

    def at_least(a: float, b: float, higher: bool) -> bool:
        return a >= b if higher else a <= b

    for i in range(30):
        beaten = any(
            at_least(x[j], x[i], x_higher) and at_least(y[j], y[i], y_higher) and (x[j], y[j]) != (x[i], y[i])
            for j in range(30)
        )
        assert front[i] != beaten


# --------------------------------------------------------------------------- labels


def boxes_of(figure: Any) -> tuple[dict[str, Array], Any]:
    """Extents (left, bottom, right, top) in pixels of the labels in a figure, and its axes."""
    axes = figure.axes[0]
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    found = {}
    for text in axes.texts:  # the words alone, without the line to the point
        found[text.get_text()] = np.array(Text.get_window_extent(text, renderer).extents)
    return found, axes


def touch(a: Array, b: Array) -> bool:
    return bool((a[:2] < b[2:]).all() and (b[:2] < a[2:]).all())


@pytest.mark.parametrize("seed", range(3))
def test_labels_do_not_overlap(seed: int) -> None:
    points = zoo_points(seed)
    figure, remarks = figures.accuracy_cost(points, MACS, AP, Axis("parameters (M)", 1e6, False))
    boxes, axes = boxes_of(figure)
    assert set(boxes) == {p.label for p in points}
    assert remarks == []
    for a, b in combinations(boxes, 2):
        assert not touch(boxes[a], boxes[b]), (a, b)
    inside = np.array(axes.get_window_extent().extents)
    for name, box in boxes.items():
        assert (box[:2] > inside[:2]).all(), name
        assert (box[2:] < inside[2:]).all(), name
        for p in points:  # no label covers the middle of a marker, its own or another's
            at = axes.transData.transform((p.x / 1e9, p.y))
            assert not ((box[:2] < at).all() and (at < box[2:]).all()), (name, p.label)


def test_labels_without_room_are_said_to_be_missing() -> None:
    points = [Point(f"model {i}", "swin", "S3", 1e9 + i, 70 + 1e-6 * i) for i in range(20)]
    figure, remarks = figures.accuracy_cost(points, MACS, AP, settings=FigureSettings(width_in=3.2, height_in=1.6))
    boxes, _ = boxes_of(figure)
    assert any(r.startswith("no room for the labels of") for r in remarks)
    assert 0 < len(boxes) < 20
    for a, b in combinations(boxes.values(), 2):
        assert not touch(a, b)


@pytest.mark.parametrize(("labels", "count"), [("none", 0), ("all", 31), ("front", None)])
def test_kinds_of_labels(labels: str, count: int | None) -> None:
    boxes, _ = boxes_of(figures.accuracy_cost(zoo_points(), MACS, AP, settings=FigureSettings(labels=labels))[0])
    assert len(boxes) == count if count is not None else 2 < len(boxes) < 20


def test_too_many_points_are_labelled_on_the_front_only() -> None:
    points = [Point(f"m{i}", "swin", "S3", 1e9 * (1 + i), 60.0 - (i % 7)) for i in range(60)]
    figure, remarks = figures.accuracy_cost(points, MACS, AP)
    assert "60 points: labels only on the front" in remarks
    assert set(boxes_of(figure)[0]) == {"m0"}


# --------------------------------------------------------------------------- colours and marks


def test_colours_are_told_apart_by_colour_blind_readers() -> None:
    """Protanopia, deuteranopia and tritanopia as Machado et al. (2009), severity 1; distance in CIE Lab."""
    seen_by = {
        "all": np.eye(3),
        "protanopia": [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ],
        "deuteranopia": [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ],
        "tritanopia": [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ],
    }

    def lab(colour: str, matrix: Any) -> Array:
        srgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
        linear = np.clip(np.asarray(matrix) @ linear, 0, 1)
        xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ linear
        f = np.cbrt(xyz / (0.9505, 1.0, 1.089))
        return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])

    families = [Point(f, f, "S3", 1.0, 1.0) for f in marks._families()]
    assert {*known_families(), "references", "others"} == set(marks._families())
    for dark in (False, True):
        colours = marks.family_colours(families, dark)
        for reader, matrix in seen_by.items():
            for a, b in combinations(colours.values(), 2):
                assert np.linalg.norm(lab(a, matrix) - lab(b, matrix)) > 14, (reader, dark, a, b)


def test_measured_is_filled_and_published_is_hollow() -> None:
    points = [Point("a", "swin", "S3", 1e9, 70.0), Point("b", "swin", "S3", 2e9, 71.0, published=True)]
    figure, _ = figures.accuracy_cost(points, MACS, AP)
    faces = {tuple(c.get_offsets()[0]): c.get_facecolor() for c in figure.axes[0].collections}
    assert len(faces[(1.0, 70.0)]) == 1
    assert len(faces[(2.0, 71.0)]) == 0


def test_size_is_in_proportion_to_the_third_quantity() -> None:
    points = [Point(str(i), "swin", "S4", 1e9 * i, 70.0, 100e6 * i) for i in (1, 2, 4)]
    figure, _ = figures.accuracy_cost(points, MACS, AP, Axis("parameters (M)", 1e6))
    areas = sorted(float(c.get_sizes()[0]) for c in figure.axes[0].collections)
    np.testing.assert_allclose(np.array(areas) / areas[0], [1, 2, 4])


def test_axes_say_what_they_show() -> None:
    figure, _ = figures.accuracy_cost(zoo_points(), MACS, Axis("MPJPE on 3dpw-test (mm)", 1.0, False))
    axes = figure.axes[0]
    assert axes.get_xscale() == "log"
    assert axes.get_xlabel() == "MACs (G)"
    assert axes.get_ylabel() == "MPJPE on 3dpw-test (mm), lower is better"


def test_a_range_leaves_points_out_and_says_so() -> None:
    points = [Point("a", "swin", "S3", 1e9, 70.0), Point("b", "swin", "S3", 2e9, 40.0)]
    figure, remarks = figures.accuracy_cost(points, MACS, AP, settings=FigureSettings(y_range=(60, 80)))
    assert set(boxes_of(figure)[0]) == {"a"}
    assert remarks == ["1 points lie beyond the accuracy axis"]
    with pytest.raises(DataError, match="nothing to draw"):
        figures.accuracy_cost(points, MACS, AP, settings=FigureSettings(y_range=(90, 99)))


@pytest.mark.parametrize(("format", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_the_same_figure_gives_the_same_file(format: str, start: bytes) -> None:
    first, second = (
        figures.to_bytes(figures.accuracy_cost(zoo_points()[:8], MACS, AP)[0], format, 80) for _ in range(2)
    )
    assert first.startswith(start)
    assert first == second


def test_unknown_formats_and_labels() -> None:
    with pytest.raises(UsageError, match="png, svg, pdf"):
        figures.to_bytes(figures.accuracy_cost(zoo_points()[:2], MACS, AP)[0], "gif")
    with pytest.raises(UsageError, match="labels are"):
        figures.accuracy_cost(zoo_points(), MACS, AP, settings=FigureSettings(labels="some"))


# --------------------------------------------------------------------------- from runs


def test_points_of_cost_and_published_alone(tmp_path: Path) -> None:
    table = gather(save(tmp_path, *(profile_row(n) for n in ("gmfpose-t-s3", "gmfpose-t-s4", "gmfpose-t-s2"))))
    points, remarks = plots.points(table, "macs", "coco-val:AP", "params", "hpe")
    assert [(p.label, p.family, p.cut, p.y, p.published) for p in points] == [
        ("GMFPose-T-S3", "gmf", "S3", 75.7, True),
        ("GMFPose-T-S4", "gmf", "S4", 75.8, True),
    ]
    assert points[0].size == 9_641_537
    assert remarks == ["not drawn, MACs (G) or AP on coco-val (%) is not known: GMFPose-T-S2"]


def test_untrained_and_partial_scores_are_not_drawn(tmp_path: Path) -> None:
    save(tmp_path, *(profile_row(n) for n in ("vitpose-s", "vitpose-b", "vitpose-l")))
    save(tmp_path, eval_row("vitpose-s", weights="random"), eval_row("vitpose-b", partial=True, samples=3))
    save(tmp_path, eval_row("vitpose-l"))
    table = gather(tmp_path)
    points, remarks = plots.points(table, "macs", "coco-val:AP", None, "hpe")
    assert [(p.label, p.published) for p in points] == [
        ("ViTPose-S", True),
        ("ViTPose-B", True),
        ("ViTPose-L", False),
        ("ViTPose-L", True),
    ]
    assert remarks == ["not drawn, untrained weights: ViTPose-S"]
    points, _ = plots.points(table, "macs", "coco-val:AP", None, "hpe", untrained=True)
    assert [p.label for p in points if not p.published] == ["ViTPose-S", "ViTPose-L"]


def test_reference_rows_are_published_points(tmp_path: Path) -> None:
    table = gather(save(tmp_path, profile_row("vitpose-s")), references=load_references())
    points, _ = plots.points(table, "macs", "coco-val:AP", "params", "hpe")
    assert all(p.published for p in points)
    assert {"HRNet-W32 256x192", "HRNet-W32 384x288"} < {p.label for p in points}
    # Who is given no boxes has an axis of its own, which must be asked for by its whole name.
    assert "LitePose-Auto-S" not in {p.label for p in points}
    points, _ = plots.points(table, "macs", plots.find_key(table, "coco-val (no boxes):ap"), "params", "hpe")
    assert {p.label: p.y for p in points} == {
        f"LitePose-Auto-{size}": ap for size, ap in (("L", 62.5), ("M", 59.8), ("S", 56.8), ("XS", 40.6))
    }


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("ap", "coco-val:AP"),
        ("MACs", "macs"),
        ("rate", "images_per_s"),
        ("Phi_P_2D", "Phi_P_2D"),
        ("latency", "latency_ms"),
    ],
)
def test_keys_by_the_words_of_people(tmp_path: Path, name: str, key: str) -> None:
    assert plots.find_key(gather(save(tmp_path, eval_row("vitpose-s"), profile_row("vitpose-s"))), name) == key


def test_a_score_of_several_data_sets_must_be_named(tmp_path: Path) -> None:
    table = gather(save(tmp_path, *(eval_row("hmr2-s", d) for d in ("3dpw-test", "h36m-val-p2"))))
    with pytest.raises(UsageError, match=r"'MPJPE' is measured on 2 data sets.*3dpw-test:MPJPE"):
        plots.find_key(table, "MPJPE")
    with pytest.raises(UsageError, match="'energy' is in no row"):
        plots.find_key(table, "energy")


# --------------------------------------------------------------------------- few points


def test_few_points_are_not_spread_over_the_plot() -> None:
    """A difference of a thousandth looks like one, and costs begin at zero."""
    points = [Point(f"m{i}", "swin", "S2", (2.8 + 0.2 * i) * 1e9, 172.7 + 0.06 * i, 4e6 + i) for i in range(3)]
    figure, _ = figures.accuracy_cost(points, MACS, Axis("MPJPE (mm)", 1.0, False), Axis("parameters (M)", 1e6, False))
    axes = figure.axes[0]
    low, high = axes.get_ylim()
    assert high - low == pytest.approx(17.28, abs=0.1)
    assert low < 172.7 < 172.82 < high
    assert axes.get_xlim()[0] == 0
    sizes = {float(c.get_sizes()[0]) for c in axes.collections}
    assert len(sizes) == 1  # a millionth more parameters is no larger circle
    words = [t.get_text() for t in figure.findobj(Text)]
    assert "parameters (M)" not in words


def test_sizes_in_the_legend_are_of_the_points() -> None:
    assert marks._round_sizes(3.85, 8.2) == [4.0, 8.0]
    assert marks._round_sizes(0.5, 8.2) == [0.8, 4.0, 8.0]


@pytest.mark.parametrize("many", [False, True])
def test_places_are_where_the_markers_are(many: bool) -> None:
    points = zoo_points()[: None if many else 3]
    figure, _ = figures.accuracy_cost(points, MACS, AP)
    figure.canvas.draw()
    box = figure.bbox
    for (left, top), p in zip(figures.places(figure, points, MACS, AP), points, strict=True):
        x, y = figure.axes[0].transData.transform((p.x / 1e9, p.y))
        assert (left, 1 - top) == pytest.approx((x / box.width, y / box.height), abs=0.003)
        assert 0 < left < 1
        assert 0 < top < 1


# --------------------------------------------------------------------------- the command


@pytest.mark.parametrize("suffix", figures.FORMATS)
def test_plot(tmp_path: Path, suffix: str) -> None:
    save(tmp_path / "r", *(profile_row(n) for n in CARDS if n.startswith(("vit", "hmr2"))))
    output = tmp_path / f"fig.{suffix}"
    result = hmrbench("plot", "-o", output, "--runs", tmp_path / "r", "--json", "--dpi", 60)
    assert result.exit_code == 0, result.output
    assert output.stat().st_size > 5000
    content = json.loads(result.stdout)
    assert (content["x"], content["y"], content["size"]) == ("macs", "coco-val:AP", "params")
    assert [p["y"] for p in content["points"]] == [73.8, 75.8, 78.3, 79.1]


def test_plot_of_meshes(tmp_path: Path) -> None:
    save(tmp_path / "r", profile_row("gmfhmr2-s-s3"), eval_row("gmfhmr2-s-s3", "h36m-val-p2"))
    args = ("--runs", tmp_path / "r", "--x", "rate", "--size", "none", "--task", "hmr", "--json")
    content = json.loads(hmrbench("plot", "-o", tmp_path / "f.svg", *args).stdout)
    assert content["y"] == "h36m-val-p2:PA-MPJPE"
    assert [(p["y"], p["published"]) for p in content["points"]] == [(44.0, False), (35.4, True)]


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("-o", "f.gif"), 2, ".png, .svg, .pdf"),
        (("--task", "hand"), 2, "hpe or hmr"),
        (("--x", "beauty"), 2, "'beauty' is in no row"),
        (("--labels", "some"), 2, "labels are"),
        (("--y-min", "99"), 3, "nothing to draw"),
        (("--runs", "nowhere"), 3, "no runs here"),
    ],
)
def test_bad_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...], code: int, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "runs", profile_row("vitpose-s"), eval_row("vitpose-s"))
    result = hmrbench("plot", *args)
    assert result.exit_code == code, result.output
    assert words in " ".join(result.stderr.split())
    assert not list(tmp_path.glob("*.png"))
