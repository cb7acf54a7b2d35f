"""Whether a network on another runtime gives PyTorch's numbers, on crops of the demo's pictures.

What differs is said as the largest and as the root mean square difference, both in standard deviations of PyTorch's
output, of the output that is worst; and in pixels of the picture, how far keypoints move. `LIMITS` say what is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hmrbench import data, zoo
from hmrbench.body import find_body
from hmrbench.body.decode import decode_mesh, in_image, mesh_codec_of
from hmrbench.codecs import Crops
from hmrbench.data.family_crops import numbers_beside
from hmrbench.data.loader import CropSettings, batches
from hmrbench.device import Normalize
from hmrbench.errors import HmrbenchError
from hmrbench.records import NO_BOXES, Array, Dataset
from hmrbench.runtimes.outputs import flatten
from hmrbench.runtimes.runtime import Prepared
from hmrbench.schema import ModelCard

# How far a file may be off: the largest difference where rounding is the only one, else the root mean square.
LIMITS: Mapping[str, tuple[str, float]] = {
    "fp32": ("max_std", 1e-4),
    "fp16": ("rms_std", 0.02),
    "bf16": ("rms_std", 0.1),
    "int8": ("rms_std", 0.5),
}
CHECKED = 4  # crops


@dataclass(frozen=True)
class SomeCrops:
    """Crops of people as a network sees them: `x` (N, 3, H, W) normalised, what it is given beside them, and where they
    lie in the pictures; None for noise."""

    x: Tensor
    more: tuple[Tensor, ...] = ()
    crops: Crops | None = None

    def __len__(self) -> int:
        return len(self.x)

    @property
    def given(self) -> tuple[Tensor, ...]:
        """All that a network takes."""
        return (self.x, *self.more)


def crops_of_people(card: ModelCard, people: Dataset, count: int) -> SomeCrops:
    """Crops of people spread over a data set, at most `count`."""
    index = np.unique(np.linspace(0, len(people.samples) - 1, min(count, len(people.samples))).astype(int))
    settings = CropSettings.of(card, zoo.codec_of(card) if card.task == "hpe" else None)
    batch = next(batches(people.samples, index.tolist(), settings, len(index), 1))
    x = Normalize(card, torch.device("cpu"))(batch.images)
    return SomeCrops(x, numbers_beside(card.crop, batch.crops), batch.crops)


def demo_crops(card: ModelCard, count: int = CHECKED) -> SomeCrops:
    """Crops of the demo's pictures, which ship with this package."""
    spec = data.load_spec("demo-pose" if card.task == "hpe" else "demo-mesh")
    boxes = NO_BOXES if card.crop.kind == "bottom-up" else None
    return crops_of_people(card, data.open_dataset(spec, None, boxes, None), count)


@dataclass(frozen=True)
class Check:
    """How a file's outputs differ from PyTorch's, in standard deviations of these, and its keypoints in pixels."""

    crops: int
    max_std: float
    rms_std: float
    keypoints_px: float | None


def compare_outputs(expected: Any, found: Any) -> tuple[float, float]:
    """The largest and the root mean square difference of the worst output, in standard deviations of what is expected.

    Raises:
        HmrbenchError: they are of other shapes, or what was found is not finite.
    """
    pairs = list(zip(flatten(expected)[0], flatten(found)[0], strict=True))
    for a, b in pairs:
        if a.shape != b.shape:
            raise HmrbenchError(f"an output is {tuple(b.shape)}, PyTorch's {tuple(a.shape)}")
        if not bool(b.isfinite().all()):
            raise HmrbenchError("an output is not finite")
    differences = [((a.double() - b.double()).abs(), _spread(a.double())) for a, b in pairs]
    return (
        max(float(d.max() / std) for d, std in differences),
        max(float(d.square().mean().sqrt() / std) for d, std in differences),
    )


def _spread(x: Tensor) -> Tensor:
    """The standard deviation, or a hundredth of the size of an output that hardly varies, as of an untrained MEMe: in
    units of less than that, rounding alone would be large."""
    return torch.maximum(x.std(correction=0), x.square().mean().sqrt() / 100).clamp_min(1e-6)


def compare_networks(card: ModelCard | None, net: nn.Module, prepared: Prepared, some: SomeCrops) -> Check:
    """Run both on the same crops.

    Raises:
        HmrbenchError: the file does not run, or its outputs are of other shapes or not finite.
    """
    with torch.inference_mode():
        expected = net(*some.given)
        try:
            with prepared as forward:
                found = forward(*some.given)
        except Exception as e:  # whatever a runtime raises
            raise HmrbenchError(f"what was written does not run: {' '.join(str(e).split())[:400]}") from e
    largest, rms = compare_outputs(expected, found)
    moved = None
    if card is not None and some.crops is not None:
        with torch.inference_mode():
            a, b = (_keypoints(card, output, some.crops) for output in (expected, found))
        if a is not None and b is not None:
            moved = float(np.linalg.norm(a - b, axis=-1).max())
    return Check(len(some), largest, rms, moved)


def _keypoints(card: ModelCard, output: Any, crops: Crops) -> Array | None:
    """Keypoints in pixels of the picture, vertices of a network that puts these out; None for whole pictures, in which
    both may find other numbers of people."""
    if card.crop.kind == "bottom-up":
        return None
    if card.task == "hpe":
        found: Array = zoo.codec_of(card).decode(output, crops)[0]
        return found
    codec, place = mesh_codec_of(card), (crops.center_px, crops.size_px)
    if codec.mesh == "vertices":
        return in_image(output["vertices"], output["cam"], *place, codec, crops.image_wh_px).numpy()
    found = decode_mesh(output, *place, find_body("free-lite"), codec, crops.image_wh_px)[0]
    return found


def refuse(check: Check, dtype: str, what: str) -> None:
    """Raise where a file's differences to PyTorch are beyond what its precision allows; `what` names it."""
    name, limit = LIMITS[dtype]
    value = getattr(check, name)
    if not value <= limit:
        kind = "largest" if name == "max_std" else "root mean square"
        moved = "" if check.keypoints_px is None else f", keypoints by up to {check.keypoints_px:.2f} px"
        raise HmrbenchError(
            f"{what} is off: the {kind} difference to PyTorch is {value:.2g} standard deviations of the output, "
            f"more than {limit:g}{moved}; it is not kept"
        )
