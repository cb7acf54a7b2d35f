"""What an HMR network's output means: a mesh and a camera -> joints, and keypoints in the image.

Some networks put out parameters, which a body model turns into joints; others put out vertices of SMPL's mesh, from
which the body's regressors take the same joints. Every camera is a scale and a shift of the body in the crop; families
differ in how far away it is:

    smpl      4D-Humans (`hmr2/models/hmr2.py`, MIT): perspective, 5,000 pixels focal length for a crop of 256
    spin      nkolot/SPIN (`models/hmr.py`, BSD-3-Clause): the same for a crop of 224
    cliff     huawei-noah/noah-research, CLIFF (MIT): perspective of the whole image, whose focal length is its diagonal
    weak      microsoft/MeshTransformer (MIT) and its kin: orthographic
    smplerx   caizhongang/SMPLer-X: a translation in metres before a camera of 5,000 pixels and a picture of 256x192

What is for SMPL-X poses SMPL where numbers are of SMPL: an approximation, see `_as_smpl`. Its own mesh it has in
pictures, and where a rule takes SMPL-X's joints, once SMPL-X is installed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from hmrbench.body import whole_body
from hmrbench.body.arrays import SMPL_VERTICES
from hmrbench.body.model import Body
from hmrbench.body.whole_body import WholeBody
from hmrbench.errors import DataError, HmrbenchError, UsageError, unknown_name
from hmrbench.geometry import (
    CROP_SIZE_PX,
    FOCAL_LENGTH_PX,
    cam_crop_to_full,
    cam_to_translation,
    crop_to_image_px,
    project,
)
from hmrbench.records import Array
from hmrbench.schema import ModelCard

PARAMS = ("global_orient", "body_pose", "betas", "cam")
VERTICES = "vertices_m"  # what predicted meshes are called among a prediction's parameters
SMPLX_TREE = "joints22_m"  # and the first 22 joints of SMPL-X, regressed from its mesh
GRID = (16, 12)  # cells of SMPLer-X's crop, height and width, in which it finds joints
SPIN_CROP_PX = 224
HANDS = 2  # joints of SMPL that SMPL-X has not


@dataclass(frozen=True)
class MeshCodec:
    """How the output of a mesh network is read.

    `mesh` is what it puts out: the parameters of a body in SMPL's format, those of SMPL-X, or the vertices of SMPL's
    mesh. `focal` is the focal length in crop heights, None for an orthographic camera; `full` says that the camera is
    that of the whole image, with its diagonal for a focal length.
    """

    name: str
    mesh: Literal["params", "smplx", "vertices"] = "params"
    focal: float | None = FOCAL_LENGTH_PX / CROP_SIZE_PX
    full: bool = False


MESH_CODECS = {
    codec.name: codec
    for codec in (
        MeshCodec("smpl"),
        MeshCodec("spin", focal=FOCAL_LENGTH_PX / SPIN_CROP_PX),
        MeshCodec("cliff", full=True),
        MeshCodec("weak", focal=None),
        MeshCodec("weak-vertices", "vertices", focal=None),
        MeshCodec("smplerx", "smplx"),
    )
}


def find_mesh_codec(name: str) -> MeshCodec:
    """The mesh codec of that name.

    Raises:
        UsageError: there is none.
    """
    if name not in MESH_CODECS:
        raise unknown_name("codec of meshes", name, MESH_CODECS)
    return MESH_CODECS[name]


def mesh_codec_of(card: ModelCard) -> MeshCodec:
    """The codec of meshes that a card names; HMR2.0's where it says none.

    Raises:
        UsageError: there is no such codec.
    """
    said = "codec" in card.model_fields_set
    try:
        return find_mesh_codec(card.codec if said else "smpl")
    except UsageError as e:
        raise UsageError(f"{card.where}: {e}") from e


def check_body(codec: MeshCodec, body: Body) -> None:
    """The body must have the vertices that the network puts out, by which joints are found.

    Raises:
        DataError: it has others.
    """
    vertices = len(body.mesh.v_template)
    if codec.mesh == "vertices" and vertices != SMPL_VERTICES:
        raise DataError(
            f"this network puts out the {SMPL_VERTICES:,} vertices of SMPL, and the body that the data set is measured "
            f"with ({body.source}) has {vertices:,}: only a body of SMPL's topology can tell joints on them"
        )


@torch.inference_mode()
def decode_mesh(
    output: Mapping[str, Tensor],
    center_px: Array,
    size_px: Array,
    body: Body,
    codec: MeshCodec = MESH_CODECS["smpl"],
    image_wh_px: Array | None = None,
    whole: WholeBody | None = None,
) -> tuple[Array, Array, Array, dict[str, Array]]:
    """Keypoints, scores, joints and parameters of a batch.

    Args:
        output: `global_orient` (B, 1, 3, 3), `body_pose` (B, 23, 3, 3), `betas` (B, 10), or `vertices` (B, 6890, 3);
            and `cam` (B, 3).
        center_px: (B, 2) and size_px: (B, 2) the crops in the image, x then y.
        body: the body that the network was trained with.
        codec: how the output is read.
        image_wh_px: (B, 2) width and height of the images, which a camera of the whole image needs.
        whole: SMPL-X, where its own joints `joints22_m` (B, 22, 3) are wanted of a network that is for it.

    Returns:
        keypoints (B, 44, 2) in pixels of the image; scores (B, 44), all one, since HMR networks have none; joints
        (B, 44, 3) in metres, in the camera's orientation, the body at the origin; parameters by name, of which `cam`
        (B, 3) is scale, x and y in the crop, whatever the network's camera; vertices are `vertices_m`.

    Raises:
        HmrbenchError: a parameter is missing or not finite; names the row of the batch.
    """
    params = _finite(output, ("vertices", "cam") if codec.mesh == "vertices" else PARAMS)
    if codec.mesh == "vertices":
        params[VERTICES] = params.pop("vertices")
        joints = body.joints_of(params[VERTICES])
    else:
        if codec.mesh == "smplx":
            more = tuple(name for name in whole_body.PARAMS if name in output and name not in PARAMS)
            params = _as_smpl(params) | {f"smplx_{name}": x for name, x in _finite(output, more).items()}
            if whole is not None:
                params[SMPLX_TREE] = whole.tree_of(whole(_finite(output, whole_body.PARAMS))[0])
        found = body(params["global_orient"], params["body_pose"], params["betas"]).joints  # (B, 44, 3)
        if found is None:
            raise HmrbenchError(f"{body.source}: this body has no regressor of the 44 joints")
        joints = found
    keypoints = in_image(joints, params["cam"], center_px, size_px, codec, image_wh_px)
    scores = np.ones(keypoints.shape[:2], np.float32)
    arrays = {name: value.cpu().numpy() for name, value in params.items()}
    return keypoints.cpu().numpy(), scores, joints.cpu().numpy(), arrays


@torch.inference_mode()
def decode_whole(
    output: Mapping[str, Tensor], center_px: Array, size_px: Array, body: WholeBody | None
) -> tuple[Array, Array, Array | None, dict[str, Array]]:
    """What a network for SMPL-X says of a batch, without SMPL.

    Args:
        output: SMPL-X's parameters, see `WholeBody`; `cam` (B, 3); `joints_cells` (B, 65, 3), in cells of the crop.
        center_px: (B, 2) and size_px: (B, 2) the crops in the image, x then y.
        body: SMPL-X, where it is installed.

    Returns:
        the 65 keypoints (B, 65, 2) that the network itself finds, in pixels of the image; scores (B, 65), all one; the
        joints of SMPL-X's tree (B, 55, 3) in metres, in the camera's orientation, None without a body; the parameters
        by name, of which `cam` (B, 3) is scale, x and y in the crop.

    Raises:
        HmrbenchError: a parameter is missing or not finite; names the row of the batch.
    """
    params = _finite(output, (*whole_body.PARAMS, "cam", "joints_cells"))
    cells = params.pop("joints_cells")[..., :2].double().cpu().numpy() / GRID[::-1]  # (B, 65, 2) in 0..1
    keypoints = np.asarray(center_px)[:, None] + (cells - 0.5) * np.asarray(size_px)[:, None]
    params["cam"] = _crop_camera(params["cam"])
    joints = None if body is None else body(params)[1].cpu().numpy()
    arrays = {name: value.cpu().numpy() for name, value in params.items()}
    return keypoints, np.ones(keypoints.shape[:2], np.float32), joints, arrays


def _finite(output: Mapping[str, Tensor], wanted: tuple[str, ...]) -> dict[str, Tensor]:
    """Some of what a network put out, float32.

    Raises:
        HmrbenchError: one is missing or not finite; names the row of the batch.
    """
    if missing := [name for name in wanted if name not in output]:
        raise HmrbenchError(f"the network's output lacks {', '.join(missing)}")
    params = {name: output[name].detach().float() for name in wanted}
    for name, value in params.items():
        finite = torch.isfinite(value.flatten(1)).all(1)
        if not finite.all():
            raise HmrbenchError(f"{name} in row {int((~finite).nonzero()[0])} of the batch is not finite")
    return params


def _crop_camera(cam: Tensor) -> Tensor:
    """SMPLer-X's translation (B, 3) as a scale and a shift in a crop as high as the picture."""
    return torch.cat((2 * FOCAL_LENGTH_PX / (CROP_SIZE_PX * cam[:, 2:]), cam[:, :2]), dim=1)


