"""The table of runs: newest of each protocol, published numbers apart, five formats."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_cli import hmrbench, run_eval

from hmrbench import results, tables, zoo
from hmrbench.errors import DataError


@pytest.fixture
def runs(tiny_coco: Path, tiny_cards: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    for boxes in ("gt", "det", "det"):
        result = run_eval(tiny_coco, tiny_cards, folder, "tiny-a", "--weights", "random", "--boxes", boxes)
        assert result.exit_code == 0, result.stderr
    return folder


def test_one_row_per_protocol_and_published_apart(runs: Path, tiny_cards: Path) -> None:
    frame = tables.gather(results.load_runs(runs), zoo.load_cards([tiny_cards]))
    assert sorted(frame["boxes"]) == ["det", "gt"]
    assert frame["published:AP"].tolist() == [12.5, 12.5]
    assert (frame["AP"] != 12.5).all()
    assert list(frame.columns)[-1] == "published:AP"


def test_no_runs(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no runs"):
        tables.gather([], {})


@pytest.mark.parametrize(
    ("format", "words"),
    [
        ("csv", "model,dataset,boxes"),
        ("markdown", "| model"),
        ("latex", r"\toprule"),
        ("json", '"published:AP": 12.5'),
        ("text", "tiny-a"),
    ],
)
def test_formats(runs: Path, tiny_cards: Path, tmp_path: Path, format: str, words: str) -> None:
    printed = hmrbench("table", "--runs", runs, "--models-dir", tiny_cards, "--format", format)
    assert printed.exit_code == 0, printed.output
    assert words in printed.stdout
    file = tmp_path / "out"
    assert hmrbench("table", "--runs", runs, "--models-dir", tiny_cards, "-f", format, "-o", file).exit_code == 0
    assert "tiny-a" in file.read_text()


def test_json_flag(runs: Path, tiny_cards: Path) -> None:
    rows = json.loads(hmrbench("table", "--runs", runs, "--models-dir", tiny_cards, "--json").stdout)
    assert {r["model"] for r in rows} == {"tiny-a"}
    assert "published:AP" in rows[0]
