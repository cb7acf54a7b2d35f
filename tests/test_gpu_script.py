"""`make gpu` in its dry mode: the same way on a CPU, with everything that is wrong said in the end."""

from __future__ import annotations

import json
from pathlib import Path

import gpu
import pytest
import torch

from hmrbench.nets.encoders import scan_torch


def test_the_dry_mode_goes_all_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "WAYS", {"fp32": 1e-4, "bf16": 0.1})
    assert gpu.main(["--dry", "--models", "vmpose-t-s2", "--minutes", "0", "-o", str(tmp_path)]) == 0
    sections = json.loads((tmp_path / "gpu.json").read_text())["sections"]
    networks, scans, loop, training, profile = sections.values()
    assert [row["way"] for row in networks] == ["fp32", "bf16"]
    assert all(0 <= row["error"] <= row["tolerance"] for row in [*networks, *scans, *training])
    assert [(row["backend"], row["states"]) for row in scans] == [("torch-chunked", 1), ("torch-chunked", 4)]
    assert loop[0]["share"] == loop[0]["people_per_s"] / loop[0]["bare_per_s"] > 0
    assert profile == []  # no time was left
    page = (tmp_path / "gpu.md").read_text()
    assert all(f"## {title}" in page for title in list(sections)[:4])
    assert "| vmpose-t-s2 | fp32 |" in page


def test_what_is_wrong_is_found_and_hides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    found = gpu.guarded({"model": "a"}, lambda: {"error": 0.5}, 0.1)
    assert found == {"model": "a", "error": 0.5, "tolerance": 0.1, "ok": False}
    assert gpu.guarded({}, lambda: {"error": float("nan")}, 0.1)["ok"] is False
    failed = gpu.guarded({"model": "a"}, lambda: 1 // 0, 0.1)  # type: ignore[arg-type, return-value]
    assert (failed["ok"], failed["failed"].partition(":")[0]) == (False, "ZeroDivisionError")
    monkeypatch.setattr(scan_torch, "backward", lambda *x, dy, right=scan_torch.backward: [
        g + (dy.dtype == torch.float32) for g in right(*x, dy=dy)
    ])  # fmt: skip
    assert [row["ok"] for row in gpu.check_scans(torch.device("cpu"))] == [False, False]


def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        gpu.main([])
    assert "no CUDA device here" in capsys.readouterr().err
