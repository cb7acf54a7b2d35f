"""What a YAML file may say: model cards and data set specs, checked on reading."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from hmrbench.errors import UsageError, nearest


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


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

    kind: Literal["topdown", "square", "metro", "spin", "cliff", "smplerx"] = "topdown"
    padding: float = 1.25
    order: Literal["rgb", "bgr"] = "rgb"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)


class Head(_Frozen):
    """The decoder: its kind and sizes (read by `zoo.build_net`).

    Of `heatmap` and `simcc`: `filters` of the transposed convolutions, in `groups`. Of `simcc` and `rtmcc`: `split`,
    bins per pixel. Of `smpl`: the others, all of them.
    """

    kind: Literal["heatmap", "simcc", "rtmcc", "smpl"] = "heatmap"
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


class Backend(_Frozen):
    """What computes a network that is not PyTorch's: its package, which rows name with its version, and its limits."""

    package: str
    devices: tuple[str, ...] = ("cpu",)
    dtypes: tuple[str, ...] = ("fp32",)


class ModelCard(_Frozen):
    """What a model is, where its weights are, and what was published about it.

    The network is made of `encoder`, cut after `stages`, `neck` (which brings a map to stride 16, or none) and `head`;
    or `build` is a whole one: the name of one of ours (`nets.record.known_networks`), or an import path.
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
    neck: Literal["stride16", "none"] = "stride16"
    head: Head = Head()
    input: tuple[Pixels, Pixels]
    crop: Crop = Crop()
    codec: str = "udp"
    decode: Decode = Decode()
    licence: str
    weights: tuple[Source, ...] = ()
    demo_weights: Source | None = None
    encoder_weights: tuple[Source, ...] = ()
    encoder_from: str | None = None
    published: tuple[Published, ...] = ()
    assumed: tuple[str, ...] = ()
    notes: str = ""
    sources: tuple[str, ...] = ()
    _file: Path | None = PrivateAttr(default=None)

    @property
    def where(self) -> str:
        """The card's name, after the file that holds it where it was read from one: for messages."""
        return f"{self._file}: '{self.name}'" if self._file else self.name

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


# What a YAML file may hold: enough for any card file, and refused before it takes memory or nests too deep.
MAX_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_VALUES = 100_000  # counted as if every alias were written out

_TAGS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "seq", "map"))
_LONGEST_NUMBER = 100  # digits; Python turns longer ones into numbers slowly, or not at all


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Mappings with text for keys, each once, lists, text, numbers, yes and no; dates stay text.

    The C loader reads the same language as the other, ten times as fast.
    """

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """The value of a node; a tag that no card needs, or a value that is not of its tag, is an error."""
        if node.tag not in _TAGS:
            raise _fault(f"the tag {node.tag} is not allowed", node)
        if node.tag.endswith((":int", ":float")) and len(str(node.value)) > _LONGEST_NUMBER:
            raise _fault(f"a number of more than {_LONGEST_NUMBER} digits", node)
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, TypeError, OverflowError, AttributeError) as e:
            raise _fault(f"this is not what its tag says ({e})", node) from e

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping of a node; two equal keys would hide one another."""
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag not in (_TEXT, _MERGE):
                raise _fault("a key must be text (put it in quotes)", key)
            if key.value in seen:
                raise _fault(f"the key '{key.value}' stands here twice", key)
            seen.add(key.value)
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found


_TEXT, _MERGE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"
_DATE = "tag:yaml.org,2002:timestamp"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _DATE]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _fault(what: str, node: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=what, problem_mark=node.start_mark)


def read_yaml(path: Path) -> Mapping[str, Any]:
    """The mapping in a YAML file; empty where the file says nothing.

    Raises:
        UsageError: the file is missing, not YAML in UTF-8, not a mapping, or larger or deeper than the bounds above.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise UsageError(f"{path}: not readable as YAML (it is no regular file)")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise UsageError(f"{path}: not readable as YAML (more than {MAX_BYTES:,} bytes)")
        text = data.decode("utf-8-sig")
        _check_size(text)
        content = yaml.load(text, Loader=_Loader)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except yaml.MarkedYAMLError as e:
        mark = e.problem_mark or e.context_mark
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        words = " ".join(filter(None, (e.context, e.problem)))
        raise UsageError(f"{path}: not readable as YAML: {words}{where}") from e
    except (yaml.YAMLError, OSError, ValueError) as e:  # ValueError: no UTF-8, a zero byte in the path
        raise UsageError(f"{path}: not readable as YAML ({' '.join(str(e).split())})") from e
    if content is None:
        return {}
    if not isinstance(content, Mapping):
        raise UsageError(f"{path}: must map names to what they are")
    return content


def _check_size(text: str) -> None:
    """Refuse, from the parser's events alone, what would nest too deep or grow too large; MarkedYAMLError then."""
    sizes: dict[str | None, int | None] = {}  # of what an anchor names; None while that is still open
    open_: list[tuple[str | None, int]] = []  # the anchor of each collection around, and the values before it
    count = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent):
            size = sizes.get(event.anchor, 0)  # one that names nothing is refused on loading
            if size is None:
                raise _fault(f"'{event.anchor}' holds itself", event)
            count += size
        elif isinstance(event, yaml.ScalarEvent):
            count += 1
            if event.anchor:
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            open_.append((event.anchor, count))
            count += 1
            if event.anchor:
                sizes[event.anchor] = None
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_.pop()
            if anchor:
                sizes[anchor] = count - before
        if len(open_) > MAX_DEPTH:
            raise _fault(f"it nests deeper than {MAX_DEPTH}", event)
        if count > MAX_VALUES:
            raise _fault(f"it has more than {MAX_VALUES:,} values, aliases written out", event)


