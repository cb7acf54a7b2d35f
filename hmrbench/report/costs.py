"""Runs of `profile` -> the counts of each model, and its speed in the one setting that most models have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hmrbench.errors import UsageError
from hmrbench.metrics.measures import COUNTS, SPEEDS
from hmrbench.report.views import Row
from hmrbench.results.runs import SPEED_SETTING, Run, speed_setting


@dataclass(frozen=True)
class Speed:
    """The speed to show: part of the device's name, type, batch size; None for what most models have."""

    device: str | None = None
    dtype: str | None = None
    batch_size: int | None = None


def describe_speed(setting: Sequence[Any]) -> str:
    """A speed's setting in words."""
    device, dtype, batch_size, *rest = setting
    more = [k if v is True else f"{k} {v}" for k, v in zip(SPEED_SETTING[3:], rest, strict=True) if v and v != "model"]
    return ", ".join([f"batch size {batch_size}", str(dtype), *more, str(device)])


def join_costs(runs: Sequence[Run], speed: Speed) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Counts of each model's newest profile, and its speed in one setting for all; notes say which."""
    profiles = [r.row for r in runs if r.kind == "profile"]
    costs: dict[str, dict[str, Any]] = {}
    for row in profiles:
        counted = {k: row[k] for k in COUNTS if row.get(k) is not None}
        if counted:
            named = {k: row[k] for k in ("task", "input", "backend") if row.get(k) is not None}
            costs[row["model"]] = costs.get(row["model"], {}) | named | counted
    timed = [r for r in profiles if r.get("latency_ms") is not None]
    chosen = [r for r in timed if _matches(r, speed)]
    if not chosen:
        if speed != Speed():
            known = "; ".join(dict.fromkeys(describe_speed(speed_setting(r)) for r in timed)) or "none"
            raise UsageError(f"no speed of that kind was measured; there is: {known}")
        return costs, []
    models: dict[tuple[Any, ...], set[str]] = {}
    for row in chosen:
        models.setdefault(speed_setting(row), set()).add(row["model"])
    best = max(models, key=lambda s: (len(models[s]), list(models).index(s)))
    newest = {row["model"]: row for row in chosen if speed_setting(row) == best}
    for model, row in newest.items():
        told = {k: row[k] for k in (*SPEEDS, "spread", "stable") if row.get(k) is not None}
        costs.setdefault(model, {}).update(told, speed=describe_speed(best))
    notes = [f"speed: {describe_speed(best)}"]
    unsteady = [model for model, row in newest.items() if row.get("stable") is False]
    if unsteady:
        notes.append(f"speed that varied too much to rely on: {', '.join(unsteady)}")
    backends: dict[str, list[str]] = {}
    for model, row in newest.items():
        if row.get("backend"):
            backends.setdefault(row["backend"], []).append(model)
    notes += [f"speed with backend {name}: {', '.join(own)}" for name, own in backends.items()]
    others = [s for s in dict.fromkeys(speed_setting(r) for r in timed) if s != best]
    if others:
        notes.append("speed also measured: " + "; ".join(f"{describe_speed(s)}" for s in others))
    return costs, notes


def _matches(row: Row, speed: Speed) -> bool:
    return (
        (speed.device is None or speed.device.lower() in str(row["device"]).lower())
        and speed.dtype in (None, row["dtype"])
        and speed.batch_size in (None, row["batch_size"])
    )
