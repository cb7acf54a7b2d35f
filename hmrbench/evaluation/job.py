"""What is evaluated and how, with everything checked that can be checked before anything slow starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from hmrbench import data, environment, metrics, runtimes, zoo
from hmrbench.body import Body, WholeBody
from hmrbench.body.decode import mesh_codec_of
from hmrbench.body.mesh_assets import MeshAssets
from hmrbench.cards import load_card
from hmrbench.codecs import Codec
from hmrbench.data.crop import crops_of
from hmrbench.data.family_crops import has_box_numbers
from hmrbench.device import DTYPES, device_name
from hmrbench.errors import DataError, UsageError, blamed_on
from hmrbench.evaluation.bodies import body_for, mesh_codec, usual_body, whole_body_for
from hmrbench.evaluation.protocols import assets_for, with_protocol
from hmrbench.fetch import sources
from hmrbench.files import file_sha256
from hmrbench.records import NO_BOXES, Dataset
from hmrbench.results import runs as results
from hmrbench.runtimes import Exported, Runtime, Setting
from hmrbench.runtimes.pytorch import PYTORCH
from hmrbench.schema import DatasetSpec, ModelCard
from hmrbench.schema.importing import beside


@dataclass(frozen=True)
class EvaluationSettings:
    """How a network is evaluated. The command line, `hmrbench.evaluate` and training build the same object.

    Attributes:
        weights: `random`, `demo`, a file, or a source; None for the data set's default where the card has it, else the
            card's own.
        data_root: the folder of the data sets.
        boxes: `gt` or `det`, where the data set has them; None for its default; `none`, or None, where a bottom-up
            network finds the people itself.
        flip: average pose networks with the mirrored picture.
        codec: in place of the card's.
        device: `auto`, `cpu`, `cuda`, `cuda:1`.
        dtype: fp32, bf16 or fp16; a file has its own.
        runtime: what runs the network, by name or import path, or the file to run, see `runtimes`; None for the card's
            own, or PyTorch.
        fused: let the network take its short cuts, see `nets.fusion`.
        cuda_graph: replay a CUDA graph of the forward; None: on a CUDA device, where it can be captured.
        batch_size: people, or whole pictures, at once; `auto` is 64 on a GPU, else 8.
        workers: threads that read and crop pictures; as many as there are cores.
        limit: the first people, or whole pictures, only; the row is then partial.
        models_dirs: folders of further model cards.
        datasets_file: a further file of data sets.
        protocol: for meshes, whose rule: metro, spin, smplerx, smpl24, `all` side by side; None is 4D-Humans'.
        mesh_assets: file of the matrices that METRO and its kin, and some rules, need; None for the stored one.
    """

    weights: str | Path | None = None
    data_root: str | Path | None = None
    boxes: str | None = None
    flip: bool = True
    codec: str | None = None
    device: str = "auto"
    dtype: str = "fp32"
    runtime: str | None = None
    fused: bool = True
    cuda_graph: bool | None = None
    batch_size: str | int = "auto"
    workers: int = field(default_factory=environment.usable_cpus)
    limit: int | None = None
    models_dirs: Sequence[str | Path] = ()
    datasets_file: str | Path | None = None
    protocol: str | None = None
    mesh_assets: Path | None = None


@dataclass(frozen=True)
class Job:
    """One evaluation, with everything checked that can be checked before anything slow starts."""

    card: ModelCard
    spec: DatasetSpec
    dataset: Dataset
    weights: str
    weights_path: Path | None
    weights_sha256: str | None
    codec: Codec
    body: Body | WholeBody | None
    flip: bool
    device: torch.device
    dtype: str
    batch_size: int
    workers: int
    runtime: Runtime
    setting: Setting
    exported: Exported | None = None
    fused: bool = True
    assets: MeshAssets | None = None
    whole: WholeBody | None = None  # SMPL-X, whose own joints a rule takes

    @property
    def key(self) -> str:
        """What two runs share only if everything that decides their predictions is the same."""
        return results.run_key(
            {
                "card": self.card.model_dump(mode="json"),
                "dataset": self.dataset.name,
                "annotations": self.dataset.annotations_sha256,
                "boxes": self.dataset.boxes,
                "samples": [s.id for s in self.dataset.samples],
                "weights": self.weights_sha256 or self.weights,
                "codec": self.codec.name,
                "protocol": self.protocol,
                "flip": self.flip,
                "device": device_name(self.device),
                "dtype": self.dtype,
                "fused": self.fused,
                "runtime": [self.runtime.name, self.runtime.version, self.setting.device],
                "file": None if self.exported is None else dict(self.exported.record["files"]),
                "batch_size": self.batch_size,
                "versions": environment.versions(),
                "commit": environment.commit(),
            }
        )

    @property
    def remarks(self) -> list[str]:
        """What a reader of the numbers must know of the network."""
        found = []
        if self.starts_from_smpl is False:
            found.append(
                "the mesh at rest from which this network starts is not that of the installed SMPL: the accuracy is "
                "not the official one"
            )
        if self.card.task == "hmr" and mesh_codec_of(self.card).mesh == "smplx" and isinstance(self.body, Body):
            found.append(
                "SMPL posed by the rotations for SMPL-X, with the mean shape, since the two bodies have other shapes: "
                "an approximation of this network's mesh"
            )
        return found

    @property
    def starts_from_smpl(self) -> bool | None:
        """Whether the mesh at rest from which the network starts is SMPL's; None where it starts from none."""
        if self.assets is None or zoo.needs_mesh(self.card) != "template":
            return None
        return self.assets.smpl_template

    @property
    def run_key(self) -> str:
        """What two runs share only if they also say the same of their predictions."""
        return results.run_key({"predictions": self.key, "metrics": self.spec.metrics})

    @property
    def protocol(self) -> dict[str, Any]:
        """What else decided the numbers: the body model with its regressors and mesh assets, for meshes; what the card
        says of decoding and of the crop that is not as usual."""
        body: dict[str, Any] = {}
        if self.body is not None:
            body = {"body": Path(self.body.source).name, "body_sha256": self.body.sha256}
        if self.whole is not None:
            body |= {"whole_body": Path(self.whole.source).name, "whole_body_sha256": self.whole.sha256}
        if self.assets is not None:
            body |= {"mesh_assets": self.assets.source.name, "mesh_assets_sha256": self.assets.sha256}
            if self.starts_from_smpl is not None:
                body["template"] = "SMPL's" if self.starts_from_smpl else "not SMPL's"
        for name, said in (("decode", self.card.decode), ("crop", self.card.crop)):
            unusual = said.model_dump(mode="json", exclude_defaults=True, exclude={"kind", "mean", "std"})
            body |= {name: unusual} if unusual else {}
        return body


