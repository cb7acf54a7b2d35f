"""SMPLer-X: parameters of body, hands and face from one ViT whose input has tokens of its own for each task.

Paper: Cai et al., "SMPLer-X: Scaling Up Expressive Human Pose and Shape Estimation", NeurIPS 2023; the heads are
those of Lin et al., "One-Stage 3D Whole-Body Mesh Recovery with Component Aware Transformer" (OSX), CVPR 2023.
Origin: caizhongang/SMPLer-X (S-Lab License 1.0, non-commercial), revision d3e3c10: read for its facts. Key names as
there, with the heads under `head.`.

The crop is 512x384, but the network sees every second pixel of it, a picture of 256x192. Rotations in 6D are 3x2
matrices, as in SPIN.
"""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import roi_align

from hmrbench.errors import unknown_name
from hmrbench.nets.encoders.vit import ViT
from hmrbench.nets.meshes.iterative import interleaved_rot6d_to_matrix
from hmrbench.nets.meshes.layout import TO_HEAD, OfficialLayout
from hmrbench.nets.record import Family, Net
from hmrbench.nets.truncation import Network

CROP_SIZE = (512, 384)
SEEN_SIZE = (256, 192)  # of the picture that the ViT sees, height and width in pixels
CELL_PX = 16
GRID = (SEEN_SIZE[0] // CELL_PX, SEEN_SIZE[1] // CELL_PX)
DEPTH = 16  # cells of the volumes along z
HAND_SIDE = 16  # cells of a hand's feature map
BODY_JOINTS, HAND_JOINTS = 25, 20  # whose positions are found
BODY_ROTATIONS, HAND_ROTATIONS = 21, 15
TASK_TOKENS = 31
SHAPE, CAMERA, EXPRESSION, JAW, BODY = 0, 1, 2, 3, slice(6, None)  # 4 and 5, of the hands, are not read
HAND_MARGIN, FACE_MARGIN = 2.0, 1.5
BOX_UPSAMPLING, HAND_UPSAMPLING = 8, 4
FOCAL_PX, BODY_SIZE_M = 5000.0, 2.5
SIZES = {"s": (384, 12, 12), "b": (768, 12, 12), "l": (1024, 24, 16), "h": (1280, 32, 16)}  # width, depth, heads


class TaskTokenViT(ViT):
    """ViTPose's ViT with 31 learned tokens in front of the patches."""

    def __init__(self, width: int, depth: int, num_heads: int) -> None:
        super().__init__(width, depth, num_heads, SEEN_SIZE)
        self.task_tokens = nn.Parameter(torch.empty(1, TASK_TOKENS, width))
        nn.init.trunc_normal_(self.task_tokens, std=0.02)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """(B, 3, 512, 384) crops to features (B, C, 16, 12) and task tokens (B, 31, C)."""
        x = self.patch_embed(F.interpolate(x, SEEN_SIZE))
        x = x.flatten(2).mT + self.pos_embed[:, 1:] + self.pos_embed[:, :1]
        x = torch.cat((self.task_tokens.expand(x.shape[0], -1, -1), x), dim=1)
        for block in self.blocks:
            x = block(x)
        x = self.last_norm(x)
        features = x[:, TASK_TOKENS:].mT
        return features.reshape(*features.shape[:2], *GRID), x[:, :TASK_TOKENS]


def soft_argmax(weights: Tensor) -> Tensor:
    """Mean cell of each map, weighted: (B, K, [D,] H, W) that sum to 1 to (B, K, 2 or 3) as x, y, and z."""
    axes = range(2, weights.ndim)
    means = []
    for axis in reversed(axes):  # x first
        profile = weights.sum([other for other in axes if other != axis])  # (B, K, length)
        means.append((profile * torch.arange(weights.shape[axis], device=weights.device)).sum(2))
    return torch.stack(means, dim=2)


def sample(features: Tensor, cells: Tensor) -> Tensor:
    """Features (B, C, H, W) between cells (B, K, 2), x then y: (B, K, C), bilinear."""
    height, width = features.shape[2:]
    scale = torch.tensor([width - 1, height - 1], dtype=cells.dtype, device=cells.device)
    grid = (cells / scale * 2 - 1)[:, :, None]
    return F.grid_sample(features, grid, align_corners=True)[..., 0].mT


def upsampling(*channels: int) -> nn.Sequential:
    """Transposed convolutions, each to twice the size."""
    layers: list[nn.Module] = []
    for before, after in pairwise(channels):
        layers += [nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers)


def linear(in_width: int, width: int) -> nn.Sequential:
    """One layer, under the name that the official code's list of layers gives it."""
    return nn.Sequential(nn.Linear(in_width, width))


class PositionNet(nn.Module):
    """Features to volumes (B, joints, 16, h, w) that sum to 1, and to the joints' cells x, y, z (B, joints, 3)."""

    def __init__(self, width: int, joints: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(width, joints * DEPTH, 1))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        volume = self.conv(features).unflatten(1, (-1, DEPTH))
        volume = volume.flatten(2).softmax(2).view_as(volume)
        return volume, soft_argmax(volume)


class BodyRegressor(nn.Module):
    """Task tokens and joints to root rotation (B, 6), body rotations (B, 126), shape (B, 10) and camera (B, 3)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body_conv = linear(width, 512)
        self.root_pose_out = linear(BODY_JOINTS * (512 + 3), 6)
        self.body_pose_out = linear(BODY_JOINTS * (512 + 3), BODY_ROTATIONS * 6)
        self.shape_out = linear(width, 10)
        self.cam_out = linear(width, 3)

    def forward(self, tokens: Tensor, joints: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        body = torch.cat((self.body_conv(tokens[:, BODY]), joints), dim=2).flatten(1)
        shape, camera = self.shape_out(tokens[:, SHAPE]), self.cam_out(tokens[:, CAMERA])
        return self.root_pose_out(body), self.body_pose_out(body), shape, camera


class Boxes(NamedTuple):
    """Centres and sizes (B, 2), in cells, of left hand, right hand and face."""

    lhand_center: Tensor
    lhand_size: Tensor
    rhand_center: Tensor
    rhand_size: Tensor
    face_center: Tensor
    face_size: Tensor


class BoxNet(nn.Module):
    """Features and the body's volumes to the boxes of hands and face."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.deconv = upsampling(width + BODY_JOINTS * DEPTH, 256, 256, 256)
        self.bbox_center = nn.Sequential(nn.Conv2d(256, 3, 1))
        self.lhand_size, self.rhand_size, self.face_size = (
            nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 2)) for _ in range(3)
        )

    def forward(self, features: Tensor, volume: Tensor) -> Boxes:
        features = self.deconv(torch.cat((features, volume.flatten(1, 2)), dim=1))  # (B, 256, 128, 96)
        maps = self.bbox_center(features)
        centers = soft_argmax(maps.flatten(2).softmax(2).view_as(maps))  # (B, 3, 2)
        left, right, face = sample(features, centers).unbind(1)
        sizes = (self.lhand_size(left), self.rhand_size(right), self.face_size(face))
        pairs = zip((centers / BOX_UPSAMPLING).unbind(1), sizes, strict=True)
        return Boxes(*(x for pair in pairs for x in pair))


