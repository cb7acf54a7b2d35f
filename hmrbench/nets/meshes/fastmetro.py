"""FastMETRO: joints and vertices as queries of an encoder-decoder transformer that looks at an image.

Paper: Cho et al., "Cross-Attention of Disentangled Modalities for 3D Human Mesh Recovery with Transformers",
ECCV 2022.
Origin: postech-ami/FastMETRO (MIT), revision c5ae206. Key names as there, with `backbone.` as `encoder.` and all
else under `head.`.

S, M and L differ in the depth of their transformers only. Vertices look at joints and at the vertices next to them,
joints at everything. Coarse to middle vertices are upsampled by a learned matrix, middle to full ones by a fixed one.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hmrbench.errors import unknown_name
from hmrbench.nets.meshes.backbones import BACKBONES, NEVER_READ, find_backbone
from hmrbench.nets.meshes.layout import TO_HEAD, OfficialLayout
from hmrbench.nets.meshes.mesh import COARSE, JOINTS, MIDDLE, LearnedUpsampling, MeshMatrices, SparseRows
from hmrbench.nets.record import Family, Net
from hmrbench.nets.transformers.encoder_decoder import EncoderDecoder
from hmrbench.nets.truncation import Network

INPUT_SIZE = (224, 224)
DEPTHS = {"s": 1, "m": 2, "l": 3}
WIDTHS = (512, 128)
NEWTON = 12  # rounds, by which a matrix whose singular values are 1 to 10,000 has converged
_REGRESSOR = r"smpl_parameter_regressor\."


class FastMETROHead(nn.Module):
    """Feature map to vertices, joints and camera.

    Args:
        in_channels: channels of the feature map.
        depth: layers of each encoder and decoder.
        mesh: fixed matrices.
        parameters: also regress SMPL's parameters from the middle mesh.

    Shapes:
        (B, in_channels, h, w) to a dict of `vertices` (B, 6890, 3), `cam` (B, 3): scale, x, y of a weak-perspective
        camera in the crop, `joints14` (B, 14, 3), `v431` and `v1723`, in metres around an origin near the pelvis;
        with `parameters` also `global_orient` (B, 1, 3, 3), `body_pose` (B, 23, 3, 3) and `betas` (B, 10).
    """

    seen: Tensor

    def __init__(self, in_channels: int, depth: int, mesh: MeshMatrices, parameters: bool = False) -> None:
        super().__init__()
        wide, narrow = WIDTHS
        self.conv_1x1 = nn.Conv2d(in_channels, wide, 1)
        self.transformer_1 = EncoderDecoder(wide, depth)
        self.transformer_2 = EncoderDecoder(narrow, depth)
        self.dim_reduce_enc_cam = nn.Linear(wide, narrow)
        self.dim_reduce_enc_img = nn.Linear(wide, narrow)
        self.dim_reduce_dec = nn.Linear(wide, narrow)
        self.cam_token_embed = nn.Embedding(1, wide)
        self.joint_token_embed = nn.Embedding(JOINTS, wide)
        self.vertex_token_embed = nn.Embedding(COARSE, wide)
        self.xyz_regressor = nn.Linear(narrow, 3)
        self.cam_predictor = nn.Linear(narrow, 3)
        self.coarse2intermediate_upsample = LearnedUpsampling(COARSE, MIDDLE)
        self.up0 = SparseRows(mesh.up0)
        seen = torch.tensor(~mesh.apart())
        self.register_buffer("seen", F.pad(seen, (JOINTS, 0, JOINTS, 0), value=True), persistent=False)
        self.smpl_parameter_regressor = ParameterRegressor() if parameters else None

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        grid = (int(features.shape[2]), int(features.shape[3]))
        batch = features.shape[0]
        image = self.conv_1x1(features).flatten(2).mT  # (B, h * w, 512)
        camera = repeated(self.cam_token_embed.weight, batch)
        queries = repeated(torch.cat((self.joint_token_embed.weight, self.vertex_token_embed.weight)), batch)
        camera, image, queries = self.transformer_1(image, camera, queries, grid, self.seen)
        camera, image = self.dim_reduce_enc_cam(camera), self.dim_reduce_enc_img(image)
        camera, _, queries = self.transformer_2(image, camera, self.dim_reduce_dec(queries), grid, self.seen)
        points = self.xyz_regressor(queries)  # (B, 14 + 431, 3)
        coarse = points[:, JOINTS:]
        middle = self.coarse2intermediate_upsample(coarse)
        out = {
            "vertices": self.up0(middle),
            "cam": self.cam_predictor(camera)[:, 0],
            "joints14": points[:, :JOINTS],
            "v431": coarse,
            "v1723": middle,
        }
        if self.smpl_parameter_regressor is not None:
            out.update(self.smpl_parameter_regressor(middle.detach()))
        return out


def repeated(tokens: Tensor, batch: int) -> Tensor:
    """(N, C) tokens for each image of a batch: (B, N, C)."""
    return tokens[None].expand(batch, -1, -1)


class ParameterRegressor(nn.Module):
    """Middle mesh (B, 1723, 3) to SMPL's parameters: `global_orient`, `body_pose` and `betas`.

    From Kolotouros et al., "Convolutional Mesh Regression" (CVPR 2019). The nearest orthogonal matrix is multiplied
    by its determinant: where that is -1 the whole matrix changes sign.
    """

    standard_operators = False

    def __init__(self, width: int = 1024) -> None:
        super().__init__()
        first = FullyConnected(nn.Linear(3 * MIDDLE, width), nn.BatchNorm1d(width))
        last = nn.Linear(width, 24 * 9 + 10)
        self.regressor = nn.Sequential(first, Residual(width), Residual(width), last)

    def forward(self, vertices: Tensor) -> dict[str, Tensor]:
        raw = self.regressor(vertices.flatten(1))  # (B, 24 * 9 + 10)
        matrices = raw[:, : 24 * 9].reshape(-1, 24, 3, 3)
        if self.standard_operators:
            rotations = nearest_rotation(matrices)
        else:
            u, _, vh = torch.linalg.svd(matrices)
            rotations = u @ vh
            rotations = rotations * torch.linalg.det(rotations)[..., None, None]
        return {"global_orient": rotations[:, :1], "body_pose": rotations[:, 1:], "betas": raw[:, 24 * 9 :]}


def nearest_rotation(matrices: Tensor) -> Tensor:
    """The nearest orthogonal matrix times its determinant (..., 3, 3), without a singular value decomposition, which
    converters do not know: Newton's iteration for the polar factor, scaled by the determinant (Higham 1986)."""
    cross, x = torch.linalg.cross, matrices
    for _ in range(NEWTON):
        a, b, c = x.unbind(-2)
        cofactors = torch.stack((cross(b, c), cross(c, a), cross(a, b)), dim=-2)
        det = (x * cofactors).sum((-2, -1), keepdim=True) / 3
        scale = det.abs().clamp_min(1e-30) ** (-1 / 3)
        x = (scale * x + cofactors / (scale * det)) / 2
    a, b, c = x.unbind(-2)
    nearest: Tensor = x * (a * cross(b, c)).sum(-1).sign()[..., None, None]
    return nearest