def validate(kind: type[_Model], path: Path, name: str, fields: Mapping[str, Any]) -> _Model:
    """A card or spec from its fields.

    Raises:
        UsageError: names the file, the entry and every field that is not right.
    """
    found, faults = validate_all(kind, {name: fields})
    refuse(path, faults)
    return found[name]


def validate_all(kind: type[_Model], entries: Mapping[str, Any]) -> tuple[dict[str, _Model], list[str]]:
    """Cards or specs by name, from the fields of each, and all that is wrong with the others, for `refuse`."""
    found: dict[str, _Model] = {}
    faults: dict[str, list[str]] = {}  # what is wrong -> the entries where it is
    for name, fields in entries.items():
        if not isinstance(fields, Mapping):
            faults.setdefault(f"must map its fields to what they are, not be {kind_of(fields)}", []).append(name)
            continue
        if "name" in fields:
            faults.setdefault("has a key name; its name is the key under which it stands", []).append(name)
        try:
            found[name] = kind(**{**fields, "name": name})
        except ValidationError as e:
            for fault in e.errors():
                faults.setdefault(describe_fault(kind, fault), []).append(name)
    return found, [f"{_names(names)} {what}" for what, names in faults.items()]


def refuse(path: Path, faults: Iterable[str]) -> None:
    """One UsageError for all that is wrong with a file, if anything is: on one line if it is one thing."""
    all_ = list(faults)
    if all_:
        raise UsageError(
            f"{path}: {all_[0]}" if len(all_) == 1 else "\n  ".join([f"{path}: {len(all_)} faults", *all_])
        )


def unknown_key(key: str, known: Iterable[str]) -> str:
    """What is wrong with a key that nobody knows, and the nearest one that there is."""
    names = list(known)
    near = nearest(key, names, 1)
    hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(names)}" if names else "there are none"
    return f"unknown key {key}; {hint}"


def _names(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(f"'{n}'" for n in names[:3]) + more


def kind_of(value: Any) -> str:
    """What a value of a YAML file is, in words."""
    names = {dict: "a mapping", list: "a list", str: "text", bool: "yes or no", type(None): "empty"}
    return names.get(type(value), "a number")


def describe_fault(kind: type[BaseModel], fault: Mapping[str, Any]) -> str:
    """One of pydantic's errors in words: where, what, and for an unknown key the nearest one that there is."""
    where = ".".join(map(str, fault["loc"]))
    if fault["type"] == "extra_forbidden":
        return f"is not right at {where}: {unknown_key(str(fault['loc'][-1]), _keys(kind, fault['loc'][:-1]))}"
    return f"is not right at {where}: {fault['msg']}"


def _keys(kind: Any, place: Iterable[str | int]) -> list[str]:
    """The keys that a model has at a place inside it."""
    for step in place:  # an index, or a name in a mapping of models, leads no further
        if step in kind.model_fields:
            kind = next(_models_in(kind.model_fields[step].annotation), None)
        if kind is None:
            return []
    return [k for k in kind.model_fields if k != "name"]


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _models_in(kind: Any) -> Iterator[Any]:
    """The models that a type such as `tuple[Source, ...]` or `Source | None` is made of."""
    if _is_model(kind):
        yield kind
    for inner in get_args(kind):
        yield from _models_in(inner)


def import_object(path: str, what: str) -> Any:
    """The object at an import path, `package.module:name` or, for a whole module, `package.module`.

    Raises:
        UsageError: the module or the name in it cannot be had.
    """
    module, _, name = path.partition(":")
    try:
        found = importlib.import_module(module)
        return getattr(found, name) if name else found
    except (Exception, SystemExit) as e:  # whatever a foreign module raises when it is run
        words = " ".join(str(e).split()) or type(e).__name__
        raise UsageError(f"{what} '{path}' cannot be imported: {words}") from e
