"""What a YAML file may say: model cards and data set specs, checked on reading."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from hmrbench.errors import HmrbenchError, UsageError, nearest, said
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


# --------------------------------------------------------------------------- writing


def as_yaml(entry: ModelCard | DatasetSpec) -> str:
    """A card or spec as a file of its own says it, with everything that may be said but what is empty."""
    dumped = entry.model_dump(mode="json", exclude={"name"}, exclude_none=True)
    fields = {k: v for k, v in dumped.items() if v not in ("", [], {})}
    if isinstance(entry, DatasetSpec):
        return _dumped({entry.name: {**fields, "boxes": dict(entry.boxes)}})  # of which none is no file
    return _dumped({"family": fields.pop("family"), "models": {entry.name: fields}})


def _dumped(content: Mapping[str, Any]) -> str:
    text: str = yaml.safe_dump(dict(content), sort_keys=False, default_flow_style=None, allow_unicode=True, width=120)
    return text


def cards_schema() -> dict[str, Any]:
    """The JSON schema (2020-12) of a file of model cards, for editors."""
    card, parts = _schema_of(ModelCard)
    encoder, more = _schema_of(EncoderWeights)
    some = {"type": "object", "properties": card["properties"], "additionalProperties": False}
    properties = {
        "family": {"type": "string"},
        "defaults": {**some, "description": "What holds for all models of the file."},
        "sizes": {"type": "object", "additionalProperties": some, "description": "What holds for those of one size."},
        # What every card needs may stand above, for all.
        "models": {"type": "object", "additionalProperties": {**card, "required": []}},
        "encoders": {"type": "object", "additionalProperties": encoder["properties"]["sources"]},
    }
    return _schema("hmrbench model cards", {"properties": properties, "additionalProperties": False}, parts | more)


def datasets_schema() -> dict[str, Any]:
    """The JSON schema (2020-12) of a file of data sets, for editors."""
    spec, parts = _schema_of(DatasetSpec)
    return _schema("hmrbench data sets", {"additionalProperties": spec}, parts)


def _schema_of(kind: type[BaseModel]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The schema of an entry, whose name is the key under which it stands, and those of its parts."""
    found = kind.model_json_schema()
    parts: dict[str, Any] = found.pop("$defs", {})
    found["properties"].pop("name")
    found["required"] = [key for key in found.get("required", ()) if key != "name"]
    return found, parts


def _schema(title: str, content: Mapping[str, Any], parts: Mapping[str, Any]) -> dict[str, Any]:
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title, "type": "object"}
    return {**head, **content, "$defs": parts}


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


@contextmanager
def beside(file: Path | None) -> Iterator[None]:
    """Inside, modules in the folder of a card's or spec's file can be imported; the import path is then as it was."""
    before = list(sys.path)
    if file is not None:
        sys.path.insert(0, str(file.parent.resolve()))
        importlib.invalidate_caches()  # the folder may have got files since it was last looked at
    try:
        yield
    finally:
        sys.path[:] = before


def import_object(path: str, what: str, file: Path | None = None) -> Any:
    """The object at an import path, `package.module:name` or, for a whole module, `package.module`.

    Args:
        file: of the card or spec that names it; modules in its folder come first.

    Raises:
        UsageError: the module or the name in it cannot be had, or another module of that name is there already.
    """
    module, _, name = path.partition(":")
    try:
        with beside(file):
            found = importlib.import_module(module)
            _refuse_other_module(found, file)
            return getattr(found, name) if name else found
    except HmrbenchError as e:
        raise UsageError(f"{what} '{path}' cannot be imported: {e}") from e
    except (Exception, SystemExit) as e:  # whatever a foreign module raises when it is run
        raise UsageError(f"{what} '{path}' cannot be imported: {said(e)}") from e


def _refuse_other_module(found: Any, file: Path | None) -> None:
    """Python keeps one module of a name: that of another folder, or of a package, would be taken without a word."""
    top = sys.modules[found.__name__.partition(".")[0]]
    here = [] if file is None else [file.parent / f"{top.__name__}.py", file.parent / top.__name__ / "__init__.py"]
    meant = next((path for path in here if path.is_file()), None)
    loaded = getattr(top, "__file__", None)
    if meant is not None and (loaded is None or not meant.samefile(loaded)):
        raise UsageError(f"there is a module '{top.__name__}' already ({loaded or 'built in'}); rename {meant}")
