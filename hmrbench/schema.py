"""What a YAML file may say: model cards and data set specs, checked on reading."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hmrbench.errors import UsageError


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Published(_Frozen):
    """A number that somebody else reported; never shown as measured."""

    dataset: str
    metric: str
    value: float
    source: str


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
    """How a person's box becomes the network's input picture."""

    kind: Literal["topdown", "square"] = "topdown"
    padding: float = 1.25
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)


class Head(_Frozen):
    """The decoder: its kind and sizes (read by `zoo.build_net`)."""

    kind: Literal["heatmap", "smpl"] = "heatmap"
    depth: int | None = None
    heads: int | None = None
    dim_head: int | None = None
    mlp_dim: int | None = None


class Backend(_Frozen):
    """What computes a network that is not PyTorch's: its package, which rows name with its version, and its limits."""

    package: str
    devices: tuple[str, ...] = ("cpu",)
    dtypes: tuple[str, ...] = ("fp32",)


class ModelCard(_Frozen):
    """What a model is, where its weights are, and what was published about it.

    `encoder_from` names the model with whose encoder training starts, where that is not the encoder's own pretraining.
    """

    name: str
    paper_name: str
    task: Literal["hpe", "hmr"]
    family: str
    size: str
    stages: int | None = None
    encoder: str | None = None
    build: str | None = None
    backend: Backend | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    head: Head = Head()
    input: tuple[int, int]
    crop: Crop = Crop()
    codec: str = "udp"
    skeleton: str = "coco17"
    licence: str
    weights: tuple[Source, ...] = ()
    demo_weights: Source | None = None
    encoder_weights: tuple[Source, ...] = ()
    encoder_from: str | None = None
    published: tuple[Published, ...] = ()
    assumed: tuple[str, ...] = ()
    notes: str = ""
    sources: tuple[str, ...] = ()

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


class DatasetSpec(_Frozen):
    """Where a data set lies under the data root, who reads it, and what is measured on it.

    `parts` are `annotations`, `images` and the names of `boxes` that are files. An `embedded` set lies in this package.
    `default_weights` are those of cards that have such weights for this set.
    """

    name: str
    task: Literal["hpe", "hmr"]
    title: str
    reader: str
    embedded: bool = False
    folder: str
    annotations: str
    images: str
    boxes: dict[str, str | None] = Field(default={"gt": None})
    default_boxes: str = "gt"
    default_weights: Literal["demo"] | None = None
    metrics: tuple[str, ...]
    options: dict[str, Any] = Field(default_factory=dict)
    counts: dict[str, int] = Field(default_factory=dict)
    licence: str
    parts: dict[str, Part] = Field(default_factory=dict)
    notes: str = ""


# --------------------------------------------------------------------------- reading

_Model = TypeVar("_Model", bound=BaseModel)


def share_dir() -> Path:
    """The folder that holds `models/` and `datasets.yaml`: inside the wheel, or the top of a checkout."""
    packaged = Path(__file__).parent / "_share"
    return packaged if packaged.is_dir() else Path(__file__).parents[1]


def read_yaml(path: Path) -> Mapping[str, Any]:
    """The mapping in a YAML file.

    Raises:
        UsageError: the file is missing, not YAML, or not a mapping.
    """
    try:
        # The C loader reads the same language, ten times as fast.
        content = yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as e:
        raise UsageError(f"{path}: not readable as YAML ({e})") from e
    if not isinstance(content, Mapping):
        raise UsageError(f"{path}: must map names to what they are")
    return content


def validate(kind: type[_Model], path: Path, name: str, fields: Mapping[str, Any]) -> _Model:
    """A card or spec from its fields.

    Raises:
        UsageError: names the file, the entry and the first field that is not right.
    """
    try:
        return kind(name=name, **fields)
    except ValidationError as e:
        first = e.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UsageError(f"{path}: '{name}' is not right at {where}: {first['msg']}") from e
    except TypeError as e:
        raise UsageError(f"{path}: '{name}' is not right: {e}") from e


def import_object(path: str, what: str) -> Any:
    """The object at an import path, `package.module:name` or, for a whole module, `package.module`.

    Raises:
        UsageError: the module or the name in it cannot be had.
    """
    module, _, name = path.partition(":")
    try:
        found = importlib.import_module(module)
        return getattr(found, name) if name else found
    except (ImportError, AttributeError) as e:
        raise UsageError(f"{what} '{path}' cannot be imported: {e}") from e