class FullyConnected(nn.Module):
    """Linear, norm, and so on, then a ReLU."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.fc_block = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.fc_block(x))


class Residual(FullyConnected):
    """The same around two layers, with a way past them."""

    def __init__(self, width: int) -> None:
        layers = (nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU())
        super().__init__(*layers, nn.Linear(width, width), nn.BatchNorm1d(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.fc_block(x))


def fastmetro(
    size: str,
    backbone: str,
    mesh: MeshMatrices,
    parameters: bool = False,
    input_size: tuple[int, int] = INPUT_SIZE,
) -> Network:
    """FastMETRO-`size` (s, m or l) on ResNet-50 (`r50`) or HRNet-W64 (`h64`); any input size in multiples of 32."""
    if size not in DEPTHS:
        raise unknown_name("size of FastMETRO", size, DEPTHS)
    encoder = find_backbone(backbone)
    head = FastMETROHead(encoder.channels, DEPTHS[size], mesh, parameters)
    return Network(encoder.build(), nn.Identity(), head)


def official_layout(backbone: str, parameters: bool = False) -> OfficialLayout:
    """Keys of `FastMETRO-*_state_dict.bin`; those of the parameter regressor are left out where it is not built."""
    return OfficialLayout(
        renames=find_backbone(backbone).renames + TO_HEAD,
        unused=None if parameters else "^" + _REGRESSOR,
        never_read=NEVER_READ,
        name="fastmetro",
    )


def _record(size: str, backbone: str, parameters: bool = False) -> Net:
    return Net(
        name=f"fastmetro-{size}-{backbone}" + ("-smpl" if parameters else ""),
        build=partial(fastmetro, size, backbone, parameters=parameters),
        family=FAMILY,
        input_sizes=(INPUT_SIZE,),
        widths=BACKBONES[backbone].widths,
        output="mesh",
        layout=official_layout(backbone, parameters),
        mesh="matrices",
    )


FAMILY = Family("fastmetro", "FastMETRO")
NETWORKS = (
    *(_record(size, backbone) for size in DEPTHS for backbone in ("r50", "h64")),
    _record("l", "h64", parameters=True),
)
