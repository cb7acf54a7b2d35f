"""The nouns that pass between layers: frozen, free of behaviour beyond their own shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from hmrbench.skeletons import COCO17, Skeleton

Array = NDArray[Any]

NO_BOXES = "none"  # the box source of a data set of whole pictures


@dataclass(frozen=True)
class Sample:
    """One person to predict, or for a bottom-up network one picture, whose box is the whole of it.

    `box_xywh_px` is the person's box as the data set gives it, in pixels of the image; `padded` says that it already
    holds the margin around the person. `score` is the detector's confidence, 1 for ground-truth boxes. `image_wh_px` is
    the size that the data set says the image has, None where it says nothing. `annotation_id` is the id that the person
    has in the annotation file (in one of arrays, its place there), None for a box that a detector found.
    """

    id: str
    image: Path
    image_id: int | str
    box_xywh_px: tuple[float, float, float, float]
    score: float = 1.0
    padded: bool = False
    image_wh_px: tuple[float, float] | None = None
    annotation_id: int | None = None


@dataclass(frozen=True)
class Dataset:
    """What a reader returns: the samples, and the truth in the form that the data set's metrics expect.

    `skeleton` are the joints of a pose data set. `boxes` say where the people's boxes are from, `NO_BOXES` that samples
    are whole pictures. `total` is the number of samples before a `--limit`: with fewer samples than that it is a part
    only. `scoring` is what a network's card says of how its people are scored, by the name of the argument of the
    metric that reads it.
    """

    name: str
    samples: tuple[Sample, ...]
    truth: Any
    boxes: str
    annotations_sha256: str
    total: int
    scoring: Mapping[str, float] = field(default_factory=dict)
    skeleton: Skeleton = COCO17

    @property
    def partial(self) -> bool:
        """Whether samples were left out by a limit."""
        return len(self.samples) < self.total


@dataclass(frozen=True)
class Prediction:
    """What a network says of one sample.

    `keypoints_px` (K, 2) in pixels of the whole image, `scores` (K,), `joints_m` (J, 3) in metres, camera frame, or
    None. `params` holds the body model's parameters of a mesh network by name, empty for a pose network.
    `crop_area_px2` is the area of the crop that the network saw, at which OKS-NMS compares people.

    Of a whole picture a network says who is in it, too: `people_scores` (P,) are then those of its P people, who may be
    none, `keypoints_px` is (P, K, 2) and `scores` (P, K). For a single person it is None.
    """

    keypoints_px: Array
    scores: Array
    joints_m: Array | None = None
    params: Mapping[str, Array] = field(default_factory=dict)
    crop_area_px2: float | None = None
    people_scores: Array | None = None


@dataclass(frozen=True)
class Score:
    """One number with its name and unit."""

    name: str
    value: float
    unit: str
    higher_is_better: bool


@dataclass(frozen=True)
class Measurement:
    """What a metric found.

    `per_joint` maps a score's name to one value per joint name; `per_sample` holds named arrays from which the scores
    can be computed again on a resampled data set (for confidence intervals); a sample that does not count is NaN.
    `remarks` say what a reader of the scores must know of them, such as who was left out.
    """

    scores: tuple[Score, ...]
    per_joint: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    per_sample: Mapping[str, Array] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measure:
    """How a number of a row is called and written, and which way it is better (None: a size, neither).

    `title` heads a column (the name itself where empty); `digits` are written after the point, of the value divided by
    `scale`. A table that is asked for nothing in particular shows the number if `shown`, unless the score `behind` is
    there too, and its change if `change_shown`.
    """

    name: str
    unit: str
    higher_is_better: bool | None
    title: str = ""
    digits: int = 1
    scale: float = 1.0
    shown: bool = True
    behind: str = ""
    change_shown: bool = True

    @property
    def heading(self) -> str:
        """What heads a column of it."""
        return self.title or self.name

    def score(self, value: float) -> Score:
        """The score of that name, unit and direction."""
        return Score(self.name, value, self.unit, bool(self.higher_is_better))


Resample = Callable[[Mapping[str, Array], Array], Mapping[str, Array]]


@dataclass(frozen=True)
class Metric:
    """A named way to score predictions, in the order of the samples, against the truth of a data set.

    `check` refuses (DataError) a truth that cannot be scored, before anything is predicted. `measures` say of the
    scores what a table must know of them; a score that is not among them is written as its `Score` says.

    `resample` gives the scores of resampled data sets, for confidence intervals, out of a run's `per_sample` arrays and
    of how often each of R resamples takes each sample, (R, N); scores by name, each (R,), none where the arrays are not
    this metric's. What is drawn are the samples, or the images where the arrays have `image_ids` (N,); a metric of
    another package always gets counts of samples. A score whose
    own name is that of an array (N,) is its mean and needs no function.
    """

    name: str
    unit: str
    higher_is_better: bool
    compute: Callable[[Sequence[Prediction], Dataset], Measurement]
    check: Callable[[Dataset], None] | None = None
    measures: tuple[Measure, ...] = ()
    resample: Resample | None = None


IMAGE_OF_SAMPLE = "samples.image"  # beside `image_ids`, the place there of each sample's image, (N,)
ANY_BOXES = "of the file"  # the boxes of a row whose predictions a file gave, however many people it predicts


@dataclass(frozen=True)
class EvalResult:
    """One row: how accurate one model was on one data set, and everything needed to obtain it again.

    Where predictions came out of a file, what made them is not known: those fields are None. `units` and
    `higher_is_better` say of each of `metrics` what its `Score` said.
    """

    model: str
    task: str
    dataset: str
    weights: str
    weights_sha256: str | None
    boxes: str
    flip: bool | None
    codec: str | None
    input: str | None
    device: str | None
    dtype: str | None
    batch_size: int | None
    samples: int
    partial: bool
    metrics: Mapping[str, float]
    versions: Mapping[str, str]
    commit: str | None
    annotations_sha256: str = ""
    per_joint: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    seconds: float = 0.0
    protocol: Mapping[str, Any] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    higher_is_better: Mapping[str, bool] = field(default_factory=dict)
    remarks: Sequence[str] = ()
    fused: bool | None = None

    def row(self) -> dict[str, Any]:
        """The JSON object of this result."""
        return asdict(self)

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> EvalResult:
        """The inverse of `row`, also of another version's: fields unknown here are dropped, absent ones are empty."""
        known = {f.name for f in fields(cls)}
        return cls(**{k: v for k, v in whole_row(cls, row).items() if k in known})


