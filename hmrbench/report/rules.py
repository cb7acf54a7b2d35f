"""The same predictions under several families' rules, side by side: numbers, and what each rule does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hmrbench.evaluation.protocols import OWN
from hmrbench.report.views import View

_NUMBERS = ("MPJPE", "PA-MPJPE", "PVE")
_SAID = {
    "joints": "joints",
    "predicted": "predicted joints",
    "pelvis": "pelvis",
    "regressor": "regressor",
    "truth": "truth",
    "vertices": "vertices",
}


def rules_view(rows: Sequence[Mapping[str, Any]]) -> View:
    """One line for each row of `eval` or `score` and rule in it; scores in mm."""
    several = len(rows) > 1
    cells = []
    for row in rows:
        for rule, said in row["protocol"].get("rules", {}).items():
            end = "" if rule == OWN else f"@{rule}"
            scores = [row["metrics"].get(f"{name}{end}") for name in _NUMBERS]
            names = [row["model"], row["dataset"]] if several else []
            cells.append([rule, *names, *scores, *(said.get(key) for key in _SAID)])
    columns = ["rule", *(["model", "dataset"] if several else []), *_NUMBERS, *_SAID.values()]
    caption = "mm; each rule for comparison with numbers that were published by it, not with those of another rule"
    return View(columns, cells, caption)
