"""`hmrbench predict`: look at what a network says of pictures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hmrbench.cli.options import (
    BatchSize,
    Device,
    Dtype,
    Json,
    MeshAssetsFile,
    Model,
    ModelsDirs,
    Runtime,
    Weights,
    print_json,
    progress_bar,
    show_table,
    stderr,
)
from hmrbench.errors import HmrbenchError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from hmrbench.evaluation import Job
    from hmrbench.pictures.predict import Picture
    from hmrbench.records import Sample


def predict(
    model: Model,
    image: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Pictures.")],
    boxes: Annotated[
        str,
        typer.Option(
            "--boxes",
            metavar="full|X,Y,W,H|FILE.json",
            help="'full': the whole picture is one person. Or a box in pixels (several: 'X,Y,W,H X,Y,W,H'). Or a file "
            "of boxes: COCO results or annotations, "
            'mmdetection\'s, or {"a.jpg": [[x, y, w, h], ...]}.',
        ),
    ] = "full",
    box_score: Annotated[float, typer.Option("--box-score", help="Leave out boxes of lower scores.")] = 0.3,
    keypoint_score: Annotated[
        float, typer.Option("--keypoint-score", help="Do not draw keypoints of lower scores.")
    ] = 0.1,
    weights: Weights = None,
    body: Annotated[
        str | None,
        typer.Option(
            "--body",
            help="For meshes: smpl, or smplx for SMPLer-X (must be installed), or free or free-lite, which come along.",
        ),
    ] = None,
    flip: Annotated[
        bool, typer.Option("--flip/--no-flip", help="Average with the mirrored picture (pose only).")
    ] = True,
    side_view: Annotated[bool, typer.Option("--side-view", help="Also show meshes from the side.")] = False,
    save_mesh: Annotated[
        Literal["obj", "ply", "npz"] | None, typer.Option("--save-mesh", help="Also write each person's mesh.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the results go.")] = Path("predictions"),
    device: Device = "auto",
    dtype: Dtype = "fp32",
    runtime: Runtime = None,
    batch_size: BatchSize = "auto",
    models_dir: ModelsDirs = None,
    mesh_assets: MeshAssetsFile = None,
    json: Json = False,
) -> None:
    """Draw what a network sees: keypoints, or a mesh rendered over the picture, and a JSON beside it.

    Writes `NAME-MODEL.png` and `NAME-MODEL.json` for each picture NAME. A picture that cannot be done is
    reported, and the others are done all the same.
    """
    from dataclasses import replace

    from hmrbench.cards import load_card
    from hmrbench.evaluation import EvaluationSettings, prepare_network, prepare_pictures
    from hmrbench.fetch import sources
    from hmrbench.pictures import predict as pictures
    from hmrbench.pictures.boxes import named_boxes, people_in

    stems = _stems(image)
    if out.is_file():
        raise UsageError(f"{out} is a file; -o wants a folder")
    settings = EvaluationSettings(
        weights=weights,
        flip=flip,
        device=device,
        dtype=dtype,
        runtime=runtime,
        batch_size=batch_size,
        workers=1,
        mesh_assets=mesh_assets,
    )
    card = load_card(model, models_dir or [])
    if weights is None and card.demo_weights is not None and sources.find_weights(card) is None:
        weights = "demo"
        settings = replace(settings, weights=weights)
        stderr().print(
            f"{card.name}: demo weights, which know synthetic people alone; no others are here", soft_wrap=True
        )
    job = prepare_pictures(card, settings, body or ("free" if weights == "demo" else None))
    _check_options(job, boxes, body, meshes=bool(side_view or save_mesh))
    found = None if boxes == "full" else named_boxes(boxes, list(stems))
    for said in job.remarks:
        stderr().print(f"{job.card.name}: {said}", markup=False, soft_wrap=True)
    remark = stderr()
    failures: list[HmrbenchError] = []
    people: dict[Path, list[Sample]] = {}
    for path in stems:  # all are looked at before the network is made
        with _reported(remark, failures):
            people[path] = people_in(path, found, box_score)
    done = []
    if people:
        net, _ = prepare_network(job)
        total, looked_at = sum(map(len, people.values())), 0
        with progress_bar(remark, "people") as progress:
            for path, samples in people.items():
                with _reported(remark, failures):
                    picture = pictures.predict_picture(net, job, path, samples)
                    target = out / f"{stems[path]}-{job.card.name}.png"
                    done.append(_write(picture, job, target, side_view, save_mesh, keypoint_score))
                    if samples and (nothing := _nothing_drawn(picture, job, keypoint_score)):
                        remark.print(f"{path}: {nothing}", markup=False)
                    looked_at += len(samples)
                    progress(job.card.name, looked_at, total)
    if json:
        print_json(done)
    elif done:
        rows = [[Path(d["image"]).name, len(d["people"]), str(out / d["picture"])] for d in done]
        show_table(["picture", "people", "written"], rows)
    if failures:
        raise typer.Exit(max(e.exit_code for e in failures))


def _check_options(job: Job, boxes: str, body: str | None, meshes: bool) -> None:
    """Refuse what is asked of another kind of network, or without the body that it takes."""
    from hmrbench.body import find_whole_body

    if job.card.task == "hpe" and (meshes or body):
        raise UsageError(
            f"{job.card.name} predicts no meshes: --side-view, --save-mesh, --body are for networks that do"
        )
    if job.card.crop.kind == "bottom-up" and boxes != "full":
        raise UsageError(f"{job.card.name} finds the people in whole pictures itself: leave --boxes at full")
    if job.card.task == "hmr" and job.body is None:
        if meshes:
            find_whole_body()  # which says how to get it
        stderr().print(
            f"{job.card.name}: no mesh is drawn, but the joints that it finds: SMPL-X is not installed "
            "(hmrbench body install SMPLX_NEUTRAL.npz)", soft_wrap=True
        )  # fmt: skip


def _stems(images: list[Path]) -> dict[Path, str]:
    """Each picture's name in the results; two pictures must not be written to one file."""
    stems: dict[Path, str] = {}
    for path in images:
        for other, stem in stems.items():
            if stem == path.stem and other != path:
                raise UsageError(
                    f"{other} and {path} have the same name, and so would their results; do them one by one"
                )
        stems[path] = path.stem
    return stems