@dataclass(frozen=True)
class ProfileResult:
    """One row: what one model costs on one device. MACs count one multiply-add as 1; FLOPs are twice that."""

    model: str
    params: int | None = None
    params_encoder: int | None = None
    params_neck: int | None = None
    params_head: int | None = None
    macs: int | None = None
    flops: int | None = None
    activations: int | None = None
    latency_ms: float | None = None
    latency_ms_p90: float | None = None
    latency_ms_p99: float | None = None
    images_per_s: float | None = None
    batch_size: int = 1
    dtype: str = "fp32"
    device: str = "cpu"
    peak_memory_mb: float | None = None
    energy_mj: float | None = None
    status: str = "ok"
    error: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        """The JSON object of this result: its details stand beside its other fields."""
        row = asdict(self)
        details: dict[str, Any] = row.pop("details")
        return row | details

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> ProfileResult:
        """The inverse of `row`."""
        known = {f.name for f in fields(cls)} - {"details"}
        details = {k: v for k, v in row.items() if k not in known}
        return cls(**{k: v for k, v in row.items() if k in known}, details=details)


def whole_row(kind: type[EvalResult] | type[ProfileResult], row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with all fields of its kind: those it lacks, as rows of an older version do, have their default or None."""
    empty: dict[str, Any] = {}
    for f in fields(kind):
        if f.default_factory is not MISSING:
            empty[f.name] = f.default_factory()
        else:
            empty[f.name] = None if f.default is MISSING else f.default
    empty.pop("details", None)
    return {**empty, **row}
