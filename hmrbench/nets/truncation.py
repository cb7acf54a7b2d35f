"""Networks made of an encoder that may end early, a neck that brings its last map to stride 16, and a head.

Paper: Tarashima et al., "On the Use of Hierarchical Vision Foundation Models for Low-Cost Human Mesh Recovery
and Pose Estimation", arXiv 2510.12660: a 2x2, stride-2 transposed convolution behind stage 4, nothing behind
stage 3, a stride-2 convolution behind stage 2. Derived from its parameter counts: the transposed convolution
maps to the width of stage 3. Assumed: the convolution behind stage 2 is 3x3 and maps to the same width; the
output of a Swin or VMamba stage passes a LayerNorm, as in their official dense-prediction versions.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from hmrbench.errors import UsageError


class Neck(nn.Module):
    """LayerNorm over channels where the encoder's family has one, then resampling to stride 16.

    Args:
        channels: width of the stage output.
        norm: put a LayerNorm (eps 1e-5) before the resampling.
        resample: the layer that brings the map to stride 16.
    """

    def __init__(self, channels: int, norm: bool, resample: nn.Module) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels) if norm else nn.Identity()
        self.resample = resample

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) stage output to (B, C', H/16, W/16)."""
        if isinstance(self.norm, nn.LayerNorm):
            x = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        y: Tensor = self.resample(x)
        return y


def make_neck(widths: Sequence[int], stages: int, norm: bool) -> tuple[nn.Module, int]:
    """The neck behind stage `stages` and the number of channels that it hands to the head.

    Args:
        widths: channels of the encoder's four stages, or of the one map of an encoder of stride 16 (ViT).
        stages: the last stage of the encoder, 2 to 4; all cuts give the width of stage 3.
        norm: the stage output passes a LayerNorm first (Swin, VMamba).

    Raises:
        UsageError: there is no way from this stage to stride 16.
    """
    resample: nn.Module = nn.Identity()
    if len(widths) == 1:
        channels = out = widths[0]
    elif len(widths) == 4 and stages in (2, 3, 4):
        channels, out = widths[stages - 1], widths[2]
        if stages == 4:
            resample = nn.ConvTranspose2d(channels, out, 2, stride=2)
        elif stages == 2:
            resample = nn.Conv2d(channels, out, 3, stride=2, padding=1)
    else:
        raise UsageError(f"a network ends after stage 2, 3 or 4 of 4, not after {stages} of {len(widths)}")
    if isinstance(resample, nn.Identity) and not norm:
        return resample, out
    return Neck(channels, norm, resample), out


class Network(nn.Module):
    """Encoder, neck and head.

    Args:
        encoder: (B, 3, H, W) images to (B, C, h, w).
        neck: its output to stride 16.
        head: the last step, to heatmaps or to a dict of body parameters.
        side_crop: the left and the right 1 / side_crop of the width do not reach the encoder: 8 for HMR2.0,
            which sees the middle 192 of the 256 columns of a crop; 0 for all of it.
    """

    def __init__(self, encoder: nn.Module, neck: nn.Module, head: nn.Module, side_crop: int = 0) -> None:
        super().__init__()
        self.encoder = encoder
        self.neck = neck
        self.head = head
        self.side_crop = side_crop

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor] | dict[str, Tensor]:
        """(B, 3, H, W) normalised images to whatever the head gives."""
        y: Tensor | tuple[Tensor, Tensor] | dict[str, Tensor] = self.head(self.neck(self.encoder(self.seen(x))))
        return y

    def seen(self, x: Tensor) -> Tensor:
        """The columns of (B, 3, H, W) that reach the encoder."""
        if not self.side_crop:
            return x
        side = x.shape[-1] // self.side_crop
        return x[..., side : x.shape[-1] - side]