def pick_batch_size(wanted: str | int, device: torch.device) -> int:
    """A batch size from what was asked for; `auto` is 64 on a GPU, else 8: larger ones gain nothing on a CPU."""
    if wanted == "auto":
        return 64 if device.type == "cuda" else 8
    try:
        size = int(wanted)
    except ValueError:
        size = 0
    if size < 1:
        raise UsageError(f"batch size must be 'auto' or a number above 0, not '{wanted}'")
    return size


def boxes_of(card: ModelCard, wanted: str | None) -> str | None:
    """The boxes that `data.open_dataset` is asked for: none for a network that finds the people itself.

    Raises:
        UsageError: that network is to have boxes, or another one none.
    """
    whole = card.crop.kind == "bottom-up"
    if whole and wanted not in (None, NO_BOXES):
        raise UsageError(f"{card.name} finds the people in whole pictures itself: it takes no '{wanted}' boxes")
    if not whole and wanted == NO_BOXES:
        raise UsageError(f"{card.name} does not find people itself: it needs boxes")
    return NO_BOXES if whole else wanted


def card_and_spec(
    model: str | ModelCard,
    dataset: str | DatasetSpec,
    models_dirs: Sequence[str | Path],
    datasets_file: str | Path | None,
) -> tuple[ModelCard, DatasetSpec]:
    """A network and a data set of the same task, by their names where they are not given themselves.

    Raises:
        UsageError: an unknown name, or two tasks.
    """
    card = model if isinstance(model, ModelCard) else load_card(model, models_dirs)
    spec = dataset if isinstance(dataset, DatasetSpec) else data.load_spec(dataset, datasets_file)
    if card.task != spec.task:
        raise UsageError(f"{card.name} is a network for {card.task}, {spec.name} a data set for {spec.task}")
    return card, spec


def prepare(
    model: str | ModelCard,
    dataset: str | DatasetSpec,
    settings: EvaluationSettings | None = None,
    opened: Dataset | None = None,
) -> Job:
    """Check everything cheap and return what `run` needs.

    Args:
        opened: the data set, if it was opened before for another model; opened anew where that saw people in boxes and
            this one sees whole pictures, or the other way round.

    Raises:
        UsageError: an unknown name, a model of another task, invalid settings.
        DataError: data or weights are missing or broken.
    """
    s = settings or EvaluationSettings()
    card, spec = card_and_spec(model, dataset, s.models_dirs, s.datasets_file)
    if s.dtype not in (known := (*DTYPES, *(["int8"] if s.runtime else []))):
        raise UsageError(f"dtype must be one of {', '.join(known)}, not '{s.dtype}'")
    runtime, exported = runtimes.choose(card, s.runtime)
    dtype = s.dtype if exported is None else exported.precision(s.dtype)
    if spec.options.get("protocol") is None:  # else the data set was opened for it
        spec = with_protocol(spec, s.protocol)
    for name in spec.metrics:
        metrics.find_metric(name, spec.file)
    body, whole = body_for(card, spec), whole_body_for(card, spec)
    found = _codec(card, body, whole, s.codec)
    assets = assets_for(spec, bool(zoo.needs_mesh(card)), s.mesh_assets)
    if has_box_numbers(card.crop) and runtime.name != PYTORCH.name and runtime.write is None:
        raise UsageError(f"{card.name} is given the place of its box beside the picture, which {runtime.name} cannot")
    setting = _setting(runtime, card, s, dtype)
    label, path, sha256 = _weights(card, spec, s.weights, exported)
    boxes = boxes_of(card, s.boxes)
    fits = opened is not None and (opened.boxes == NO_BOXES) == found.whole
    people = opened if opened is not None and fits else data.open_dataset(spec, s.data_root, boxes, s.limit)
    if exported is not None:
        exported.check_scored(people)
    _check_people(people, card, spec, s.data_root)
    return Job(
        card=card,
        spec=spec,
        dataset=replace(people, scoring=card.decode.scoring) if card.task == "hpe" else people,
        weights=label,
        weights_path=path,
        weights_sha256=sha256,
        codec=found,
        body=body,
        flip=s.flip and card.task == "hpe",
        device=setting.place,
        dtype=dtype,
        batch_size=pick_batch_size(s.batch_size, setting.place),
        workers=s.workers,
        runtime=runtime,
        setting=setting,
        exported=exported,
        fused=s.fused,
        assets=assets,
        whole=whole,
    )


