"""`hmrbench score`: score predictions that were saved, by this tool or by another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hmrbench.cli.options import (
    Boxes,
    DataRoot,
    DatasetOption,
    DatasetsFile,
    Json,
    MeshAssetsFile,
    Protocol,
    print_json,
    show_evaluations,
    show_remarks,
)


def score(
    predictions: Annotated[
        Path,
        typer.Argument(
            help="COCO result json (pose) or npz (mesh: id, and vertices_m, joints_m, joints14_m, joints24_m or "
            "keypoints_px)."
        ),
    ],
    dataset: DatasetOption,
    data_root: DataRoot = None,
    boxes: Boxes = None,
    model: Annotated[str, typer.Option("--model", help="The name to put into the row.")] = "",
    runs: Annotated[Path | None, typer.Option("--runs", help="Also keep the row here.")] = None,
    datasets_file: DatasetsFile = None,
    protocol: Protocol = None,
    mesh_assets: MeshAssetsFile = None,
    json: Json = False,
) -> None:
    """Score saved predictions against a data set, with the very numbers that `eval` gives."""
    from hmrbench import data
    from hmrbench.evaluation import score_file
    from hmrbench.results.runs import NotWrittenError

    spec = data.load_spec(dataset, datasets_file)
    failure: NotWrittenError | None = None
    try:
        row = score_file(
            predictions, spec, data_root=data_root, boxes=boxes, model=model, runs=runs, protocol=protocol,
            mesh_assets=mesh_assets,
        ).row()  # fmt: skip
    except NotWrittenError as e:
        failure, row = e, e.result.row()
    show_remarks([row])
    if json:
        print_json([row])
    else:
        show_evaluations([row])
    if failure is not None:
        raise failure
