"""The joined table: newest runs, published numbers apart, what truncation changes, six formats."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_cli import hmrbench, run_eval

from hmrbench.cards import load_cards
from hmrbench.errors import DataError, UsageError
from hmrbench.metrics import measures
from hmrbench.profiling import profile_model
from hmrbench.records import Array, EvalResult, ProfileResult
from hmrbench.report import formats, tables
from hmrbench.report.costs import Speed
from hmrbench.report.references import load_references
from hmrbench.results import runs as results
from hmrbench.zoo import parts

CARDS = load_cards()
HMR_2D = ("lsp-extended", "coco-val-hmr", "posetrack-val")
HMR_3D = ("3dpw-test", "h36m-val-p2")


def eval_row(model: str, dataset: str = "coco-val", **fields: Any) -> dict[str, Any]:
    """A row of eval as it would be with trained weights."""
    metrics = {
        **{d: {"PCK@0.05": 50.0, "PCK@0.1": 80.0} for d in HMR_2D},
        **{d: {"MPJPE": 70.0, "PA-MPJPE": 44.0} for d in HMR_3D},
    }.get(dataset, {"AP": 75.0, "AP50": 90.0, "AP75": 82.0, "AR": 80.0, "PCK@0.05": 60.0})
    card = CARDS.get(model)
    row = EvalResult(
        model=model,
        task=card.task if card else "hpe",
        dataset=dataset,
        weights=f"weights/{model}.safetensors",
        weights_sha256=model.encode().hex(),
        boxes="gt",
        flip=True,
        codec="udp",
        input=card.input_text if card else "64x48",
        device="Some CPU",
        dtype="fp32",
        batch_size=8,
        samples=1000,
        partial=False,
        metrics=metrics,
        versions={},
        commit=None,
        annotations_sha256="a" * 64,
    )
    return replace(row, **fields).row()


@cache
def count_parameters(model: str) -> dict[str, int]:
    return parts.count_parameters(CARDS[model])


def profile_row(model: str, **fields: Any) -> dict[str, Any]:
    """A row of profile: true parameters, and made-up MACs and times."""
    counts = count_parameters(model)
    macs = 100 * counts["params"]
    row = ProfileResult(model, **counts, macs=macs, flops=2 * macs, latency_ms=20.0, images_per_s=50.0, device="GPU A")
    return replace(row, **fields).row()


def save(folder: Path, *rows: dict[str, Any], kind: str | None = None, arrays: dict[str, Array] | None = None) -> Path:
    """Keep rows as runs, in the order given; the folder."""
    for i, row in enumerate(rows):
        found = kind or ("profile" if "latency_ms" in row else "eval")
        path = results.save(folder, found, row, f"{i:012x}", arrays)
        content = json.loads(path.read_bytes())
        number = len(list(folder.glob("*.json")))
        content["created"] = f"2026-01-01T{number // 60:02d}:{number % 60:02d}:00+00:00"
        path.write_text(json.dumps(content))
    return folder


def gather(folder: Path, **settings: Any) -> tables.Table:
    return tables.gather(results.load_runs(folder), CARDS, **settings)


# --------------------------------------------------------------------------- joining


def test_one_row_joins_accuracy_cost_and_published(tmp_path: Path) -> None:
    table = gather(save(tmp_path, eval_row("gmfpose-t-s3"), profile_row("gmfpose-t-s3")))
    (row,) = table.rows
    assert (row["model"], row["kind"], row["cut"], row["backbone"]) == (
        "gmfpose-t-s3",
        "measured",
        "S3",
        "gmf",
    )
    assert row["coco-val:AP"] == 75.0
    assert row["published:coco-val:AP"] == 75.7  # the card's own, in a column of its own
    assert row["params"] == 7_768_368 + 1_873_169
    assert row["images_per_s"] == 50.0
    assert row["Phi_P_2D"] == 77.5
    assert row["definitions"] == "Phi_P_2D = (AP + AR) / 2 on coco-val"
    assert table.frame().loc[0, "coco-val:AP"] == 75.0


def test_rows_of_profile_have_the_task_of_their_card(tmp_path: Path) -> None:
    """Those of earlier versions do not say it."""
    row = profile_row("vitpose-s")
    save(tmp_path, {k: v for k, v in row.items() if k != "task"}, profile_row("hmr2-s"))
    assert [r["model"] for r in gather(tmp_path, task="hpe").rows] == ["vitpose-s"]
    assert [r["model"] for r in gather(tmp_path, task="hmr").rows] == ["hmr2-s"]
    assert len(gather(tmp_path).rows) == 2


def test_one_row_per_protocol_and_the_newest_run_of_each(tmp_path: Path) -> None:
    newer = eval_row("vitpose-s", metrics={"AP": 70.0, "AR": 76.0})
    other = eval_row("vitpose-s", boxes="det", metrics={"AP": 60.0, "AR": 66.0})
    table = gather(save(tmp_path, eval_row("vitpose-s"), other, newer))
    assert [(r["boxes"], r["coco-val:AP"]) for r in table.rows] == [("gt", 70.0), ("det", 60.0)]
    assert [r["Phi_P_2D"] for r in table.rows] == [73.0, 63.0]


def test_phi_m_needs_all_parts_of_the_same_weights(tmp_path: Path) -> None:
    rows = [eval_row("swinhmr2-s-s3", d) for d in (*HMR_2D, *HMR_3D)]
    (row,) = gather(save(tmp_path / "all", *rows)).rows
    assert row["Phi_M_2D"] == 65.0
    assert row["Phi_M_3D"] == 57.0
    assert row["definitions"].count("mean of") == 2

    (row,) = gather(save(tmp_path / "lacking", *rows[:-1])).rows
    assert row["Phi_M_2D"] == 65.0
    assert "Phi_M_3D" not in row

    mixed = gather(save(tmp_path / "mixed", *rows[:-1], {**rows[-1], "weights_sha256": "other"}))
    assert len(mixed.rows) == 2
    assert not any(r.get("Phi_M_3D") for r in mixed.rows)


def test_partial_and_other_people_stand_in_columns_of_their_own(tmp_path: Path) -> None:
    whole, part = (
        eval_row("vitpose-s"),
        eval_row("vitpose-s", samples=12, partial=True, metrics={"AP": 99.0, "AR": 99.0}),
    )
    (row,) = gather(save(tmp_path / "a", whole, part)).rows
    assert (row["coco-val:AP"], row["coco-val (first 12 only):AP"], row["Phi_P_2D"]) == (75.0, 99.0, 77.5)
    (row,) = gather(save(tmp_path / "b", part)).rows
    assert "coco-val:AP" not in row
    assert "Phi_P_2D" not in row
    assert "first 12 only" in formats.render(gather(tmp_path / "b"), "text")

    other = eval_row("vitpose-b", annotations_sha256="b" * 64)
    table = gather(save(tmp_path / "c", whole, other))
    assert {k for k in table.columns() if k.endswith(":AP") and "published" not in k} == {
        "coco-val (aaaaaaaa):AP",
        "coco-val (bbbbbbbb):AP",
    }


def test_random_weights_are_never_joined_with_trained_ones(tmp_path: Path) -> None:
    random = eval_row("vitpose-s", weights="random", weights_sha256=None, metrics={"AP": 0.1, "AR": 0.2})
    table = gather(save(tmp_path, eval_row("vitpose-s"), random))
    assert [(r["weights"], r["coco-val:AP"]) for r in table.rows] == [
        ("weights/vitpose-s.safetensors", 75.0),
        ("random", 0.1),
    ]
    assert "random" in formats.render(table, "text")


def test_no_runs(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no runs"):
        tables.gather([], {})


# --------------------------------------------------------------------------- speed


def test_one_speed_setting_per_table(tmp_path: Path) -> None:
    save(tmp_path, profile_row("vitpose-s"), profile_row("vitpose-b"))
    save(tmp_path, profile_row("vitpose-s", device="GPU B", images_per_s=500.0))
    save(
        tmp_path,
        profile_row("vitpose-b", batch_size=8, images_per_s=90.0) | {"scope": "end2end", "threads": 2},
    )
    table = gather(tmp_path)
    assert [r["images_per_s"] for r in table.rows] == [50.0, 50.0]
    assert table.notes[0] == "speed: batch size 1, fp32, GPU A"
    assert "batch size 8, fp32, scope end2end, threads 2, GPU A" in table.notes[1]

    table = gather(tmp_path, speed=Speed(device="gpu b"))
    assert [r["images_per_s"] for r in table.rows] == [500.0, None]
    with pytest.raises(UsageError, match=r"no speed of that kind.*GPU B"):
        gather(tmp_path, speed=Speed(batch_size=64))


def test_unsteady_times_and_backends_are_named(tmp_path: Path) -> None:
    steady, unsteady = (
        profile_row(n) | {"stable": n == "vmpose-t-s2", "backend": "loop"} for n in ("vmpose-t-s2", "vmpose-t-s3")
    )
    table = gather(save(tmp_path, steady, unsteady))
    assert "speed that varied too much to rely on: vmpose-t-s3" in table.notes
    assert "speed with backend loop: vmpose-t-s2, vmpose-t-s3" in formats.render(table, "markdown")


def test_threads_do_not_part_the_times_of_a_gpu(tmp_path: Path) -> None:
    rows = [
        profile_row(n) | {"threads": i, "hardware": {"cuda": "13.0"}} for i, n in enumerate(("vitpose-s", "vitpose-b"))
    ]
    assert [r["images_per_s"] for r in gather(save(tmp_path, *rows)).rows] == [50.0, 50.0]


def test_a_real_profile_joins_a_real_evaluation(tiny_coco: Path, tiny_cards: Path, tmp_path: Path) -> None:
    runs = tmp_path / "r"
    assert run_eval(tiny_coco, tiny_cards, runs, "tiny-a", "--weights", "random", "--boxes", "gt").exit_code == 0
    profile_model("tiny-a", models_dirs=[tiny_cards], runs=runs, device="cpu", repeats=5)
    (row,) = tables.gather(results.load_runs(runs), load_cards([tiny_cards])).rows
    assert (row["params"], row["macs"]) == (68, 17 * 3 * 16 * 12)
    assert row["images_per_s"] > 0
    assert row["coco-val:AP"] is not None
    assert (row["task"], row["input"]) == ("hpe", "64x48")


def test_a_failed_profile_hides_nothing(tmp_path: Path) -> None:
    failed = ProfileResult("vitpose-s", status="out of memory", error="CUDA out of memory", batch_size=64).row()
    (row,) = gather(save(tmp_path, profile_row("vitpose-s"), failed)).rows
    assert row["images_per_s"] == 50.0
    assert row["params"] == count_parameters("vitpose-s")["params"]


# --------------------------------------------------------------------------- truncation


def test_what_truncation_changes_is_the_papers_figure(tmp_path: Path) -> None:
    """SwinHMR2.0-S-S3 has 31.6 % fewer parameters than S4 (arXiv 2510.12660)."""
    save(tmp_path, profile_row("swinhmr2-s-s4"), profile_row("swinhmr2-s-s3", images_per_s=75.0))
    save(tmp_path, *(eval_row("swinhmr2-s-s4", d) for d in HMR_3D))
    save(tmp_path, *(eval_row("swinhmr2-s-s3", d, metrics={"MPJPE": 71.4, "PA-MPJPE": 44.0}) for d in HMR_3D))
    table = gather(tmp_path, against="s4")
    rows = {r["model"]: r for r in table.rows}
    row, whole = rows["swinhmr2-s-s3"], rows["swinhmr2-s-s4"]
    assert row["against"] == "swinhmr2-s-s4"
    assert round(row["change:params"], 1) == -31.6
    assert row["change:images_per_s"] == 50.0
    assert row["change:3dpw-test:MPJPE"] == pytest.approx(2.0)
    assert row["difference:3dpw-test:MPJPE"] == pytest.approx(1.4)
    assert row["difference:Phi_M_3D"] == pytest.approx(0.7)
    assert whole["against"] is None
    assert "human mesh recovery, S3 against S4: params -31.6 %" in table.changes[0]
    assert "-31.6" in formats.render(table, "text")


def test_scores_are_compared_only_within_a_protocol(tmp_path: Path) -> None:
    save(tmp_path, profile_row("swinpose-s-s4"), profile_row("swinpose-s-s3"))
    save(tmp_path, eval_row("swinpose-s-s4", flip=False), eval_row("swinpose-s-s3"))
    row = next(r for r in gather(tmp_path, against="S4").rows if r["model"] == "swinpose-s-s3")
    assert row["change:params"] < -30
    assert "change:coco-val:AP" not in row
    assert row["difference:published:coco-val:AP"] == pytest.approx(0.1)  # 74.6 against 74.5, both published


@pytest.mark.parametrize(("cut", "words"), [("S5", "not 'S5'"), ("s2", "no run of a model cut at S2")])
def test_a_cut_that_is_not_there(tmp_path: Path, cut: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        gather(save(tmp_path, profile_row("swinpose-s-s3")), against=cut)


# --------------------------------------------------------------------------- published rows


def test_published_rows_have_sources_and_plausible_numbers() -> None:
    references = load_references()
    assert len(references) == 95
    assert {r.card for r in references if r.card} <= CARDS.keys()
    names = {r.model for r in references}
    for name in (
        "HRNet-W32",
        "SimCC-HRNet-W32",
        "Lite-HRNet-30",
        "S-ViPNAS-Res50",
        "LitePose-Auto-L",
        "Pose-PVT-S",
    ):
        assert name in names
    for name in (
        "METRO-H64",
        "FastMETRO-L-H64",
        "TORE METRO+HRNet-W64",
        "HMR-ResNet50 (hmr-benchmarks)",
        "HMR2.0b",
    ):
        assert name in names
    for reference in references:
        assert reference.source
        assert reference.task in ("hpe", "hmr")
        assert reference.metrics
        for metric, value in (pair for scores in reference.metrics.values() for pair in scores.items()):
            measure = measures.MEASURES[metric]
            assert measure.unit in ("%", "mm")
            assert 20 < value < 120
            assert measure.unit == "mm" or value <= 100


def test_published_rows_are_marked(tmp_path: Path) -> None:
    table = gather(save(tmp_path, eval_row("vitpose-s")), references=load_references())
    assert [r["model"] for r in table.rows if r["kind"] == "measured"] == ["vitpose-s"]
    hrnet = next(r for r in table.rows if r["model"] == "HRNet-W32")
    assert (hrnet["kind"], hrnet["coco-val:AP"], hrnet["params"], hrnet["macs"]) == (
        "published",
        74.6,
        28_540_000,
        7.7e9,
    )
    assert "inference_speed_summary" in hrnet["source"]
    place = table.sources.index(hrnet["source"]) + 1
    test_dev = next(r for r in table.rows if r["model"] == "SimCC*-HRNet-W48")
    assert (test_dev["coco-val:AP"], test_dev["coco-test-dev:AP"]) == (None, 75.4)
    for format in ("text", "markdown", "latex", "html"):
        text = formats.render(table, format)
        assert (f"HRNet-W32 [{place}]" if format == "text" else f"HRNet-W32 (published [{place}])") in text
        assert "published" in text
        assert f"[{place}] " in text
    assert all(
        r["kind"] == "published" for r in csv.DictReader(io.StringIO(formats.render(table, "csv"))) if r["source"]
    )


def test_no_network_stands_there_twice(tmp_path: Path) -> None:
    """Measured, published in several places, or both."""
    references = tables.load_references()
    table = gather(save(tmp_path, eval_row("hrnet-w32"), profile_row("vitpose-s")), references=references)
    published = [r["model"] for r in table.rows if r["kind"] == "published"]
    for gone in ("HRNet-W32 (mmpose 1.x)", "HRNet-W32 (SimCC repo, heatmap)", "ViTPose-S", "ViTPose-S (mmpose)"):
        assert gone not in published
    card_of = {(r.model, r.input): r.card for r in references}
    shown = [card_of[r["model"], r["input"]] for r in table.rows if r["kind"] == "published"]
    named = [card for card in shown if card]
    assert len(named) == len(set(named)) == len({r.card for r in references if r.card}) - 2
    # the other input is another model; the first report of a network stays
    assert "HRNet-W32" in published
    assert "ViTPose-B" in published
    assert "ViTPose-B (mmpose)" not in published
    measured = next(r for r in table.rows if r["model"] == "hrnet-w32")
    assert measured["published:coco-val:AP"] == 74.9


def test_a_published_row_names_the_card_of_its_network() -> None:
    known = {card.paper_name.lower().removesuffix(" 384x288"): card for card in CARDS.values() if card.task == "hpe"}
    references = [r for r in load_references() if r.task == "hpe" and "coco-val" in r.metrics]
    named = {r.model: r.card for r in references if r.model.lower() in known}
    assert len(named) > 20
    assert not [model for model, card in named.items() if card is None]
    assert {r.card for r in references} >= {f"litepose-auto-{size}" for size in ("xs", "s", "m", "l")}


def test_what_own_networks_are_grouped_by(tmp_path: Path) -> None:
    """A name of theirs stays whole: it is not one of ours, of which a family is the first word."""
    (tmp_path / "cards").mkdir()
    (tmp_path / "cards" / "own.yaml").write_text(
        "models:\n"
        '  my-net: {task: hpe, build: "my_net:Net"}\n'
        '  my-other-net: {task: hpe, family: other kind, build: "my_net:Other"}\n'
        '  my-cut: {task: hpe, encoder: "my-pkg.encoders:TINY-1"}\n'
        "  my-swin: {task: hpe, encoder: swin-t, stages: 2}\n"
    )
    cards = load_cards([tmp_path / "cards"])
    save(tmp_path, *(eval_row(name) for name in ("my-net", "my-other-net", "my-cut", "my-swin", "hrnet-w32")))
    rows = tables.gather(results.load_runs(tmp_path), cards).rows
    assert {r["model"]: r["backbone"] for r in rows} == {
        "my-net": "my-net",
        "my-other-net": "other kind",
        "my-cut": "TINY-1",
        "my-swin": "swin",
        "hrnet-w32": "hrnet",
    }


def test_a_wrong_reference_is_named(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("sources: [{source: x, task: hpe, rows: [{model: A, metrics: {coco-val: {AP: high}}}]}]")
    with pytest.raises(UsageError, match=r"p\.yaml: 'A' is not right at metrics\.coco-val\.AP"):
        load_references(path)


# --------------------------------------------------------------------------- formats


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> tables.Table:
    """All models profiled, some evaluated, published rows and changes."""
    tmp_path = tmp_path_factory.mktemp("full")
    save(tmp_path, *(profile_row(name) for name in CARDS))
    save(
        tmp_path,
        *(eval_row(n, metrics={"AP": 70 + i, "AR": 75.25 + i}) for i, n in enumerate(("vitpose-s", "gmfpose-t-s3"))),
    )
    save(tmp_path, *(eval_row("swinhmr2-s-s3", d) for d in (*HMR_2D, *HMR_3D)))
    return gather(tmp_path, references=load_references(), against="S4")


def test_text_fits_80_columns_and_defines_its_scores(full: tables.Table) -> None:
    lines = formats.render(full, "text").splitlines()
    assert max(map(len, lines)) <= 80
    text = " ".join(" ".join(lines).split())
    for words in (
        "human pose estimation", "human mesh recovery", "Phi_P_2D = (AP + AR) / 2 on coco-val",
        "Phi_M_3D = mean of MPJPE and PA-MPJPE (mm) on 3dpw-test and h36m-val-p2",
        "one multiply-add = 1", "speed: batch size 1, fp32, GPU A", "published: reported by others",
    ):  # fmt: skip
        assert words in text


def test_csv_holds_every_digit(full: tables.Table) -> None:
    rows = list(csv.DictReader(io.StringIO(formats.render(full, "csv"))))
    others = [r for r in tables.load_references() if r.card is None]
    assert len(rows) == len(full.rows) == len(CARDS) + len(others)
    row = next(r for r in rows if r["model"] == "gmfpose-t-s3")
    assert float(row["coco-val:AR"]) == 76.25
    assert row["params"] == "9641537"
    assert row["samples:coco-val"] == "1000"
    assert row["3dpw-test:MPJPE"] == ""


def test_markdown_is_rectangular(full: tables.Table) -> None:
    blocks: list[list[str]] = [[]]
    for line in formats.render(full, "markdown").splitlines():
        if line.startswith("|"):
            blocks[-1].append(line)
        elif blocks[-1]:
            blocks.append([])
    for block in filter(None, blocks):
        assert len({line.replace(r"\|", "").count("|") for line in block}) == 1
        assert set(block[1]) <= set("|:- ")
    cells = [[c.strip() for c in line.split("|")] for line in formats.render(full, "markdown").splitlines()]
    assert any(row[1:4] == ["gmfpose-t-s3", "256x192", "71.0"] for row in cells)


def test_latex_is_booktabs_and_escaped(full: tables.Table) -> None:
    text = formats.render(full, "latex")
    for word in ("toprule", "midrule", "bottomrule"):
        assert f"\\{word}" in text
    assert text.count(r"\begin{") == text.count(r"\end{") == 4
    assert r"$\Phi_{P,2D}$" in text
    assert r"(@20\%)" in text
    assert r"$-$31.6" in text
    for table in text.split(r"\begin{tabular}")[1:]:
        layout, _, body = table.partition("\n")
        columns = len(layout.strip("{}"))
        for line in body.split(r"\end{tabular}")[0].splitlines():
            if line.endswith(r"\\") and "multicolumn" not in line:
                assert line.replace(r"\&", "").count("&") == columns - 1, line


class Tags(HTMLParser):
    """Whether tags nest, and what stands in cells."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "source", "br", "link"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.rows and self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def test_html_nests_and_escapes(tmp_path: Path) -> None:
    row = eval_row("<b>evil & co</b>", weights="<script>alert(1)</script>")
    random = eval_row("vitpose-s", weights="random")
    text = formats.render(gather(save(tmp_path, row, random)), "html")
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    assert "script" not in {tag for tag, _ in tags.seen}
    assert any(cells[0] == "<b>evil & co</b>" for cells in tags.rows)