def _setting(runtime: Runtime, card: ModelCard, settings: EvaluationSettings, dtype: str) -> Setting:
    """How the network is to run.

    Raises:
        UsageError: the runtime has no such device or precision, or no CUDA graphs.
    """
    device = runtime.check(card.name, settings.device, dtype)
    found = Setting(device, dtype, card.input, fused=settings.fused, cuda_graph=settings.cuda_graph)
    if settings.cuda_graph and (runtime.name != PYTORCH.name or found.place.type != "cuda"):
        raise UsageError(f"a CUDA graph needs PyTorch on a CUDA device, not {runtime.name} on {device}")
    return found


def _codec(card: ModelCard, body: Body | WholeBody | None, whole: WholeBody | None, name: str | None) -> Codec:
    """The codec of a card, or one of another name: of what the network sees."""
    found = mesh_codec(card, body, whole) if card.task == "hmr" else zoo.codec_of(card, name)
    if found.whole != (card.crop.kind == "bottom-up"):
        of = ("whole pictures", "people in boxes")
        raise UsageError(f"codec '{found.name}' is for {of[not found.whole]}, {card.name} sees {of[found.whole]}")
    return found


def _weights(
    card: ModelCard, spec: DatasetSpec, given: str | Path | None, exported: Exported | None
) -> tuple[str, Path | None, str | None]:
    """What weights are called in the row, their file, and its sha256; a file to run says them itself."""
    if exported is None or given is not None:
        default = spec.default_weights if card.demo_weights is not None else None
        label, path = sources.resolve_weights(card, default if given is None else given)
        sha256 = None if path is None else file_sha256(path)
    if exported is not None:
        exported.check_source(card, *(("", None) if given is None else (label, sha256)))
        label, path, sha256 = exported.record["weights"], None, exported.record["weights_sha256"]
    return label, path, sha256


def _check_people(people: Dataset, card: ModelCard, spec: DatasetSpec, data_root: str | Path | None) -> None:
    """Refuse, before anything slow, pictures too large for a bottom-up network, and a truth that a metric cannot score.

    Raises:
        DataError: names the picture, or the file of the truth.
    """
    whole = card.crop.kind == "bottom-up"
    for sample in {s.box_xywh_px: s for s in people.samples}.values() if whole else ():
        crops_of([sample], card.crop, card.input)
    for name in spec.metrics:
        check = metrics.find_metric(name, spec.file).check
        try:
            with blamed_on(f"{spec.name}: metric '{name}' cannot score its truth", DataError), beside(spec.file):
                if check is not None:
                    check(people)
        except DataError as e:
            raise DataError(f"{data.find_folder(spec, data_root) / spec.annotations}: {e}") from e


def prepare_pictures(
    model: str | ModelCard, settings: EvaluationSettings | None = None, body: str | None = None
) -> Job:
    """`prepare` for pictures of no data set; who is in them comes later, see `pictures.predict_picture`.

    Args:
        body: for a mesh network: smpl, free, free-lite, and for SMPLer-X smplx. None is smpl; for SMPLer-X it is smplx
            where that is installed, else smpl, and where neither is, nothing: its parameters and joints need no body.
    """
    settings = settings or EvaluationSettings()
    card = model if isinstance(model, ModelCard) else load_card(model, settings.models_dirs)
    none: dict[str, Any] = dict.fromkeys(("reader", "folder", "annotations", "images", "licence"), "")
    options = {"body": body or usual_body(card)}
    spec = DatasetSpec(name="pictures", task=card.task, title="loose pictures", metrics=(), options=options, **none)
    boxes = NO_BOXES if card.crop.kind == "bottom-up" else "given"
    return prepare(card, spec, settings, Dataset("pictures", (), None, boxes, "", 0))