def _as_smpl(params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """SMPL-X's rotations on SMPL, which has two more joints, in the hands, and a shape space of its own: the mean shape
    stands for SMPL-X's."""
    pose = params["body_pose"]
    rest = torch.eye(3, dtype=pose.dtype, device=pose.device).expand(len(pose), HANDS, 3, 3)
    return {
        "global_orient": params["global_orient"],
        "body_pose": torch.cat((pose, rest), dim=1),
        "betas": torch.zeros_like(params["betas"]),
        "cam": _crop_camera(params["cam"]),
        "smplx_betas": params["betas"],
    }


def in_image(
    joints: Tensor, cam: Tensor, center_px: Array, size_px: Array, codec: MeshCodec, image_wh_px: Array | None
) -> Tensor:
    """Joints (B, J, 3) as pixels of the image (B, J, 2), float64."""
    center, size = (
        torch.as_tensor(np.asarray(x), dtype=torch.float64, device=joints.device) for x in (center_px, size_px)
    )
    height = size[:, 1]
    if codec.full:
        if image_wh_px is None:
            raise HmrbenchError("a camera of the whole image needs the image's size")
        wh = torch.as_tensor(np.asarray(image_wh_px), dtype=torch.float64, device=joints.device)
        focal = wh.norm(dim=1)  # (B,)
        translation = cam_crop_to_full(cam.double(), center, height, wh, focal)
        return project(joints.double(), translation, focal[:, None].expand(-1, 2), wh / 2)
    if codec.focal is None:
        in_crop = cam[:, None, :1] * (joints[..., :2] + cam[:, None, 1:]) / 2  # (B, J, 2) in [-0.5, 0.5]
    else:
        translation = cam_to_translation(cam, codec.focal, 1)
        in_crop = project(joints, translation, torch.full_like(joints[:, 0, :2], codec.focal))
    return crop_to_image_px(in_crop.double(), center, height)
