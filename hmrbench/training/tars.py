"""Training sets of meshes as webdataset tars, in the layout of 4D-Humans' `dataset_tars` -> examples.

A spec with `reader: hmrbench.training.tars` names the tars by a glob in `annotations`, or several by options
`mix: {GLOB: WEIGHT}`: then every example is drawn from one of them, with that chance. In a tar, files with
one key (the name up to the first dot) are a picture, `KEY.jpg` (jpeg, png), and its people: `KEY.data.pyd`, a
pickled list of one dict each, or the same fields as arrays with one row a person in `KEY.data.npz`:

- keypoints_2d (44, 3), pixels and confidence; keypoints_3d (44, 4), metres and confidence
- center (2,), pixels; scale (2,), the box in units of 200 pixels
- body_pose (72,), rotation vectors; betas (10,); has_body_pose, has_betas
- extra_info, whose fitting_loss has the reprojection_loss, if known

Read in `hmr2/datasets/image_dataset.py` and `configs_hydra/data_filtering/low1.yaml` of 4D-Humans (MIT),
whose filters these are, but for the one that needs AMASS's distribution of poses. Pickles may only hold
numbers, text and numpy arrays: any other name in them is an error. Tars are indexed once, and the index is
kept in the cache; people are then read in any order, which is what lets a training be resumed exactly.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import tarfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from hmrbench.data import Check
from hmrbench.errors import DataError, UsageError
from hmrbench.fetch.fetch import cache_dir
from hmrbench.files import write_arrays
from hmrbench.geometry import axis_angle_to_matrix
from hmrbench.records import Array, Dataset, Sample
from hmrbench.schema import DatasetSpec, ModelCard
from hmrbench.training.examples import Example, Examples, MeshTruth, mesh_example
from hmrbench.training.recipes import Recipe

PIXEL_STD = 200.0  # the unit of `scale`
_PICTURES = ("jpg", "jpeg", "png")
_PEOPLE = ("data.pyd", "data.npz")
_SHAPES: dict[str, tuple[int, ...]] = {
    "keypoints_2d": (44, 3),
    "keypoints_3d": (44, 4),
    "center": (2,),
    "scale": (2,),
    "body_pose": (72,),
    "betas": (10,),
    "has_body_pose": (),
    "has_betas": (),
}

Person = Mapping[str, Any]


@dataclass(frozen=True)
class Filters:
    """Who and what is left out; a spec's options of these names change them.

    Keypoints below `min_confidence` count as not labelled; people with no more than `min_keypoints` labelled
    ones, or whose fit has a reprojection loss of `max_reprojection` or more, are left out; parameters with a
    beta beyond `max_beta`, or of which pose or betas are missing, are not used. With `regular_betas` betas
    that are not known are pulled to zero. `skip` are keys of corrupt entries.
    """

    min_confidence: float = 0.3
    min_keypoints: int = 4
    max_reprojection: float = 31_000.0
    max_beta: float = 3.0
    regular_betas: bool = True
    skip: Sequence[str] = ()


# --------------------------------------------------------------------------- reader


def examples(
    spec: DatasetSpec, folder: Path, card: ModelCard, recipe: Recipe, limit: int | None = None
) -> tuple[Examples, str]:
    """The training examples of a spec, and a hash that names the tars.

    Raises:
        DataError: there are no tars, or one is damaged; names it and the entry.
        UsageError: an option that does not exist.
    """
    filters = _filters(spec)
    mix = spec.options.get("mix") or {spec.annotations: 1.0}
    shards = [_shards(folder, pattern) for pattern in mix]
    indexes = [_index(s, filters)[:limit] for s in shards]
    for pattern, index in zip(mix, indexes, strict=True):
        if not len(index):
            raise DataError(f"{folder / pattern}: nobody is left in these tars after filtering")
    chances = np.array([float(w) for w in mix.values()])
    chances /= chances.sum()

    def make(i: int, rng: np.random.Generator) -> Example:
        if len(indexes) == 1:
            part, row = 0, i
        else:
            part = int(rng.choice(len(indexes), p=chances))
            row = int(rng.integers(len(indexes[part])))
        shard, image_at, image_size, people_at, people_size, number = map(int, indexes[part][row])
        path = shards[part][shard]
        image = _decode(_slice(path, image_at, image_size), f"{path} at {image_at}")
        data = clean(_people(_slice(path, people_at, people_size), f"{path} at {people_at}")[number], filters)
        sample, truth = as_truth(data, path)
        return mesh_example(image, sample, truth, rng, card, recipe.augment, recipe.loss.unused_joints_3d)

    return Examples(sum(map(len, indexes)), make), _name([path for part in shards for path in part], filters)


def read(spec: DatasetSpec, folder: Path, boxes: str, limit: int | None = None) -> Dataset:
    """Tars are for training.

    Raises:
        UsageError: always.
    """
    raise UsageError(f"{spec.name} is a training set in tars: it is not evaluated")


def check(spec: DatasetSpec, folder: Path) -> list[Check]:
    """The tars of each part and the people in them."""
    checks = []
    for pattern in spec.options.get("mix") or [spec.annotations]:
        try:
            shards = _shards(folder, pattern)
            people = len(_index(shards, _filters(spec)))
            checks.append(Check.count(pattern, "people", people, None, f"in {len(shards)} tars"))
        except DataError as e:
            status = "corrupt" if list(folder.glob(pattern)) else "missing"
            checks.append(Check(pattern, status, "", detail=str(e)))
    return checks


def _filters(spec: DatasetSpec) -> Filters:
    given: dict[str, Any] = {k: v for k, v in spec.options.items() if k not in ("mix", "body", "recipe")}
    try:
        return Filters(**given)
    except TypeError as e:
        raise UsageError(f"{spec.name}: options: {e}") from e


def _shards(folder: Path, pattern: str) -> list[Path]:
    shards = sorted(folder.glob(pattern))
    if not shards:
        raise DataError(f"{folder / pattern}: no such tars")
    return shards


# --------------------------------------------------------------------------- index


def _name(shards: Sequence[Path], filters: Filters) -> str:
    """A hash of the tars' names and sizes, and of the filters."""
    stats = [(path.name, path.stat().st_size) for path in shards]
    return hashlib.sha256(repr((stats, filters)).encode()).hexdigest()


