"""`hmrbench reproduce`: published numbers against what the public weights give here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hmrbench.cli.options import (
    DEFAULT_WORKERS,
    BatchSize,
    DataRoot,
    DatasetOption,
    DatasetsFile,
    Device,
    Dtype,
    Fuse,
    Json,
    MeshAssetsFile,
    ModelsDirs,
    Offline,
    Runs,
    Workers,
    print_json,
    progress_bar,
    show_table,
    stderr,
    stdout,
)


def reproduce(
    dataset: DatasetOption,
    pattern: Annotated[
        list[str] | None, typer.Argument(help="Names or globs of models; all with a published number if none.")
    ] = None,
    data_root: DataRoot = None,
    tolerance: Annotated[
        float | None,
        typer.Option("--tolerance", min=0, help="How far off is off; 0.2 (percent) and 0.5 (mm) if none."),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The HTML page.")] = Path("reproduce.html"),
    device: Device = "auto",
    dtype: Dtype = "fp32",
    fuse: Fuse = True,
    batch_size: BatchSize = "auto",
    workers: Workers = DEFAULT_WORKERS,
    offline: Offline = False,
    runs: Runs = Path("runs"),
    models_dir: ModelsDirs = None,
    mesh_assets: MeshAssetsFile = None,
    datasets_file: DatasetsFile = None,
    json: Json = False,
) -> None:
    """Fetch public weights, evaluate them by the protocol they were published with, and hold the numbers side by side.

    What was evaluated before is taken from `--runs`. Exit code 4 if a number is off by more than its tolerance.
    """
    from dataclasses import asdict

    from hmrbench import data, files
    from hmrbench.cards import find_cards, load_cards
    from hmrbench.cli.downloads import download_bar
    from hmrbench.compare import reproduce as claims_
    from hmrbench.errors import HmrbenchError, RegressionError
    from hmrbench.evaluation import EvaluationSettings
    from hmrbench.report import reproduced
    from hmrbench.results import runs as results

    spec = data.load_spec(dataset, datasets_file)
    known = load_cards(models_dir or [])
    cards = find_cards(pattern, known) if pattern else list(known.values())
    claims = claims_.find_claims(cards, spec, tolerance)
    results.try_writing(output)
    settings = EvaluationSettings(
        data_root=data_root,
        device=device,
        dtype=dtype,
        fused=fuse,
        batch_size=batch_size,
        workers=workers,
        mesh_assets=mesh_assets,
    )
    people = data.open_dataset(claims_.to_open(spec, claims), data_root)
    remark = stderr()
    if pattern and (silent := [c.name for c in cards if c.name not in {claim.card.name for claim in claims}]):
        words = f"without a published number on {spec.name}, so left out: {', '.join(silent)}"
        remark.print(words, markup=False, soft_wrap=True)
    with download_bar(remark) as fetching:
        weights = claims_.fetch_all(claims, offline=offline, progress=fetching)
    failures: list[HmrbenchError] = []
    rows = []
    with progress_bar(remark, "people") as progress:
        held = claims_.reproduce(
            claims, spec, settings, runs, weights=weights, people=people, progress=progress, failures=failures
        )
        for claim, found in zip(claims, held, strict=True):
            rows += [asdict(row) for row in found]
            if found[0].verdict == "not run":
                remark.print(f"{claim.card.name}: not run: {found[0].reason}", markup=False, soft_wrap=True)
    files.write_atomic(output, reproduced.page(rows, f"Published numbers on {spec.name}").encode())
    if json:
        print_json(rows)
    else:
        cells = [reproduced.cells(row) for row in rows]
        show_table(list(cells[0]), [list(row.values()) for row in cells])
        stdout().print(f"written to {output}", markup=False, soft_wrap=True)
    off = [row for row in rows if row["verdict"] == "off"]
    if off:
        first = reproduced.cells(off[0])
        raise RegressionError(
            f"{len(off)} of {len(rows)} numbers are off, first {first['model']}: {first['metric']} "
            f"{first['measured']}, published {first['published']}"
        )
    broken = [e.exit_code for e in failures if e.exit_code == 1]
    if broken or len(failures) == len(claims):
        raise typer.Exit(max(broken or [e.exit_code for e in failures]))
