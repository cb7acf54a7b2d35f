"""What a codec is, and how one is found by name or import path."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hmrbench.errors import HmrbenchError, UsageError
from hmrbench.records import Array
from hmrbench.schema.faults import unknown_key
from hmrbench.schema.importing import find_part
from hmrbench.skeletons import Skeleton

CropGeometry = Literal["udp", "classic"]


# Name -> where it stands; a card may name any other codec by such a path.
CODECS = {
    "udp": "hmrbench.codecs.heatmap:UDP",
    "plain": "hmrbench.codecs.heatmap:PLAIN",
    "dark": "hmrbench.codecs.heatmap:DARK",
    "msra-hrnet": "hmrbench.codecs.msra:HRNET",
    "msra-mmpose0": "hmrbench.codecs.msra:MMPOSE0",
    "msra-mmpose1": "hmrbench.codecs.msra:MMPOSE1",
    "simdr": "hmrbench.codecs.simcc:SIMDR",
    "sa-simdr": "hmrbench.codecs.simcc:SA_SIMDR",
    "simcc": "hmrbench.codecs.simcc:SIMCC",
    "rtmpose": "hmrbench.codecs.simcc:RTMPOSE",
    "grouping": "hmrbench.codecs.grouping:GROUPING",
}


@dataclass(frozen=True)
class Crops:
    """Where a batch of input pictures was cut out of the images.

    `center_px` (B, 2) and `size_px` (B, 2), both x then y, in pixels of the whole image; `input_size` is the
    height and width of the network's input in pixels; `image_wh_px` (B, 2) the images' width and height, where they
    were looked at.
    """

    center_px: Array
    size_px: Array
    input_size: tuple[int, int]
    image_wh_px: Array | None = None


def _no_target(keypoints_px: Array, visible: Array, input_size: tuple[int, int]) -> tuple[Array, Array]:
    raise HmrbenchError("this codec has no training target")


def _mean(output: Any, flipped_back: Any) -> Any:
    return (output + flipped_back) / 2


@dataclass(frozen=True)
class Codec:
    """What a pose network's output means.

    `geometry` is the crop geometry that the codec is built for. `decode(output, crops)` gives keypoints (B, K, 2)
    float64 in pixels of the whole image and scores (B, K); for meshes then joints and parameters. `flip_back(output,
    skeleton)` turns the output for a mirrored picture into the output for the picture itself. `encode(keypoints_px,
    visible, input_size)` takes keypoints (B, K, 2) in pixels of the input picture and visible (B, K), and gives the
    training target and its weight per keypoint. The output may be whatever they agree on; the heatmap codecs here
    use (B, K, H, W). `encode` may be left out by who never trains. `merge(output, flipped_back)` is what `decode` reads
    of a picture and its mirror image: their mean, where nothing else is said. `vary(**options)` is the codec with the
    options that a card's `decode` gives for it; left out where it has none.

    A codec of `whole` pictures finds the people in them: its `decode` gives three lists with an array for each picture,
    keypoints (P, K, 2), scores (P, K) and the people's own scores (P,), with as many people as there are.
    """

    name: str
    geometry: CropGeometry
    decode: Callable[[Any, Crops], tuple[Any, ...]]
    flip_back: Callable[[Any, Skeleton], Any]
    encode: Callable[[Array, Array, tuple[int, int]], tuple[Any, Array]] = _no_target
    merge: Callable[[Any, Any], Any] = _mean
    vary: Callable[..., Codec] | None = None
    whole: bool = False

    @property
    def options(self) -> list[str]:
        """The names of its options."""
        return [] if self.vary is None else list(inspect.signature(self.vary).parameters)


def find_codec(name: str, options: Mapping[str, Any] | None = None, file: Path | None = None) -> Codec:
    """The codec of that name, or the one at an import path such as `mypkg.codec:CODEC`.

    Args:
        options: what `decode` of a card says of it.
        file: of the card that names it, beside which the module may lie.

    Raises:
        UsageError: there is no codec of that name, the path leads to no Codec, or it has no such option.
    """
    found = find_part(CODECS.get(name, name), "codec", Codec, CODECS, file)
    if not options:
        return found
    known = found.options
    if found.vary is None or (wrong := [unknown_key(key, known) for key in options if key not in known]):
        raise UsageError(f"codec '{name}': {'; '.join(wrong) if known else 'it has no options'}")
    return found.vary(**options)
