"""`hmrbench eval`: how accurate networks are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hmrbench.cli.options import (
    DEFAULT_WORKERS,
    BatchSize,
    Boxes,
    DataRoot,
    DatasetOptions,
    DatasetsFile,
    Device,
    Dtype,
    Fuse,
    Json,
    MeshAssetsFile,
    Models,
    ModelsDirs,
    NoCudaGraph,
    Protocol,
    Runs,
    Runtime,
    Weights,
    Workers,
    print_json,
    progress_bar,
    show_evaluations,
    show_remarks,
    stderr,
)

if TYPE_CHECKING:
    from hmrbench.errors import HmrbenchError
    from hmrbench.evaluation import Job


def evaluate(
    model: Models,
    dataset: DatasetOptions,
    weights: Weights = None,
    data_root: DataRoot = None,
    boxes: Boxes = None,
    flip: Annotated[bool, typer.Option("--flip/--no-flip", help="Average with the mirrored picture.")] = True,
    codec: Annotated[
        str | None,
        typer.Option(
            "--codec",
            metavar="NAME",
            help="How outputs become keypoints: heatmaps by udp, plain, dark, msra-hrnet, msra-mmpose0, msra-mmpose1; "
            "bins by simdr, sa-simdr, simcc, rtmpose; whole pictures by grouping; or module:NAME; the card's if none.",
        ),
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "fp32",
    runtime: Runtime = None,
    fuse: Fuse = True,
    no_cuda_graph: NoCudaGraph = False,
    batch_size: BatchSize = "auto",
    workers: Workers = DEFAULT_WORKERS,
    limit: Annotated[
        int | None,
        typer.Option("--limit", min=1, help="First N people (bottom-up: pictures) only; the row is partial."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue a run that was stopped; keep finished ones.")
    ] = False,
    save_predictions: Annotated[
        Path | None,
        typer.Option("--save-predictions", help="Also write the predictions: a file, or a folder for several."),
    ] = None,
    runs: Runs = Path("runs"),
    models_dir: ModelsDirs = None,
    protocol: Protocol = None,
    mesh_assets: MeshAssetsFile = None,
    datasets_file: DatasetsFile = None,
    json: Json = False,
) -> None:
    """Evaluate networks on data sets by the field's exact protocol; one row each, kept under `--runs`.

    Under `torchrun --nproc-per-node N -m hmrbench eval ...` processes share the people; the numbers stay the same.

    Without weights it stops (exit code 3) and says where they come from.
    """
    from hmrbench import data, distributed
    from hmrbench.cards import find_cards, load_cards
    from hmrbench.errors import HmrbenchError
    from hmrbench.evaluation import EvaluationSettings, boxes_of, prepare, run, try_outputs, with_protocol
    from hmrbench.results.runs import NotWrittenError

    distributed.start()
    cards = find_cards(model, load_cards(models_dir or []))
    settings = EvaluationSettings(
        weights=weights, boxes=boxes, flip=flip, codec=codec, device=device, dtype=dtype, runtime=runtime,
        fused=fuse, cuda_graph=False if no_cuda_graph else None, batch_size=batch_size, workers=workers,
        mesh_assets=mesh_assets, data_root=data_root,
    )  # fmt: skip
    jobs: list[Job] = []
    for name in dict.fromkeys(dataset):
        spec = with_protocol(data.load_spec(name, datasets_file), protocol)
        boxes_for = {card.name: boxes_of(card, boxes) for card in cards}
        opened = {b: data.open_dataset(spec, data_root, b, limit) for b in dict.fromkeys(boxes_for.values())}
        jobs += [prepare(card, spec, settings, opened[boxes_for[card.name]]) for card in cards]
    targets = [_predictions_path(save_predictions, job, len(jobs)) for job in jobs]
    with distributed.together():
        for job, target in zip(jobs, targets, strict=True) if distributed.is_first() else ():
            try_outputs(job, runs, target)
    remark = stderr()
    remark.quiet = not distributed.is_first()
    done: list[dict[str, Any]] = []
    failures: list[HmrbenchError] = []
    with progress_bar(remark, "people") as progress:
        for job, target in zip(jobs, targets, strict=True):
            try:
                done.append(run(job, runs=runs, resume=resume, save_predictions=target, progress=progress).row())
            except HmrbenchError as e:  # the other models are evaluated all the same
                failures.append(e)
                of = "" if job.card.name in str(e) else f"{job.card.name} on {job.spec.name}: "
                remark.print(f"error: {of}{e}", markup=False, soft_wrap=True)
                if isinstance(e, NotWrittenError):
                    done.append(e.result.row())
            except KeyboardInterrupt:
                remark.print("stopped; --resume continues where this run is now", markup=False)
                raise
    show_remarks(done)
    if not distributed.is_first():
        pass
    elif json:
        print_json(done)
    elif done:
        show_evaluations(done)
    if failures:
        raise typer.Exit(max(e.exit_code for e in failures))


def _predictions_path(wanted: Path | None, job: Job, jobs: int) -> Path | None:
    """The file for one job's predictions: as named for a single job, else one in that folder for each."""
    if wanted is None or (jobs == 1 and wanted.suffix):
        return wanted
    suffix = ".json" if job.card.task == "hpe" else ".npz"
    return wanted / f"{job.card.name}-{job.spec.name}{suffix}"