def _index(shards: Sequence[Path], filters: Filters) -> Array:
    """Where everybody is: tar, offset and size of picture and of people, number among them; (N, 6) int64."""
    times = repr([(str(path), path.stat().st_mtime_ns) for path in shards])
    name = hashlib.sha256((_name(shards, filters) + times).encode()).hexdigest()[:32]
    kept = cache_dir() / "tars" / f"{name}.npz"
    if kept.is_file():
        with np.load(kept, allow_pickle=False) as file:
            found: Array = file["index"]
        return found
    rows = [(i, *entry) for i, path in enumerate(shards) for entry in _entries(path, filters)]
    index = np.array(rows, np.int64).reshape(-1, 6)
    write_arrays(kept, {"index": index})
    return index


def _entries(path: Path, filters: Filters) -> Iterator[tuple[int, int, int, int, int]]:
    """Of each person in a tar who passes the filters, what `_index` says of them."""
    for key, parts in _grouped(path):
        picture = next((parts[k] for k in _PICTURES if k in parts), None)
        kind = next((k for k in _PEOPLE if k in parts), None)
        if picture is None or kind is None:
            raise DataError(f"{path}: {key} lacks its {'picture' if picture is None else 'people (data.pyd)'}")
        if key in filters.skip:
            continue
        at, size = parts[kind]
        for number, person in enumerate(_people(_slice(path, at, size), f"{path}: {key}.{kind}")):
            if keep(person, filters):
                yield *picture, at, size, number


def _grouped(path: Path) -> Iterator[tuple[str, dict[str, tuple[int, int]]]]:
    """Keys of a tar with the offset and size of each of their files; the files of a key stand together."""
    current, parts = "", dict[str, tuple[int, int]]()
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if not member.isfile():
                    continue
                head, _, base = member.name.rpartition("/")
                stem, _, kind = base.partition(".")
                key = f"{head}/{stem}" if head else stem
                if key != current and parts:
                    yield current, parts
                    parts = {}
                current = key
                parts[kind.lower()] = (member.offset_data, member.size)
    except (tarfile.TarError, OSError, EOFError) as e:
        raise DataError(f"{path}: not a readable tar, truncated perhaps ({e})") from e
    if parts:
        yield current, parts


def _slice(path: Path, at: int, size: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(at)
            content = file.read(size)
    except OSError as e:
        raise DataError(f"{path}: not readable ({e.strerror})") from e
    if len(content) != size:
        raise DataError(f"{path}: ends in the middle of a file, it is truncated")
    return content


def _decode(content: bytes, source: str) -> Array:
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) if content else None
    if image is None:
        raise DataError(f"{source}: corrupt image, it cannot be decoded")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


# --------------------------------------------------------------------------- people


