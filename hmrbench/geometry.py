"""Rotations, cameras and alignment.

Formulas: 6D rotations from Zhou et al. 2019, "On the Continuity of Rotation Representations in Neural
Networks"; similarity alignment from Umeyama 1991 and Horn 1987; the weak-perspective camera, and how numbers
are laid out, from 4D-Humans (Goel et al. 2023, repository shubham-goel/4D-Humans, MIT licence).

Camera frame: x to the right, y down, z forwards, metres. All functions are batched and leave their inputs
alone; rotations and cameras are for PyTorch tensors, alignment, which only metrics need, for numpy arrays.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hmrbench.records import Array

FOCAL_LENGTH_PX = 5000.0  # of the crop camera of HMR2.0, for a crop of CROP_SIZE_PX
CROP_SIZE_PX = 256


def rot6d_to_matrix(rot6d: Tensor) -> Tensor:
    """Rotation matrices from 6D vectors: (..., 6) to (..., 3, 3).

    The six numbers are two consecutive 3-vectors, which become, made orthonormal (Gram-Schmidt), the first
    two *columns*; that is how 4D-Humans reads them (others read a 3x2 matrix).
    """
    first = F.normalize(rot6d[..., :3], dim=-1)
    second = rot6d[..., 3:]
    second = F.normalize(second - (first * second).sum(-1, keepdim=True) * first, dim=-1)
    third = torch.linalg.cross(first, second, dim=-1)
    return torch.stack((first, second, third), dim=-1)


def matrix_to_rot6d(matrix: Tensor) -> Tensor:
    """The first two columns of rotation matrices, one after the other: (..., 3, 3) to (..., 6)."""
    return torch.cat((matrix[..., 0], matrix[..., 1]), dim=-1)


def axis_angle_to_matrix(axis_angle: Tensor) -> Tensor:
    """Rotation matrices from rotation vectors in radians (Rodrigues): (..., 3) to (..., 3, 3)."""
    angle = axis_angle.norm(dim=-1)[..., None, None]
    x, y, z = axis_angle.unbind(-1)
    zero = torch.zeros_like(x)
    skew = torch.stack((zero, -z, y, z, zero, -x, -y, x, zero), dim=-1).reshape(*axis_angle.shape, 3)
    identity = torch.eye(3, dtype=axis_angle.dtype, device=axis_angle.device)
    # torch.sinc(x) is sin(pi x) / (pi x): no division by a vanishing angle
    sine = torch.sinc(angle / torch.pi)
    cosine = 0.5 * torch.sinc(angle / (2 * torch.pi)) ** 2  # (1 - cos a) / a^2
    matrix: Tensor = identity + sine * skew + cosine * skew @ skew
    return matrix


def matrix_to_axis_angle(matrix: Tensor) -> Tensor:
    """Rotation vectors in radians, angle in [0, pi]: (..., 3, 3) to (..., 3).

    Goes through the quaternion whose largest component is found first (Shepperd 1978), so it is accurate for
    angles near 0 and near pi alike.
    """
    trace = matrix.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    skew = matrix - matrix.mT
    axis = torch.stack((skew[..., 2, 1], skew[..., 0, 2], skew[..., 1, 0]), dim=-1)  # (..., 3)
    identity = torch.eye(3, dtype=matrix.dtype, device=matrix.device)
    # Four times the outer product of the quaternion (w, x, y, z) with itself: every row is a multiple of it.
    top = torch.cat((1 + trace, axis[..., None, :]), dim=-1)
    below = torch.cat((axis[..., None], matrix + matrix.mT + (1 - trace) * identity), dim=-1)
    outer = torch.cat((top, below), dim=-2)  # (..., 4, 4)
    largest = outer.diagonal(dim1=-2, dim2=-1).argmax(-1)
    row = outer.gather(-2, largest[..., None, None].expand(*largest.shape, 1, 4)).squeeze(-2)
    quaternion = F.normalize(row, dim=-1)
    quaternion = torch.where(quaternion[..., :1] < 0, -quaternion, quaternion)
    w, xyz = quaternion[..., :1], quaternion[..., 1:]
    length = xyz.norm(dim=-1, keepdim=True)
    angle = 2 * torch.atan2(length, w)
    scale = torch.where(length > 0, angle / length.clamp_min(torch.finfo(matrix.dtype).tiny), 2.0)
    return xyz * scale


def project(points_m: Tensor, translation_m: Tensor, focal: Tensor, center: Tensor | None = None) -> Tensor:
    """Perspective projection.

    Args:
        points_m: (B, N, 3) points, in the camera's orientation.
        translation_m: (B, 3) added to the points; takes them into the camera frame.
        focal: (B, 2) focal length; the result has its unit (pixels, or crop widths where it was divided by
            those).
        center: (B, 2) principal point, default zero.

    Returns:
        (B, N, 2) image coordinates.
    """
    points = points_m + translation_m[:, None]
    xy = points[..., :2] / points[..., 2:] * focal[:, None]
    return xy if center is None else xy + center[:, None]


def cam_to_translation(cam: Tensor, focal_px: float = FOCAL_LENGTH_PX, image_size_px: int = CROP_SIZE_PX) -> Tensor:
    """Translation in metres of a weak-perspective camera (scale, x, y) in the crop: (B, 3) to (B, 3)."""
    depth = 2 * focal_px / (image_size_px * cam[:, 0] + 1e-9)
    return torch.stack((cam[:, 1], cam[:, 2], depth), dim=-1)


def cam_crop_to_full(
    cam: Tensor, box_center_px: Tensor, box_size_px: Tensor, image_wh_px: Tensor, focal_px: float | Tensor
) -> Tensor:
    """Translation in metres for a camera of the whole image, principal point in its middle.

    Args:
        cam: (B, 3) weak-perspective camera of the square crop.
        box_center_px: (B, 2) and box_size_px: (B,) the crop in the image.
        image_wh_px: (B, 2) width and height of the image.
        focal_px: focal length with which the image will be rendered (one number or (B,)).

    Returns:
        (B, 3) translation.
    """
    size = box_size_px * cam[:, 0] + 1e-9  # (B,)
    shift = 2 * (box_center_px - image_wh_px / 2) / size[:, None] + cam[:, 1:]  # (B, 2)
    return torch.cat((shift, (2 * focal_px / size)[:, None]), dim=-1)


def crop_to_image_px(xy: Tensor, box_center_px: Tensor, box_size_px: Tensor) -> Tensor:
    """Pixels of the image from crop coordinates in [-0.5, 0.5]: (B, N, 2), (B, 2), (B,) to (B, N, 2)."""
    return xy * box_size_px[:, None, None] + box_center_px[:, None]


def similarity(source: Array, target: Array) -> tuple[Array, Array, Array]:
    """Scale, rotation and translation that take `source` closest to `target` in the least-squares sense.

    Umeyama 1991; never a reflection: a mirror image is met as well as a rotation can.

    Args:
        source: (B, N, 3) points of any frame and unit, finite; `target`: (B, N, 3). Computed in float64.

    Returns:
        scale (B,), rotation (B, 3, 3), translation (B, 3): target ~ scale * rotation @ source + translation.
        Scale and translation are NaN where `source` has no extent.
    """
    (source, source_mean), (target, target_mean) = _centred(source), _centred(target)
    source_size, target_size = (np.einsum("bnc,bnc->b", x, x) for x in (source, target))
    covariance = target.swapaxes(1, 2) @ source  # (B, 3, 3)
    bound = np.sqrt(source_size * target_size)
    rotation = _best_rotation(covariance / np.where(bound > 0, bound, 1)[:, None, None])
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.einsum("bij,bij->b", rotation, covariance) / source_size
    translation = (target_mean - scale[:, None, None] * source_mean @ rotation.swapaxes(1, 2))[:, 0]
    return scale, rotation, translation


def similarity_align(source: Array, target: Array) -> Array:
    """`source` after the similarity transform that takes it closest to `target`: (B, N, 3), float64."""
    scale, rotation, translation = similarity(source, target)
    aligned: Array = source @ (scale[:, None, None] * rotation.swapaxes(1, 2)) + translation[:, None]
    return aligned


def _centred(points: Array) -> tuple[Array, Array]:
    """Points (B, N, 3) with their mean at the origin, and that mean (B, 1, 3); float64, of numpy arrays."""
    points = points.astype(np.float64)
    mean = np.einsum("bnc->bc", points)[:, None] / points.shape[1]  # several times as fast as points.mean(1)
    return points - mean, mean


def _best_rotation(covariance: Array) -> Array:
    """Rotations that maximise trace(rotation.T @ covariance), where that is at most 1: of (B, 3, 3) matrices.

    Horn 1987: as a quaternion, the best rotation is the eigenvector of the largest eigenvalue of a symmetric
    4x4 matrix. Found as below it takes a quarter of the time of the batched singular value decomposition,
    which remains for the rows whose two largest eigenvalues nearly coincide (joints on a line, some mirror
    images).
    """
    C = covariance
    trace = np.einsum("bii->b", C)[:, None, None]
    H = np.empty((len(C), 4, 4))
    H[:, 0, 0] = trace[:, 0, 0]
    H[:, 0, 1:] = C[:, [2, 0, 1], [1, 2, 0]] - C[:, [1, 2, 0], [2, 0, 1]]
    H[:, 1:, 0] = H[:, 0, 1:]
    H[:, 1:, 1:] = C + C.swapaxes(1, 2) - trace * np.eye(3)
    q, doubtful = _top_eigenvector(H)
    w, v = q[:, 0, None, None], q[:, 1:]
    skew = np.zeros_like(C)
    skew[:, [2, 0, 1], [1, 2, 0]] = v
    skew[:, [1, 2, 0], [2, 0, 1]] = -v
    rotation: Array = 2 * v[:, :, None] * v[:, None] + (2 * w * w - 1) * np.eye(3) + 2 * w * skew
    if doubtful.any():
        U, _, Vh = np.linalg.svd(C[doubtful])
        U[:, :, 2] *= np.sign(np.linalg.det(U) * np.linalg.det(Vh))[:, None]
        rotation[doubtful] = U @ Vh
    return rotation


def _top_eigenvector(H: Array) -> tuple[Array, Array]:
    """Unit eigenvectors (B, 4) of the largest eigenvalue of symmetric matrices (B, 4, 4) of trace 0.

    Also (B,) whether one is doubtful, since the next eigenvalue is too near. Newton's method on the
    characteristic polynomial, from above (no eigenvalue may exceed 1), then a column of the adjugate.
    """
    H2 = H @ H
    H3 = H2 @ H
    # x^4 + c2 x^2 + c1 x + c0; Newton's identities give it from the traces of the powers of H
    p2, p3, p4 = np.einsum("bii->b", H2), np.einsum("bii->b", H3), np.einsum("bij,bij->b", H2, H2)
    c2, c1, c0 = -p2 / 2, -p3 / 3, (p2 * p2 / 2 - p4) / 4
    x = np.ones(len(H))
    with np.errstate(divide="ignore", invalid="ignore"):
        for _ in range(50):
            step = (((x * x + c2) * x + c1) * x + c0) / ((4 * x * x + 2 * c2) * x + c1)
            x = x - step
            if np.abs(step).max(initial=0) < 1e-14:
                break
        adjugate = H3 + x[:, None, None] * H2 + (x * x + c2)[:, None, None] * H
        adjugate += ((x * x + c2) * x + c1)[:, None, None] * np.eye(4)  # of x - H; = slope * q @ q.T
        slope = (4 * x * x + 2 * c2) * x + c1  # product of the distances to the other eigenvalues
        q = adjugate[np.arange(len(H)), np.einsum("bii->bi", adjugate).argmax(1)]
        q = q / np.sqrt(np.einsum("bi,bi->b", q, q))[:, None]
    return q, ~((np.abs(step) < 1e-13) & (slope > 1e-6 * x**3))
