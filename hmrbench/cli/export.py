"""`hmrbench export`: a network as a file of the runtime that will serve it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from hmrbench.cli.options import (
    Boxes,
    DataRoot,
    DatasetsFile,
    Json,
    Model,
    ModelsDirs,
    Weights,
    _complete_dataset,
    print_json,
    stdout,
)


def export(
    model: Model,
    runtime: Annotated[
        str, typer.Option("--runtime", help="onnx (ONNX Runtime), openvino, tensorrt, or an import path.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file: .onnx, or for OpenVINO .xml.")],
    dtype: Annotated[str, typer.Option("--dtype", help="fp32, fp16, bf16, int8.")] = "fp32",
    batch_size: Annotated[
        str, typer.Option("--batch-size", help="Pictures at once, or dynamic: any number, maybe slower.")
    ] = "1",
    weights: Weights = None,
    calibrate: Annotated[
        str | None,
        typer.Option(
            "--calibrate", help="For int8: the data set whose crops set the ranges.", autocompletion=_complete_dataset
        ),
    ] = None,
    calibration_crops: Annotated[
        int, typer.Option("--calibration-crops", min=1, help="How many of its people, spread over it.")
    ] = 128,
    max_drop: Annotated[
        str | None,
        typer.Option("--max-drop", help="For int8: leave costly layers in fp until a score drops no more: AP=0.5."),
    ] = None,
    data_root: DataRoot = None,
    boxes: Boxes = None,
    models_dir: ModelsDirs = None,
    datasets_file: DatasetsFile = None,
    json: Json = False,
) -> None:
    """Write a network for another runtime, and beside it a JSON: card, weights, versions, and how the check went.

    The file is run on crops of the demo's pictures and held against PyTorch; one that is off is not kept (exit code 1).
    `eval`, `profile` and `predict` run it by `--runtime FILE`.
    """
    from hmrbench.errors import UsageError
    from hmrbench.evaluation.export import CalibrationSettings, read_bound
    from hmrbench.evaluation.export import export as write
    from hmrbench.runtimes import ExportSettings

    if not (batch_size == "dynamic" or (batch_size.isascii() and batch_size.isdecimal() and int(batch_size) > 0)):
        raise UsageError(f"batch size is a number above 0 or 'dynamic', not '{batch_size}'")
    if max_drop is not None and calibrate is None:
        raise UsageError("--max-drop is for int8: --dtype int8 --calibrate DATASET")
    bound = None if max_drop is None else read_bound(max_drop)
    settings = ExportSettings(runtime, dtype, None if batch_size == "dynamic" else int(batch_size))
    calibration = (
        None
        if calibrate is None
        else CalibrationSettings(calibrate, calibration_crops, bound, data_root, boxes, datasets_file)
    )
    found = write(model, output, settings, weights=weights, calibrate=calibration, models_dirs=models_dir or [])
    if json:
        print_json(found.record)
        return
    for line in _told(output, found.record):
        stdout().print(line, soft_wrap=True)


def _told(output: Path, record: Mapping[str, Any]) -> Iterator[str]:
    """What a person wants to know of a file that was written."""
    check, search = record["check"], record["search"]
    yield f"{output}: {record['model']} for {record['runtime']} in {record['dtype']}, {record['file_mb']:.1f} MB"
    moved = "" if check["keypoints_px"] is None else f"; keypoints move by at most {check['keypoints_px']:.3g} px"
    yield (
        f"off PyTorch by at most {check['max_std']:.2g} standard deviations of the output "
        f"(root mean square {check['rms_std']:.2g}) on {check['crops']} crops{moved}"
    )
    if search:
        kept = f"{search['in_fp']} of {search['layers']} layers stay in fp"
        yield f"{kept}: {search['score']} drops by {search['drop']:.2f}"