def square_box(center: Tensor, size: Tensor, margin: float) -> Tensor:
    """The square around a box in cells, with a margin: (B, 2), (B, 2) to corners (B, 4) in pixels of the 256x192
    picture."""
    half = size.amax(1, keepdim=True) * CELL_PX * margin / 2
    return torch.cat((center * CELL_PX - half, center * CELL_PX + half), dim=1)


class HandRoI(nn.Module):
    """Features of both hands, the left one mirrored: (B, C, 16, 12), two boxes (B, 4) to (2 B, C, 16, 16), all left
    hands first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.deconv = upsampling(width, width // 2, width // 4)
        self.conv = nn.Sequential(nn.Conv2d(width // 4, width, 1))

    def forward(self, features: Tensor, left: Tensor, right: Tensor) -> Tensor:
        features = self.deconv(features)  # (B, C / 4, 64, 48)
        image = torch.arange(features.shape[0], dtype=left.dtype, device=left.device)[:, None]
        scale = HAND_UPSAMPLING / CELL_PX
        left, right = (  # as many samples as a cell has features: officially -1, which converters do not know
            roi_align(features, torch.cat((image, box * scale), dim=1), HAND_SIDE, sampling_ratio=0, aligned=False)
            for box in (left, right)
        )
        out: Tensor = self.conv(torch.cat((left.flip(3), right)))
        return out


def halves(hands: Tensor) -> tuple[Tensor, Tensor]:
    """(2 B, ...) as both halves (B, ...); B stays open where a converter looks on, which it does not with `chunk`."""
    batch = hands.shape[0] // 2
    return hands[:batch], hands[batch:]


class HandRegressor(nn.Module):
    """Hand features (B, C, 16, 16) and joints (B, 20, 3) to 15 rotations (B, 90)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hand_conv = nn.Sequential(nn.Conv2d(width, 512, 1), nn.BatchNorm2d(512), nn.ReLU())
        self.hand_pose_out = linear(HAND_JOINTS * (512 + 3), HAND_ROTATIONS * 6)

    def forward(self, features: Tensor, joints: Tensor) -> Tensor:
        sampled = sample(self.hand_conv(features), joints[..., :2])
        out: Tensor = self.hand_pose_out(torch.cat((sampled, joints), dim=2).flatten(1))
        return out


