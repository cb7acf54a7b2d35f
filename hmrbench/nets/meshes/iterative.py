"""SPIN and CLIFF: HMR's iterative regressor, which corrects mean SMPL parameters three times.

Papers: Kanazawa et al., "End-to-end Recovery of Human Shape and Pose", CVPR 2018; Kolotouros et al., "Learning to
Reconstruct 3D Human Pose and Shape via Model-fitting in the Loop" (SPIN), ICCV 2019; Li et al., "CLIFF: Carrying
Location Information in Full Frames into Human Pose and Shape Estimation", ECCV 2022.
Origin: nkolot/SPIN (BSD-3-Clause), revision 2476c43; huawei-noah/noah-research, CLIFF (MIT), revision f38cad8. Key
names as there, with the encoder under `encoder.` and all else under `head.`.

There is no activation between the regressor's layers, only dropout. Rotations in 6D are 3x2 matrices here, where
HMR2.0 has two vectors one after the other.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from hmrbench.errors import UsageError, unknown_name
from hmrbench.geometry import rot6d_to_matrix
from hmrbench.nets.encoders.hrnet import HRNet
from hmrbench.nets.encoders.resnet import ResNet50
from hmrbench.nets.meshes.backbones import find_backbone
from hmrbench.nets.meshes.layout import TO_HEAD, OfficialLayout
from hmrbench.nets.record import Family, Net
from hmrbench.nets.truncation import Network

SPIN_SIZE, CLIFF_SIZE = (224, 224), (256, 192)
ROUNDS = 3
POSE, BETAS, CAMERA = 24 * 6, 10, 3
FEATURES, HIDDEN = 2048, 1024
BOX_NUMBERS = 3
HR48_WIDTHS = (48, 96, 192, 384)


def interleaved_rot6d_to_matrix(rot6d: Tensor) -> Tensor:
    """Rotation matrices from 3x2 matrices, flattened by rows, of their first two columns: (..., 6) to (..., 3, 3)."""
    return rot6d_to_matrix(rot6d.reshape(*rot6d.shape[:-1], 3, 2).mT.flatten(-2))


class IterativeRegressor(nn.Module):
    """Feature map to SMPL parameters and a weak-perspective camera.

    Args:
        extra: numbers beside the image feature that every round sees: 3 of CLIFF's box, else 0.

    Shapes:
        (B, 2048, h, w), and (B, extra) where there are any, to a dict of rotation matrices `global_orient`
        (B, 1, 3, 3) and `body_pose` (B, 23, 3, 3), of `betas` (B, 10) and `cam` (B, 3): scale, x, y.

    The mean parameters are buffers that every checkpoint holds. An untrained network starts, by assumption, at the
    rest pose, zero betas and the camera (0.9, 0, 0): their file comes with SMPL's licence.
    """

    init_pose: Tensor
    init_shape: Tensor
    init_cam: Tensor

    def __init__(self, extra: int = 0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(FEATURES + extra + POSE + BETAS + CAMERA, HIDDEN)
        self.fc2 = nn.Linear(HIDDEN, HIDDEN)
        self.drop1, self.drop2 = nn.Dropout(), nn.Dropout()
        self.decpose = nn.Linear(HIDDEN, POSE)
        self.decshape = nn.Linear(HIDDEN, BETAS)
        self.deccam = nn.Linear(HIDDEN, CAMERA)
        self.register_buffer("init_pose", torch.eye(3)[:, :2].reshape(1, 6).repeat(1, 24))
        self.register_buffer("init_shape", torch.zeros(1, BETAS))
        self.register_buffer("init_cam", torch.tensor([[0.9, 0.0, 0.0]]))

    def forward(self, features: Tensor, extra: Tensor | None = None, rounds: int = ROUNDS) -> dict[str, Tensor]:
        known = features.mean((2, 3))  # (B, 2048)
        if extra is not None:
            known = torch.cat((known, extra), dim=1)
        pose, shape, camera = (x.expand(known.shape[0], -1) for x in (self.init_pose, self.init_shape, self.init_cam))
        for _ in range(rounds):
            x = self.drop1(self.fc1(torch.cat((known, pose, shape, camera), dim=1)))
            x = self.drop2(self.fc2(x))
            pose, shape, camera = pose + self.decpose(x), shape + self.decshape(x), camera + self.deccam(x)
        rotations = interleaved_rot6d_to_matrix(pose.reshape(-1, 24, 6))
        return {"global_orient": rotations[:, :1], "body_pose": rotations[:, 1:], "betas": shape, "cam": camera}


class Cliff(Network):
    """CLIFF: the regressor also sees where in the whole image the person's box lies, and how large it is."""

    def forward(self, x: Tensor, box: Tensor | None = None) -> dict[str, Tensor]:
        """Images to SMPL parameters and a camera.

        Args:
            x: (B, 3, 256, 192) normalised crops.
            box: (B, 3) from `hmrbench.data.family_crops.cliff_box_numbers`. Default zeros: a box in the middle of
                its image and of the size that CLIFF's normalisation takes for the mean. That is for measuring cost;
                accuracy needs the real numbers.

        Raises:
            UsageError: `box` has another shape.
        """
        if box is None:
            box = x.new_zeros(x.shape[0], BOX_NUMBERS)
        if tuple(box.shape) != (x.shape[0], BOX_NUMBERS):
            raise UsageError(
                f"CLIFF takes {BOX_NUMBERS} numbers of each box, not {tuple(box.shape)} for {len(x)} images"
            )
        out: dict[str, Tensor] = self.head(self.neck(self.encoder(x)), box)
        return out


def spin(backbone: str = "r50", input_size: tuple[int, int] = SPIN_SIZE) -> Network:
    """SPIN (HMR trained with fitting in the loop) on ResNet-50, for images of 224x224."""
    encoder = find_backbone(backbone, ("r50",)).build()
    return Network(encoder, nn.Identity(), IterativeRegressor())


def cliff(backbone: str, input_size: tuple[int, int] = CLIFF_SIZE) -> Cliff:
    """CLIFF on ResNet-50 (`r50`) or HRNet-W48 (`hr48`), for images of 256x192."""
    if backbone not in ("r50", "hr48"):
        raise unknown_name("backbone", backbone, ("r50", "hr48"))
    encoder = ResNet50() if backbone == "r50" else HRNet(48, "features")
    return Cliff(encoder, nn.Identity(), IterativeRegressor(BOX_NUMBERS))


def spin_layout() -> OfficialLayout:
    """Keys of SPIN's `model_checkpoint.pt`, whose encoder has no prefix."""
    return OfficialLayout(((r"^(conv1|bn1|layer\d)\.", r"encoder.\1."), *TO_HEAD), wrapper="model", name="spin")


def cliff_layout() -> OfficialLayout:
    """Keys of CLIFF's checkpoints."""
    return OfficialLayout(TO_HEAD, wrapper="model", name="cliff")


SPIN, CLIFF = Family("spin", "SPIN"), Family("cliff", "CLIFF")
NETWORKS = (
    Net("spin-r50", partial(spin, "r50"), SPIN, (SPIN_SIZE,), ResNet50.widths, "mesh", layout=spin_layout()),
    Net("cliff-r50", partial(cliff, "r50"), CLIFF, (CLIFF_SIZE,), ResNet50.widths, "mesh", layout=cliff_layout()),
    Net("cliff-hr48", partial(cliff, "hr48"), CLIFF, (CLIFF_SIZE,), HR48_WIDTHS, "mesh", layout=cliff_layout()),
)
