"""`hmrbench check`: the gate. Exit code 4 if a score or a cost got worse than the baseline allows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hmrbench.cli.compare import Confidence, Resamples, Seed, own_metrics
from hmrbench.cli.options import DatasetsFile, Json, ModelsDirs, Runs, print_json, show_table, stderr, stdout

if TYPE_CHECKING:
    from hmrbench.compare.gate import Verdict


def check(
    baseline: Annotated[Path, typer.Option("--baseline", help="The file that says what is to be held.")],
    runs: Runs = Path("runs"),
    costs: Annotated[
        bool,
        typer.Option(
            "--costs",
            help="Count the parameters and MACs of all cards now instead of reading runs of profile.",
        ),
    ] = False,
    update: Annotated[
        bool, typer.Option("--update", help="Write the runs' numbers into the baseline; its tolerances stay.")
    ] = False,
    runtime: Annotated[
        str | None,
        typer.Option("--runtime", help="Hold the runs on this runtime against PyTorch's baseline, as after an export."),
    ] = None,
    dtype: Annotated[str | None, typer.Option("--dtype", help="Of these runs, where there are several.")] = None,
    interval: Annotated[
        bool,
        typer.Option(
            "--interval",
            help="A score is worse only if its paired interval lies beyond the tolerance, as for `compare`; with "
            "--update, keep what that needs beside the baseline.",
        ),
    ] = False,
    tolerance: Annotated[
        list[str] | None,
        typer.Option(
            "--tolerance",
            metavar="[NAME=]X",
            help="How much worse a score may be in its own unit (0.1 if nobody says), by which part of itself a count "
            "may differ (0), how many times as slow a network may be (1.1); X alone is for all scores. Goes "
            "before what the file says; with --update, into the file.",
        ),
    ] = None,
    resamples: Resamples = 1000,
    confidence: Confidence = 0.95,
    seed: Seed = 0,
    junit: Annotated[Path | None, typer.Option("--junit", help="Also write JUnit XML here.")] = None,
    summary: Annotated[
        Path | None,
        typer.Option("--summary", help="Also append markdown here, such as $GITHUB_STEP_SUMMARY."),
    ] = None,
    models_dir: ModelsDirs = None,
    datasets_file: DatasetsFile = None,
    json: Json = False,
) -> None:
    """Hold the newest runs against a baseline: accuracy, parameters and MACs, and speed on the same device.

    Missing and partial rows fail. Exit code 4 if anything regressed.
    """
    from dataclasses import asdict

    from hmrbench import files
    from hmrbench.compare import baselines, bootstrap, ci, gate
    from hmrbench.errors import DataError, RegressionError, UsageError
    from hmrbench.results import runs as results

    if not costs and not runs.is_dir():
        raise DataError(f"{runs}: no such folder of runs (--costs counts without one)")
    rows = baselines.rows_of_runs(results.load_runs(runs))
    held = None if update else baselines.read_baseline(baseline)
    if costs:
        wanted = None if held is None else [r["model"] for r in held["rows"] if r["kind"] == "counts"]
        rows = [r for r in rows if r["kind"] != "counts"] + _count_now(wanted, models_dir or [])
    if held is None and runtime:
        raise UsageError("--update writes what was measured: --runtime is for holding runs against it")
    if held is None:
        _update(baseline, rows, tolerance or [], interval, json)
        return
    if runtime is not None:
        held, rows = baselines.on_runtime(held, rows, runtime, dtype)
    held = baselines.with_tolerances(held, tolerance or [])
    intervals = None
    if interval:
        own = own_metrics({r["dataset"] for r in held["rows"] if r["kind"] == "accuracy"}, datasets_file)
        intervals = gate.Intervals(baselines.read_arrays_of(baseline), bootstrap.Draw(resamples, confidence, seed, own))
    verdicts = gate.check(held, rows, intervals)
    failed = gate.regressions(verdicts)
    if junit is not None:
        files.write_atomic(junit, ci.junit_xml(verdicts))
    if summary is not None:
        summary.parent.mkdir(parents=True, exist_ok=True)
        with summary.open("a", encoding="utf-8", errors="replace") as file:
            file.write(ci.summary_markdown(verdicts, baseline.name) + "\n")
    if json:
        print_json([asdict(v) for v in verdicts])
    else:
        _show(verdicts)
    if failed:
        models = len({v.model for v in failed})
        raise RegressionError(
            f"{len(failed)} of {len(verdicts)} numbers regressed, of {models} model(s); "
            f"first {ci.verdict_text(failed[0])}"
        )


def _show(verdicts: list[Verdict]) -> None:
    from hmrbench.compare import gate
    from hmrbench.compare.ci import format_number

    told = [v for v in verdicts if v.verdict != "ok"]
    cells = [
        [v.model, v.on, v.measure, format_number(v.measure, v.baseline), format_number(v.measure, v.value),
         f"{v.verdict}: {v.detail}" if v.detail else v.verdict]
        for v in told
    ]  # fmt: skip
    if told:
        show_table(["model", "on", "measure", "baseline", "now", "verdict"], cells)
    stdout().print(gate.conclusion(verdicts), soft_wrap=True)


def _update(path: Path, rows: list[dict[str, Any]], tolerance: list[str], interval: bool, json: bool) -> None:
    from hmrbench import files
    from hmrbench.compare import baselines
    from hmrbench.errors import DataError

    old = baselines.read_baseline(path) if path.is_file() else None
    new, remarks = baselines.update(old, rows)
    for line in remarks:
        stderr().print(line, markup=False, soft_wrap=True)
    if not new["rows"]:
        raise DataError("no run here can stand in a baseline: they must be whole and have succeeded")
    new = baselines.with_tolerances(new, tolerance)
    if interval or any("per_sample" in row for row in (old or {"rows": []})["rows"]):
        new = baselines.keep_arrays(new, rows, path)
    files.write_text(path, baselines.baseline_text(new))
    if json:
        print_json(new)
    else:
        stdout().print(f"{path}: {len(new['rows'])} rows", markup=False, soft_wrap=True)


def _count_now(models: list[str] | None, models_dirs: list[Path]) -> list[dict[str, Any]]:
    """Rows of parameters and MACs of these models, or of all cards, counted without data or weights."""
    from hmrbench.cards import load_cards
    from hmrbench.profiling import ProfileSettings, profile_card

    settings = ProfileSettings(device="cpu", repeats=0)
    cards = load_cards(models_dirs)
    rows = []
    with stderr().status("counting") as status:
        for card in [c for c in cards.values() if models is None or c.name in models]:
            status.update(f"counting {card.name}")
            found = next(profile_card(card, settings)).row()
            unknown = ", ".join(found.get("uncounted") or ())
            error = f"cannot be counted: {found['error']}" if found["error"] else unknown and f"nobody counts {unknown}"
            values = {} if error else {name: found[name] for name in ("params", "macs")}
            rows.append({"kind": "counts", "model": card.name, "values": values, **({"error": error} if error else {})})
    return rows
