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
import reprlib
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hmrbench.data import Check
from hmrbench.data.images import decode_image
from hmrbench.errors import DataError, UsageError
from hmrbench.fetch.archives import StrictTarInfo
from hmrbench.fetch.fetch import cache_dir
from hmrbench.files import arrays_of, opened, read_arrays, write_arrays
from hmrbench.files.pickled_data import read_data
from hmrbench.geometry import axis_angle_to_matrix
from hmrbench.records import Array, Dataset, Sample
from hmrbench.schema import DatasetSpec, ModelCard
from hmrbench.training.examples import Example, Examples, MeshTruth, mesh_example
from hmrbench.training.recipes import Recipe

MAX_MEMBER = 256 << 20  # bytes of one picture, or of its people
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
    for place, (pattern, index) in enumerate(zip(mix, indexes, strict=True)):
        if not len(index):
            names = reprlib.repr([path.name for path in shards[place]])
            raise DataError(f"{folder / pattern}: nobody is left in these tars after filtering: {names}")
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
        image = decode_image(_slice(path, image_at, image_size), f"{path} at {image_at}")
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
        try:
            return read_arrays(kept, "an index of tars")["index"]
        except (DataError, KeyError):
            pass  # damaged: it is made anew
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
        with opened(path, "tar") as file, tarfile.open(fileobj=file, mode="r:", tarinfo=StrictTarInfo) as tar:
            for member in tar:
                if not member.isfile():
                    continue
                if member.issparse():
                    raise DataError(f"{path}: {member.name} is stored with holes (sparse), which is not read")
                if member.size > MAX_MEMBER:
                    raise DataError(f"{path}: {member.name} declares more than {MAX_MEMBER >> 20} MiB")
                head, _, base = member.name.rpartition("/")
                stem, _, kind = base.partition(".")
                key = f"{head}/{stem}" if head else stem
                if key != current and parts:
                    yield current, parts
                    parts = {}
                current = key
                parts[kind.lower()] = (member.offset_data, member.size)
    except (tarfile.TarError, OSError, EOFError, ValueError, OverflowError, MemoryError) as e:
        raise DataError(f"{path}: not a readable tar, truncated perhaps ({e})") from e
    if parts:
        yield current, parts


def _slice(path: Path, at: int, size: int) -> bytes:
    with opened(path, "tar") as file:
        file.seek(at)
        content = file.read(size)
    if len(content) != size:
        raise DataError(f"{path}: ends in the middle of a file, it is truncated")
    return content


# --------------------------------------------------------------------------- people


def _people(content: bytes, source: str) -> list[Person]:
    """The people of one picture, with their fields of the shapes they should have."""
    people = _from_npz(content, source) if content.startswith(b"PK") else _from_pickle(content, source)
    for number, person in enumerate(people):
        for name, shape in _SHAPES.items():
            value = np.asarray(person[name], object) if isinstance(person, Mapping) and name in person else None
            if value is None or value.shape != shape:
                there = "missing" if value is None else value.shape
                raise DataError(f"{source}: {name} of person {number} is {there}, expected {shape}")
            if np.asarray(person[name]).dtype.kind not in "biuf":
                raise DataError(f"{source}: {name} of person {number} is not of numbers")
    return people


def _from_npz(content: bytes, source: str) -> list[Person]:
    arrays = arrays_of(io.BytesIO(content), source, "an npz of people")
    lengths = {name: len(array) if array.ndim else None for name, array in arrays.items() if name in _SHAPES}
    if None in lengths.values() or len(set(lengths.values())) != 1:
        raise DataError(f"{source}: not an npz of people, its fields are of different lengths: {lengths}")
    count = next(iter(lengths.values())) or 0
    return [{k: v[i] for k, v in arrays.items() if v.ndim and len(v) == count} for i in range(count)]


def _from_pickle(content: bytes, source: str) -> list[Person]:
    try:
        found = read_data(content)
    except DataError as e:
        raise DataError(f"{source}: {e}") from None
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
    return float(found) if isinstance(found, (int, float, np.number)) else None


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