def test_numbers_shown_can_be_chosen(full: tables.Table) -> None:
    text = formats.render(full, "markdown", ["AR"], 3)
    assert "coco-val AR" in text
    assert "coco-val AP" not in text
    assert "76.250" in text


# --------------------------------------------------------------------------- the command


@pytest.fixture
def runs(tiny_coco: Path, tiny_cards: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    for boxes in ("gt", "det"):
        result = run_eval(tiny_coco, tiny_cards, folder, "tiny-a", "--weights", "random", "--boxes", boxes)
        assert result.exit_code == 0, result.stderr
    return folder


@pytest.mark.parametrize(
    ("format", "words"),
    [
        ("csv", "model,kind,paper_name"),
        ("markdown", "| model"),
        ("latex", r"\toprule"),
        ("json", '"published:coco-val:AP": 12.5'),
        ("text", "tiny-a"),
        ("html", "<table>"),
    ],
)
def test_formats(runs: Path, tiny_cards: Path, tmp_path: Path, format: str, words: str) -> None:
    printed = hmrbench("table", "--runs", runs, "--models-dir", tiny_cards, "--format", format)
    assert printed.exit_code == 0, printed.output
    assert words in printed.stdout
    file = tmp_path / "out"
    assert hmrbench("table", "--runs", runs, "--models-dir", tiny_cards, "-f", format, "-o", file).exit_code == 0
    assert file.read_text() == printed.stdout


def test_json_flag(runs: Path, tiny_cards: Path) -> None:
    rows = json.loads(hmrbench("table", "--runs", runs, "--models-dir", tiny_cards, "--json").stdout)
    assert [(r["model"], r["boxes"], r["weights"]) for r in rows] == [
        ("tiny-a", "gt", "random"),
        ("tiny-a", "det", "random"),
    ]
    measured = results.load_runs(runs)[0].row["metrics"]
    assert rows[0]["coco-val:AP"] == measured["AP"]
    assert rows[0]["Phi_P_2D"] == measured["Phi_P_2D"]
    assert np.isclose(rows[0]["Phi_P_2D"], (measured["AP"] + measured["AR"]) / 2)


def test_models_can_be_chosen(tmp_path: Path) -> None:
    save(tmp_path, profile_row("vitpose-s"), profile_row("swinpose-t-s2"))
    rows = json.loads(hmrbench("table", "vit*", "--runs", tmp_path, "--json").stdout)
    assert [r["model"] for r in rows] == ["vitpose-s"]
    assert hmrbench("table", "nobody*", "--runs", tmp_path).exit_code == 3