def _nothing_drawn(picture: Picture, job: Job, keypoint_score: float) -> str:
    """Why nothing is drawn on a picture of people; empty where something is."""
    if not picture.predictions:
        return "nobody was found"
    low = job.body is None and max(p.scores.max() for p in picture.predictions) < keypoint_score
    return f"no keypoint scores {keypoint_score:g}, so none is drawn" if low else ""


def _write(
    picture: Picture, job: Job, target: Path, side_view: bool, save_mesh: str | None, keypoint_score: float
) -> dict[str, Any]:
    """Write the drawn picture, its record and its meshes; returns the record."""
    from hmrbench import files
    from hmrbench.pictures import overlay
    from hmrbench.pictures import predict as pictures

    found = pictures.record(picture, job)
    meshes = [
        target.with_name(f"{target.stem}-{i}.{save_mesh}") for i in range(len(picture.meshes) if save_mesh else 0)
    ]
    for person, mesh, path in zip(found["people"], picture.meshes, meshes, strict=False):
        overlay.save_mesh(mesh, path)
        person["mesh"] = path.name
    pictures.write_png(pictures.draw(picture, side_view, keypoint_score), target)
    found["picture"] = target.name
    files.write_json(target.with_suffix(".json"), found)
    return found


@contextmanager
def _reported(remark: Console, failures: list[HmrbenchError]) -> Iterator[None]:
    """A known failure of one picture is printed and kept, so that the next one is done."""
    try:
        yield
    except HmrbenchError as e:
        failures.append(e)
        remark.print(f"error: {e}", markup=False, soft_wrap=True)
