"""Data set specs -> samples: which files, whose reader, what is missing."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hmrbench.errors import DataError, UsageError, blamed_on, unknown_name
from hmrbench.records import NO_BOXES, Dataset
from hmrbench.schema import DatasetSpec
from hmrbench.schema.faults import refuse, validate_all
from hmrbench.schema.importing import import_object
from hmrbench.schema.reading import read_yaml, share_dir

# Reader name -> import path of its module, which has `read(spec, folder, boxes, limit) -> Dataset`,
# `check(spec, folder) -> [Check]`, and `images(spec, folder) -> [name]`, the pictures below the spec's `images`; and
# maybe `truth(spec, folder) -> Dataset`, where predictions are scored without samples, and `pictures(spec, folder,
# limit) -> Dataset`, whose samples are whole pictures.
READERS = {"coco": "hmrbench.data.coco", "hmr-npz": "hmrbench.data.hmr_npz"}


@dataclass(frozen=True)
class Check:
    """One line of `datasets check`: a part of a data set, whether it is there and whole."""

    part: str
    status: str  # present, partial, missing, corrupt
    found: str
    expected: str = ""
    detail: str = ""

    @property
    def bad(self) -> bool:
        """Whether the data set cannot be evaluated because of it."""
        return self.status in ("missing", "corrupt")

    @classmethod
    def count(cls, part: str, unit: str, found: int, expected: int | None, detail: str = "") -> Check:
        """A counted part: present when the count is the known one, partial when it is a part of the standard set."""
        status = "present" if found and expected in (None, found) else "partial" if found else "missing"
        return cls(part, status, f"{found:,} {unit}", "" if expected is None else f"{expected:,}", detail)


def load_specs(datasets_file: str | Path | None = None) -> dict[str, DatasetSpec]:
    """All specs by name: our own, then those of `datasets_file`, which may redefine a name.

    Raises:
        UsageError: the file is missing or says something that no spec has.
    """
    specs: dict[str, DatasetSpec] = {}
    for path in [Path(file) for file in (share_dir() / "datasets.yaml", datasets_file) if file]:
        found, faults = validate_all(DatasetSpec, read_yaml(path))
        folded = {name.lower(): name for name in found}
        faults += [f"'{n}' and '{folded[n.lower()]}' differ by case alone" for n in found if folded[n.lower()] != n]
        refuse(path, faults)
        for spec in found.values():
            spec._file = path
        specs = {name: spec for name, spec in specs.items() if name.lower() not in folded} | found
    return specs


def load_spec(name: str, datasets_file: str | Path | None = None) -> DatasetSpec:
    """One spec by name.

    Raises:
        UsageError: unknown name; the nearest are listed.
    """
    specs = load_specs(datasets_file)
    found = specs.get(name) or {known.lower(): spec for known, spec in specs.items()}.get(name.lower())
    if found is None:
        raise unknown_name("data set", name, specs, "data sets of your own: --datasets-file FILE")
    return found


def find_folder(spec: DatasetSpec, data_root: str | Path | None) -> Path:
    """Where a data set lies: `<root>/<folder>` if that exists, else the root itself.

    Raises:
        DataError: no root was given, or it does not exist.
    """
    if spec.embedded:
        return Path(__file__).parent / spec.folder
    if data_root is None:
        raise DataError(f"{spec.name}: where are the data? Give --data-root DIR or set HMRBENCH_DATA")
    root = Path(data_root)
    if not root.is_dir():
        raise DataError(f"{root}: no such data root")
    inner = root / spec.folder
    return inner if inner.is_dir() else root


def open_dataset(
    spec: DatasetSpec, data_root: str | Path | None, boxes: str | None = None, limit: int | None = None
) -> Dataset:
    """Read a data set's annotations and check that every file it names is there.

    Args:
        boxes: `gt` or `det`, where the spec has them; None for the spec's default; `none` for whole pictures.
        limit: the first samples only; the data set is then partial.

    Raises:
        UsageError: boxes that the data set does not have.
        DataError: something is missing or broken, named.
    """
    reader, folder = _reader(spec), find_folder(spec, data_root)
    if boxes == NO_BOXES and not hasattr(reader, "pictures"):
        raise UsageError(f"{_by(spec)} gives no whole pictures (pictures), only people with boxes")
    boxes = boxes if boxes == NO_BOXES else _known_boxes(spec, boxes)
    with blamed_on(_by(spec)):
        found = reader.pictures(spec, folder, limit) if boxes == NO_BOXES else reader.read(spec, folder, boxes, limit)
    dataset = _is_dataset(spec, found)
    if not dataset.samples:
        raise DataError(f"{spec.name}: there is nobody to predict (boxes: {boxes})")
    missing = missing_images({s.image for s in dataset.samples})
    if missing:
        raise DataError(f"{missing[0]}: image missing ({len(missing)} of {spec.name} in all)")
    return dataset


def lacking(spec: DatasetSpec, dataset: Dataset) -> str:
    """How much of the standard set is not in an opened one, in words; empty where it is whole or nobody knows."""
    images = getattr(dataset.truth, "imgs", None)  # of a truth in COCO's form
    found = {"images": None if images is None else len(images)}
    found |= {"people": len(dataset.samples) if "people" in spec.counts else None}
    found |= {"boxes": len(dataset.samples) if dataset.boxes == "det" else None}
    for unit, number in found.items():
        if number is not None and spec.counts.get(unit, number) != number:
            return f"the data here have {number:,} of the {spec.counts[unit]:,} {unit}"
    return ""


def open_truth(spec: DatasetSpec, data_root: str | Path | None, boxes: str | None = None) -> Dataset:
    """What scoring predictions out of a file needs: no picture is looked at, and where the predictions say themselves
    which image they are for, no boxes either, and there are no samples.

    Raises:
        UsageError: boxes that the data set does not have.
        DataError: the annotations are missing or broken.
    """
    reader, folder, boxes = _reader(spec), find_folder(spec, data_root), _known_boxes(spec, boxes)
    with blamed_on(_by(spec)):
        return _is_dataset(
            spec, reader.truth(spec, folder) if hasattr(reader, "truth") else reader.read(spec, folder, boxes, None)
        )


def _by(spec: DatasetSpec) -> str:
    return f"{spec.name}: reader '{spec.reader}'"


def _is_dataset(spec: DatasetSpec, found: Any) -> Dataset:
    if not isinstance(found, Dataset):
        raise UsageError(f"{_by(spec)} gives a {type(found).__name__}, not a hmrbench.records.Dataset")
    return found


def _known_boxes(spec: DatasetSpec, boxes: str | None) -> str:
    boxes = boxes or spec.default_boxes
    if boxes not in spec.boxes:
        raise UsageError(f"{spec.name} has no '{boxes}' boxes; there are {', '.join(spec.boxes)}")
    return boxes


def check_dataset(spec: DatasetSpec, data_root: str | Path | None) -> list[Check]:
    """What of a data set is there, part by part, against the known counts."""
    folder = find_folder(spec, data_root)
    with blamed_on(_by(spec)):
        return list(_reader(spec).check(spec, folder))


def named_images(spec: DatasetSpec, folder: Path) -> list[str]:
    """The pictures that a data set's annotations name, as paths below its `images`.

    Raises:
        DataError: the annotations are missing or broken, or name a picture outside that folder.
    """
    reader = _reader(spec)
    if not hasattr(reader, "images"):
        raise UsageError(f"{spec.name}: its reader does not say which pictures the annotations name (images)")
    with blamed_on(_by(spec)):
        names: list[str] = list(reader.images(spec, folder))
    for name in names:
        if ".." in name.split("/") or name.startswith("/") or "\\" in name or not name:
            raise DataError(f"{folder / spec.annotations}: '{name}' is no picture below {spec.images}")
    return names


def check_images(sizes: Mapping[Path, tuple[float, float] | None], expected: int | None) -> list[Check]:
    """Whether all images are there, decode, and have the (height, width) that the annotations say."""
    from hmrbench.data.images import read_image

    missing = set(missing_images(set(sizes)))
    bad = [Check("image", "missing", str(path)) for path in sorted(missing)]
    for path in sorted(set(sizes) - missing):
        try:
            shape = read_image(path).shape[:2]
            if sizes[path] not in (None, shape):
                problem = f"it is {shape[1]}x{shape[0]}, the annotations say {sizes[path][1]}x{sizes[path][0]}"  # type: ignore[index]
                bad.append(Check("image", "corrupt", str(path), detail=problem))
        except DataError as e:
            bad.append(Check("image", "corrupt", str(path), detail=str(e).partition(": ")[2]))
    return [Check.count("images", "images", len(sizes) - len(bad), expected), *bad]


def missing_images(images: set[Path]) -> list[Path]:
    """Those of the images that do not exist, by listing each folder once."""
    listed = {folder: _listing(folder) for folder in {i.parent for i in images}}
    return sorted(i for i in images if i.name not in listed[i.parent])


def _listing(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return set()
    except (OSError, ValueError) as e:  # it may not be read, or no file system has such a name
        raise DataError(f"{str(folder)!r}: folder not readable ({e})") from e


def _reader(spec: DatasetSpec) -> Any:
    return import_object(READERS.get(spec.reader, spec.reader), f"{spec.name}: reader", spec.file)