class FaceRegressor(nn.Module):
    """Task tokens to expression (B, 10) and the jaw's rotation (B, 6)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.expr_out = linear(width, 10)
        self.jaw_pose_out = linear(width, 6)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        return self.expr_out(tokens[:, EXPRESSION]), self.jaw_pose_out(tokens[:, JAW])


class SMPLerXHead(nn.Module):
    """Features (B, C, 16, 12) and task tokens (B, 31, C) to the parameters of SMPL-X.

    Shapes:
        A dict of rotation matrices `global_orient` (B, 1, 3, 3), `body_pose` (B, 21, 3, 3), `left_hand_pose` and
        `right_hand_pose` (B, 15, 3, 3), `jaw_pose` (B, 1, 3, 3); of `betas` and `expression` (B, 10); of `cam` (B, 3),
        the translation of the root in metres before a camera of focal length 5000 pixels and the 256x192 picture; of
        `joints_cells` (B, 65, 3): 25 joints of the body, 20 of the left and 20 of the right hand, x and y in cells of
        16 pixels of that picture, z in cells of the part's own volume; of `left_hand_box`, `right_hand_box` and
        `face_box` (B, 4), corners in pixels of that picture.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body_position_net = PositionNet(width, BODY_JOINTS)
        self.body_regressor = BodyRegressor(width)
        self.box_net = BoxNet(width)
        self.hand_roi_net = HandRoI(width)
        self.hand_position_net = PositionNet(width, HAND_JOINTS)
        self.hand_regressor = HandRegressor(width)
        self.face_regressor = FaceRegressor(width)

    def forward(self, encoded: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        features, tokens = encoded
        volume, body_joints = self.body_position_net(features)
        root, body, shape, camera = self.body_regressor(tokens, body_joints)
        boxes = self.box_net(features, volume)
        left_box = square_box(boxes.lhand_center, boxes.lhand_size, HAND_MARGIN)
        right_box = square_box(boxes.rhand_center, boxes.rhand_size, HAND_MARGIN)
        hands = self.hand_roi_net(features, left_box, right_box)
        _, hand_joints = self.hand_position_net(hands)
        hand_poses = interleaved_rot6d_to_matrix(self.hand_regressor(hands, hand_joints).unflatten(1, (-1, 6)))
        left_joints, right_joints = halves(hand_joints)
        hand_cells = (from_box(mirrored_cells(left_joints), left_box), from_box(right_joints, right_box))
        left_pose, right_pose = halves(hand_poses)
        expression, jaw = self.face_regressor(tokens)
        return {
            "global_orient": interleaved_rot6d_to_matrix(root)[:, None],
            "body_pose": interleaved_rot6d_to_matrix(body.unflatten(1, (-1, 6))),
            "betas": shape,
            "cam": camera_translation(camera),
            "left_hand_pose": mirrored_rotation(left_pose),
            "right_hand_pose": right_pose,
            "jaw_pose": interleaved_rot6d_to_matrix(jaw)[:, None],
            "expression": expression,
            "joints_cells": torch.cat((body_joints, *hand_cells), dim=1),
            "left_hand_box": left_box,
            "right_hand_box": right_box,
            "face_box": square_box(boxes.face_center, boxes.face_size, FACE_MARGIN),
        }


def mirrored_rotation(matrix: Tensor) -> Tensor:
    """Rotations as seen in a mirror at x = 0: rotation vectors (x, y, z) become (x, -y, -z)."""
    sign = torch.tensor([-1.0, 1.0, 1.0], dtype=matrix.dtype, device=matrix.device)
    return matrix * sign[:, None] * sign


def mirrored_cells(cells: Tensor) -> Tensor:
    """Cells (..., 3) of a hand's mirrored feature map as cells of the hand's own."""
    return torch.cat((HAND_SIDE - 1 - cells[..., :1], cells[..., 1:]), dim=-1)


def from_box(cells: Tensor, box: Tensor) -> Tensor:
    """Cells (B, K, 3) of a hand's feature map as cells of the picture, z as it is; box (B, 4) in pixels."""
    low, high = box[:, None, :2] / CELL_PX, box[:, None, 2:] / CELL_PX
    return torch.cat((cells[..., :2] * (high - low) / HAND_SIDE + low, cells[..., 2:]), dim=2)


def camera_translation(camera: Tensor) -> Tensor:
    """The translation (B, 3) in metres that the read-out (B, 3) stands for."""
    farthest = math.sqrt(FOCAL_PX**2 * BODY_SIZE_M**2 / (SEEN_SIZE[0] * SEEN_SIZE[1]))
    return torch.cat((camera[:, :2], farthest * camera[:, 2:].sigmoid()), dim=1)


def smplerx(size: str, input_size: tuple[int, int] = CROP_SIZE) -> Network:
    """SMPLer-X-S, -B, -L or -H, for crops of 512x384 in 0..1 (RGB / 255, not normalised further)."""
    if size not in SIZES:
        raise unknown_name("size of SMPLer-X", size, SIZES)
    return Network(TaskTokenViT(*SIZES[size]), nn.Identity(), SMPLerXHead(SIZES[size][0]))


def official_layout() -> OfficialLayout:
    """Keys of `smpler_x_*.pth.tar`; early files name three modules otherwise, and some hold the body model."""
    older = (
        (r"^backbone\.", "encoder."),
        (r"^body_rotation_net\.", "body_regressor."),
        (r"^hand_rotation_net\.", "hand_regressor."),
    )
    return OfficialLayout(older + TO_HEAD, unused=r"^smplx_layer\.", wrapper="network", name="smplerx")


FAMILY = Family("smplerx", "SMPLer-X")
NETWORKS = tuple(
    Net(
        name=f"smplerx-{size}",
        build=partial(smplerx, size),
        family=FAMILY,
        input_sizes=(CROP_SIZE,),
        widths=sizes[:1],
        output="mesh",
        layout=official_layout(),
    )
    for size, sizes in SIZES.items()
)
