"""What a YAML file may say: model cards and data set specs.

The files of this folder read them, say what is wrong with them, write them, and import what they name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from hmrbench.errors import nearest
from hmrbench.skeletons import COCO17, Skeleton, mirrored


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Entry(_Frozen):
    """A card or a spec: something with a name, read from a file."""

    name: str
    _file: Path | None = PrivateAttr(default=None)

    @property
    def file(self) -> Path | None:
        """The file that holds it, in whose folder the modules may lie that it names; None if of no file."""
        return self._file

    @property
    def where(self) -> str:
        """The name, after the file that holds it where it was read from one: for messages."""
        return f"{self._file}: '{self.name}'" if self._file else self.name


def _with_defaults(fields: Any, source: str, names: Iterable[str]) -> Any:
    """The fields with what some of them are where nothing is said: the same as another."""
    if not isinstance(fields, Mapping):
        return fields
    given = {key: value for key, value in fields.items() if key not in names or value not in (None, "")}
    return {**dict.fromkeys(names, fields.get(source)), **given}


NOT_STATED = "not stated"

# Sides of a network's input; the bound keeps a mistyped one from taking all memory.
Pixels = Annotated[int, Field(ge=1, le=8192)]


class Published(_Frozen):
    """A number that somebody else reported; never shown as measured.

    `variant` names the weights that it is of, where a card has several, and `codec` how they were decoded, where that
    is not the card's way.
    """

    dataset: str
    metric: str
    value: float
    source: str
    variant: str = ""
    codec: str | None = None


class Source(_Frozen):
    """Where a file can be had.

    `url` has a scheme (https:, hf:, gdrive:, file:, pypi:) or is `manual:`, then `page` says where a person gets it.
    `sha256` is that of the file wanted (of the member, where one is named), may be a prefix where the public source
    states only that, and is None where unknown. `layout` names the checkpoint
    layout, `read_in` the public file that states the address. Sources of one `variant` are mirrors of one file; those
    of another hold another one for the same use.
    """

    url: str
    layout: str = ""
    sha256: str | None = None
    file: str | None = None
    member: str | None = None
    page: str | None = None
    licence: str | None = None
    read_in: str = ""
    note: str = ""
    variant: str = ""


class Crop(_Frozen):
    """How a person's box becomes the network's input picture.

    The kinds beyond `topdown` and `square` (4D-Humans') are those of `data.family_crops`.

    `order` is that of the channels which the network wants; `mean` and `std` are of these, in this order, of values
    from 0 to 1 (0 and 1 leave them so). Whether a picture is measured as UDP or as the classic way does is the codec's
    to say.
    """

    kind: Literal["topdown", "square", "bottom-up", "metro", "spin", "cliff", "smplerx"] = "topdown"
    padding: float = 1.25
    order: Literal["rgb", "bgr"] = "rgb"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)


class Head(_Frozen):
    """The decoder: its kind and sizes.

    `kind` is heatmap, simcc, rtmcc or smpl, or the import path of another one's `hmrbench.nets.record.HeadKind`, which
    `options` are for. Of `heatmap` and `simcc`: `filters` of the transposed convolutions, in `groups`. Of `simcc` and
    `rtmcc`: `split`, bins per pixel. Of `smpl`: the others, all of them.
    """

    kind: str = "heatmap"
    options: dict[str, Any] = Field(default_factory=dict)
    filters: tuple[Annotated[int, Field(ge=1, le=8192)], ...] = (256, 256)
    groups: Annotated[int, Field(ge=1, le=8192)] = 1
    split: Annotated[float, Field(gt=0, le=16)] = 2.0
    depth: Annotated[int, Field(ge=1, le=256)] | None = None
    heads: Annotated[int, Field(ge=1, le=1024)] | None = None
    dim_head: Annotated[int, Field(ge=1, le=8192)] | None = None
    mlp_dim: Annotated[int, Field(ge=1, le=65536)] | None = None


class Decode(_Frozen):
    """How a network's outputs become people with scores, beside what its codec does.

    A person's score is its box's times the mean of the joint scores above `score_threshold`; people more alike than
    `nms_threshold` (OKS) are taken for one. `flip_shift` and `score` (which of the maxima of two axes) are options of
    codecs that have them; None for the codec's own.
    """

    score_threshold: Annotated[float, Field(ge=0, lt=1)] = 0.2
    nms_threshold: Annotated[float, Field(gt=0, le=1)] = 0.9
    flip_shift: Annotated[int, Field(ge=0, le=64)] | None = None
    score: Literal["max", "min"] | None = None

    @property
    def scoring(self) -> dict[str, float]:
        """What is no codec's: the two thresholds."""
        return self.model_dump(include={"score_threshold", "nms_threshold"})

    @property
    def codec_options(self) -> dict[str, Any]:
        """What is said of the codec."""
        return self.model_dump(exclude={"score_threshold", "nms_threshold"}, exclude_none=True)


class ModelCard(_Entry):
    """What a model is, where its weights are, and what was published about it.

    `task` and either `encoder` or `build` say enough; the family and the paper's name are then the model's own. The
    network is made of `encoder`, cut after `stages`, `neck` (which brings a map to stride 16, or none) and `head`; or
    `build` is a whole one: the name of one of ours (`nets.record.known_networks`), or the import path of what makes it,
    called with the card if it takes one. `encoder_from` names the model with whose encoder training starts, where that
    is not the encoder's own pretraining. `runtime` names what alone runs the network, where that is not PyTorch: an
    import path such as `mypkg:RUNTIME`, see `runtimes`.
    """

    paper_name: str = ""
    task: Literal["hpe", "hmr"]
    family: str = ""
    size: str = ""
    stages: int | None = None
    encoder: str | None = None
    build: str | None = None
    runtime: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    neck: Literal["stride16", "none"] = "stride16"
    head: Head = Head()
    input: tuple[Pixels, Pixels] = (256, 192)
    crop: Crop = Crop()
    codec: str = "udp"
    decode: Decode = Decode()
    licence: str = NOT_STATED
    weights: tuple[Source, ...] = ()
    demo_weights: Source | None = None
    encoder_weights: tuple[Source, ...] = ()
    encoder_from: str | None = None
    published: tuple[Published, ...] = ()
    assumed: tuple[str, ...] = ()
    notes: str = ""
    sources: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _named(cls, fields: Any) -> Any:
        return _with_defaults(fields, "name", ("paper_name", "family"))

    @property
    def foreign(self) -> bool:
        """Whether another package builds the network."""
        return self.build is not None and ":" in self.build

    @property
    def headline(self) -> tuple[Published, ...]:
        """The numbers of the weights that the card names first for a data set: what tables show."""
        first: dict[str, str] = {}
        for number in self.published:
            first.setdefault(number.dataset, number.variant)
        return tuple(p for p in self.published if first[p.dataset] == p.variant)

    @property
    def input_text(self) -> str:
        """Height x width, as the field writes it: 256x192."""
        return f"{self.input[0]}x{self.input[1]}"


class EncoderWeights(_Frozen):
    """Where the pretrained weights of an encoder can be had."""

    name: str
    sources: tuple[Source, ...]


class Part(_Frozen):
    """How one part of a data set is had: its annotation file, the pictures that this names, or a file of boxes.

    `sources` are mirrors of the file itself or of an archive that holds it, for `datasets fetch`. `archives` are the
    names (globs) under which it is handed out, `folders` where it may lie unpacked, both below the folder that is given
    to `datasets prepare`. Several files that match one of `archives` are the pieces of a split one, in the order of
    their names.
    """

    sources: tuple[Source, ...] = ()
    archives: tuple[str, ...] = ()
    folders: tuple[str, ...] = (".",)


# What a data set of a task is read by and measured with where its spec says nothing.
_USUAL: Mapping[str, Mapping[str, Any]] = {
    "hpe": {"reader": "coco", "metrics": ("coco-keypoints",)},
    "hmr": {"reader": "hmr-npz", "metrics": ("mpjpe", "pck")},
}


class JointSet(_Frozen):
    """The joints of a pose data set that are not COCO's 17, in the order of its annotations.

    `sigmas` are their OKS constants. `flip_pairs`, left and right by name or place, are those whose names differ in
    `left` and `right` where nothing is said. `limbs` are drawn.
    """

    joints: tuple[str, ...] = Field(min_length=1, max_length=1024)
    sigmas: tuple[Annotated[float, Field(gt=0, lt=10)], ...]
    flip_pairs: tuple[tuple[str | int, str | int], ...] | None = None
    limbs: tuple[tuple[str | int, str | int], ...] = ()

    @model_validator(mode="after")
    def _whole(self) -> JointSet:
        if len(set(self.joints)) < len(self.joints):
            raise ValueError("two joints have one name")
        if len(self.sigmas) != len(self.joints):
            raise ValueError(f"{len(self.sigmas)} sigmas for {len(self.joints)} joints")
        flips = [i for pair in self._places("flip_pairs", self.flip_pairs or ()) for i in pair]
        if len(set(flips)) < len(flips):
            raise ValueError("flip_pairs: a joint stands in two of them, or twice in one")
        self._places("limbs", self.limbs)
        return self

    def _places(self, what: str, pairs: Iterable[tuple[str | int, str | int]]) -> tuple[tuple[int, int], ...]:
        known: dict[str | int, int] = {name: i for i, name in enumerate(self.joints)}
        for joint in (joint for pair in pairs for joint in pair):
            if joint not in known and not (isinstance(joint, int) and 0 <= joint < len(known)):
                near = nearest(str(joint), self.joints, 1)
                raise ValueError(f"{what}: there is no joint {joint}{f'; did you mean {near[0]}?' if near else ''}")
        places: dict[str | int, int] = known | {i: i for i in range(len(known))}
        return tuple((places[a], places[b]) for a, b in pairs)

    def named(self, name: str) -> Skeleton:
        """The joint set under a name."""
        pairs = mirrored(self.joints) if self.flip_pairs is None else self._places("flip_pairs", self.flip_pairs)
        return Skeleton(name, self.joints, pairs, self._places("limbs", self.limbs), self.sigmas)


class DatasetSpec(_Entry):
    """Where a data set lies under the data root, who reads it, and what is measured on it.

    `task`, `annotations` and `images` say enough; reader and metrics are then those that are usual for the task.

    `skeleton` are the joints of a pose data set, where they are not COCO's. `parts` are `annotations`, `images` and the
    names of `boxes` that are files. An `embedded` set lies in this package. `default_weights` are those of cards that
    have such weights for this set.
    """

    task: Literal["hpe", "hmr"]
    title: str = ""
    reader: str = ""
    embedded: bool = False
    folder: str = "."
    annotations: str
    images: str
    boxes: dict[str, str | None] = Field(default={"gt": None})
    default_boxes: str = "gt"
    default_weights: Literal["demo"] | None = None
    metrics: tuple[str, ...] = ()
    options: dict[str, Any] = Field(default_factory=dict)
    counts: dict[str, int] = Field(default_factory=dict)
    licence: str = NOT_STATED
    parts: dict[str, Part] = Field(default_factory=dict)
    skeleton: JointSet | None = None
    notes: str = ""

    @property
    def joint_set(self) -> Skeleton:
        """The joints of a pose data set: COCO's where nothing is said."""
        return COCO17 if self.skeleton is None else self.skeleton.named(self.name)

    @model_validator(mode="before")
    @classmethod
    def _usual(cls, fields: Any) -> Any:
        given = _with_defaults(fields, "name", ("title",))
        return {**_USUAL.get(str(given.get("task")), {}), **given} if isinstance(given, Mapping) else given