class _Reader(pickle.Unpickler):
    """Numbers, text, containers and numpy arrays; nothing else has a name."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name in (
            "_reconstruct",
            "scalar",
        ):
            return getattr(getattr(np, "_core", np).multiarray, name)
        # Functions written in Python are made anew each time: a hostile file may change what it is given.
        if module in ("numpy.core.numeric", "numpy._core.numeric") and name == "_frombuffer":
            return lambda buffer, dtype, shape, order, *_: np.frombuffer(buffer, dtype).reshape(shape, order=order)
        if (module, name) == ("_codecs", "encode"):
            return lambda text, encoding="latin1": text.encode("latin1")
        raise DataError(f"refused: the pickle wants to use {module}.{name}, which is not data")

    def persistent_load(self, pid: Any) -> Any:
        raise DataError("refused: the pickle refers to objects outside the file")


def _people(content: bytes, source: str) -> list[Person]:
    """The people of one picture, with their fields of the shapes they should have."""
    people = _from_npz(content, source) if content.startswith(b"PK") else _from_pickle(content, source)
    for number, person in enumerate(people):
        for name, shape in _SHAPES.items():
            if not isinstance(person, Mapping) or name not in person or np.shape(person[name]) != shape:
                there = np.shape(person[name]) if isinstance(person, Mapping) and name in person else "missing"
                raise DataError(f"{source}: {name} of person {number} is {there}, expected {shape}")
    return people


def _from_npz(content: bytes, source: str) -> list[Person]:
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = {k: file[k] for k in file.files}
        return [{k: v[i] for k, v in arrays.items()} for i in range(len(arrays["center"]))]
    except (ValueError, KeyError, IndexError, EOFError, OSError, zipfile.BadZipFile) as e:
        raise DataError(f"{source}: not an npz of people ({e})") from e


def _from_pickle(content: bytes, source: str) -> list[Person]:
    try:
        found = _Reader(io.BytesIO(content)).load()
    except DataError as e:
        raise DataError(f"{source}: {e}") from None
    except Exception as e:  # broken pickles fail in every way there is
        raise DataError(f"{source}: cannot be read, it is damaged ({type(e).__name__}: {e})") from e
    return list(found) if isinstance(found, (list, tuple)) else [found]


def keep(person: Person, filters: Filters) -> bool:
    """Whether a person is used at all."""
    confidence = np.asarray(person["keypoints_2d"])[:, 2]
    if (confidence >= max(filters.min_confidence, 1e-12)).sum() <= filters.min_keypoints:
        return False
    if not (np.asarray(person["scale"]) * PIXEL_STD > 1).all():
        return False
    reprojection = _reprojection(person)
    return reprojection is None or reprojection < filters.max_reprojection


def _reprojection(person: Person) -> float | None:
    info = person.get("extra_info")
    losses = info.get("fitting_loss") if isinstance(info, Mapping) else None
    losses = losses.item() if isinstance(losses, np.ndarray) and losses.shape == () else losses
    found = losses.get("reprojection_loss") if isinstance(losses, Mapping) else None
    return None if found is None else float(found)


def clean(person: Person, filters: Filters) -> dict[str, Any]:
    """A person without what the filters do not let be used."""
    flat = np.array(person["keypoints_2d"], np.float64)
    flat[flat[:, 2] < filters.min_confidence, 2] = 0
    betas = np.asarray(person["betas"], np.float32)
    certain = bool((np.abs(betas) <= filters.max_beta).all())
    known = float(bool(person["has_body_pose"]) and bool(person["has_betas"]) and certain)
    result = {**person, "keypoints_2d": flat, "betas": betas, "has_body_pose": known, "has_betas": known}
    if filters.regular_betas and not known:
        result |= {"betas": np.zeros_like(betas), "has_betas": 1.0}
    return result


def as_truth(person: Person, source: Path) -> tuple[Sample, MeshTruth]:
    """Box and truth of a cleaned person."""
    (x, y), (w, h) = np.asarray(person["center"], float), np.asarray(person["scale"], float) * PIXEL_STD
    sample = Sample(str(source), source, str(source), (x - w / 2, y - h / 2, w, h), padded=True)
    pose = torch.tensor(np.asarray(person["body_pose"], np.float32)).view(24, 3)
    matrices = axis_angle_to_matrix(pose).numpy()
    params = {"global_orient": matrices[:1], "body_pose": matrices[1:], "betas": person["betas"]}
    joints = np.asarray(person["keypoints_3d"], np.float64)
    return sample, MeshTruth(
        person["keypoints_2d"], joints, params, float(person["has_body_pose"]), float(person["has_betas"])
    )
