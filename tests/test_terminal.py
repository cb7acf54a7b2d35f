"""What a terminal shows: numbers at any width, names as they are, any encoding; and what `hmrbench.yaml` sets."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.cells import cell_len
from test_cli import hmrbench
from test_tables import eval_row, gather, save

from hmrbench.errors import UsageError, printable

LONG = "td-hm_ViTPose-huge-simple_8xb64-210e_coco-256x192-ffd48c05_20230314"
SCORES = {"AP": 75.71, "AP50": 90.12, "AP75": 80.23, "APM": 70.14, "APL": 80.15, "AR": 78.26, "MyScore": 12.37}
CARD = "{paper_name: X, task: hpe, size: t, encoder: vmamba-t, stages: 2, input: [64, 48], licence: MIT}"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    rows = [eval_row(LONG, metrics=SCORES), eval_row("net[bold]x[/]", metrics={"AP": 11.11}), eval_row("漢字の網")]
    return save(tmp_path / "runs", *rows) and tmp_path / "runs"


@pytest.mark.parametrize("width", ["80", "40"])
def test_table_shows_every_number_and_folds_names(width: str, runs: Path) -> None:
    text = hmrbench("table", "--runs", runs, "--digits", 2, env={"COLUMNS": width}).stdout
    assert max(map(cell_len, text.splitlines())) <= int(width)
    for number in ("75.71", "78.26", "12.37", "11.11"):
        assert number in text
    assert "net[bold]" in text


@pytest.mark.parametrize("width", ["80", "40", "30"])
@pytest.mark.parametrize("model", [LONG, "net[bold]x[/]", "x" * 1000, "esc\x1b[31m"])
def test_score_shows_every_number_and_the_name(width: str, model: str, tiny_coco: Path, tmp_path: Path) -> None:
    people = json.loads((tiny_coco / "annotations" / "person_keypoints_val2017.json").read_text())["annotations"]
    keep = ("image_id", "category_id", "keypoints")
    (tmp_path / "p.json").write_text(json.dumps([{k: p[k] for k in keep} | {"score": 1.0} for p in people]))
    args = ("score", tmp_path / "p.json", "-d", "coco-val", "--data-root", tiny_coco, "--boxes", "gt", "--model", model)
    row = json.loads(hmrbench(*args, "--json").stdout)[0]
    assert row["model"] == model
    result = hmrbench(*args, env={"COLUMNS": width})
    assert result.exit_code == 0, result.output
    assert max(map(cell_len, result.stdout.splitlines())) <= int(width)
    for name in ("AP", "AR", "Phi_P_2D", "PCK@0.05"):
        assert f"{row['metrics'][name]:.2f}" in result.stdout
    assert "\x1b" not in result.stdout
    letters = "".join(line.split()[0] for line in result.stdout.splitlines() if line.strip())
    assert printable(model)[:6] in letters


@pytest.mark.parametrize("width", ["80", "40"])
def test_lists_fit(width: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(f"family: x\nmodels: {{{LONG}: {CARD}}}\n")
    for args in (("models", "td-hm*", "--models-dir", tmp_path), ("datasets",)):
        result = hmrbench(*args, env={"COLUMNS": width})
        assert result.exit_code == 0, result.output
        assert max(map(cell_len, result.stdout.splitlines())) <= int(width)
        assert ("4.49" if args[0] == "models" else "lsp-ext") in result.stdout


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "ascii", "utf-8"])
@pytest.mark.thorough
def test_a_terminal_of_another_encoding(encoding: str, runs: Path) -> None:
    def run(*args: str) -> bytes:
        command = [sys.executable, "-m", "hmrbench", "table", "--runs", str(runs), *args]
        env = {**os.environ, "PYTHONIOENCODING": encoding, "COLUMNS": "80"}
        done = subprocess.run(command, capture_output=True, check=False, env=env)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert [r["model"] for r in json.loads(run("--json"))][-1] == "漢字の網"
    text = run().decode(encoding)
    assert "net[bold]x[/]" in text
    assert ("漢字の網" if encoding == "utf-8" else "????") in text
    assert ("─────" if encoding == "utf-8" else "-----") in text


def test_a_network_that_prints_does_not_spoil_the_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "loud_net.py").write_text(
        "import torch\ndef build(card):\n    print('made')\n    return torch.nn.Linear(1, 1)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    card = CARD.replace("encoder: vmamba-t", "build: 'loud_net:build'")
    (tmp_path / "c.yaml").write_text(f"family: x\nmodels: {{Loud: {card}}}\n")
    result = hmrbench("models", "loud", "--models-dir", tmp_path, "--json")
    assert json.loads(result.stdout)[0]["params"] == 2
    assert "made" in result.stderr


# --------------------------------------------------------------------------- --metric, csv and json


def test_csv_and_json_are_flat_and_hold_every_score(runs: Path) -> None:
    rows = json.loads(hmrbench("table", "--runs", runs, "--json").stdout)
    row = next(r for r in rows if r["model"] == LONG)
    assert {name: row[f"coco-val:{name}"] for name in SCORES} == SCORES
    assert row["Phi_P_2D"] == pytest.approx((75.71 + 78.26) / 2)
    assert row["samples:coco-val"] == 1000
    assert not any(isinstance(v, (dict, list)) for r in rows for v in r.values())
    cells = list(csv.DictReader(io.StringIO(hmrbench("table", "--runs", runs, "-f", "csv").stdout)))
    assert list(cells[0]) == list(rows[0])


def test_composites_of_one_data_set_are_kept(tmp_path: Path) -> None:
    row = eval_row("x", "demo-pose", metrics={"AP": 50.0, "AR": 60.0, "Phi_P_2D": 55.0})
    assert gather(save(tmp_path, row)).rows[0]["demo-pose:Phi_P_2D"] == 55.0


@pytest.mark.parametrize("name", ["AR", "ar", "coco-val:AR"])
@pytest.mark.parametrize("format", ["csv", "json", "markdown", "text"])
def test_metric_limits_what_is_written(name: str, format: str, runs: Path) -> None:
    text = hmrbench("table", "--runs", runs, "--metric", name, "-f", format, "--digits", 2).stdout
    assert "78.26" in text
    assert "75.71" not in text
    assert "12.37" not in text


def test_an_unknown_metric_is_refused(runs: Path) -> None:
    for format in ("csv", "json", "markdown", "text"):
        result = hmrbench("table", "--runs", runs, "--metric", "MyScor", "-f", format)
        assert (result.exit_code, result.stdout) == (2, "")
        assert "did you mean MyScore" in result.stderr
    with pytest.raises(UsageError, match="unknown score 'model'"):
        gather(runs).find_numbers(["model"])


# --------------------------------------------------------------------------- hmrbench.yaml


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "hmrbench.yaml"


def test_all_that_is_wrong_with_the_settings(settings: Path) -> None:
    settings.write_text(
        "batchsize: 3\ndata-root: {a: 1}\nworkers: many\nflip: 3\nruns: [a, b]\nformat: tex\nresamples: 3\nlimit: yes\n"
    )
    result = hmrbench("models")
    assert (result.exit_code, result.stdout) == (2, "")
    lines = [line.strip() for line in result.stderr.splitlines()]
    assert lines[:2] == ["error: hmrbench.yaml: 8 faults", "unknown key batchsize; did you mean 'batch-size'?"]
    for key in ("data-root", "workers", "flip", "runs", "format", "resamples", "limit"):
        assert sum(line.startswith(f"{key}: ") for line in lines) == 1


@pytest.mark.parametrize("text", ["runs: [a\n", "- a\n", "runs: a\nruns: b\n", "runs: !!python/name:os.x\n"])
def test_broken_settings(text: str, settings: Path) -> None:
    settings.write_text(text)
    result = hmrbench("models")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: hmrbench.yaml: ")
    assert result.stderr.count("\n") == 1


def test_settings_reach_grouped_commands_below_variable_and_flag(settings: Path) -> None:
    command = ("datasets", "check", "coco-val")
    settings.write_text("data_root: of-file\n")
    assert "of-file: no such data root" in hmrbench(*command).stderr
    assert "of-env: no such" in hmrbench(*command, env={"HMRBENCH_DATA": "of-env"}).stderr
    assert "of-flag: no such" in hmrbench(*command, "--data-root", "of-flag", env={"HMRBENCH_DATA": "of-env"}).stderr
    settings.write_text("from: of-file\n")
    assert "of-file: no such folder or archive" in hmrbench("datasets", "prepare", "3dpw-test").stderr
    settings.write_text("offline: true\n")
    assert "offline, and" in hmrbench("weights", "fetch", "vitpose-s").stderr
    settings.write_text("models-dir: [of-file]\n")
    assert "of-file: no such folder" in hmrbench("models").stderr


def test_where_networks_run_does_not_choose_rows(settings: Path, runs: Path) -> None:
    settings.write_text("device: cpu\ndtype: fp16\nbatch-size: auto\n# runs: none\n")
    result = hmrbench("table", "--runs", runs)
    assert result.exit_code == 0, result.stderr
    settings.write_text("")
    assert hmrbench("table", "--runs", runs).stdout == result.stdout
