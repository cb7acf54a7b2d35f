"""`hmrbench score`: score predictions that were saved, by this tool or by another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hmrbench.cli.options import Boxes, DataRoot, DatasetOption, DatasetsFile, Json, print_json, show_remarks, show_view


def score(
    predictions: Annotated[Path, typer.Argument(help="COCO result json (pose) or npz (mesh).")],
    dataset: DatasetOption,
    data_root: DataRoot = None,
    boxes: Boxes = None,
    model: Annotated[str, typer.Option("--model", help="The name to put into the row.")] = "",
    runs: Annotated[Path | None, typer.Option("--runs", help="Also keep the row here.")] = None,
    datasets_file: DatasetsFile = None,
    json: Json = False,
) -> None:
    """Score saved predictions against a data set, with the very numbers that `eval` gives."""
    from hmrbench import data
    from hmrbench.evaluation import score_file
    from hmrbench.report import views
    from hmrbench.results.runs import NotWrittenError

    spec = data.load_spec(dataset, datasets_file)
    failure: NotWrittenError | None = None
    try:
        row = score_file(predictions, spec, data_root=data_root, boxes=boxes, model=model, runs=runs).row()
    except NotWrittenError as e:
        failure, row = e, e.result.row()
    show_remarks([row])
    if json:
        print_json([row])
    else:
        show_view(views.evaluation_view([row]))
    if failure is not None:
        raise failure
