"""TORE: fewer tokens for FastMETRO and METRO. Joints come first, vertices from joints, and image tokens are pooled.

Paper: Dou et al., "TORE: Token Reduction for Efficient Human Mesh Recovery with Transformer", ICCV 2023.
Origin: Frank-ZY-Dou/TORE (MIT), revision 17f1eb6. Key names as there, with `backbone.` as `encoder.` and all else
under `head.`.

"Pruning" of image tokens is no selection: each of the 39 tokens left (keep ratio 0.8) is a soft average of the 49, and
their LayerNorm is over tokens and channels at once. Both heads end in a transformer that takes the joints' features as
its image and whose queries are the 431 vertices, which look at their neighbours only.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hmrbench.nets.meshes.backbones import BACKBONES, NEVER_READ, find_backbone
from hmrbench.nets.meshes.fastmetro import WIDTHS, repeated
from hmrbench.nets.meshes.layout import TO_HEAD, OfficialLayout
from hmrbench.nets.meshes.mesh import (
    COARSE,
    FULL,
    JOINTS,
    MIDDLE,
    LearnedUpsampling,
    MeshMatrices,
    SparseRows,
    as_tensor,
)
from hmrbench.nets.meshes.metro import CELLS, INPUT_SIZE, cells, metro_blocks
from hmrbench.nets.record import Family, Net
from hmrbench.nets.transformers import bert
from hmrbench.nets.transformers.encoder_decoder import EncoderDecoder
from hmrbench.nets.truncation import Network

KEPT = int(CELLS * 0.8)
DEPTH = 3
FASTMETRO_BACKBONES = ("r50", "h64", "effb0")


class ToreFastMETROHead(nn.Module):
    """Feature map to vertices, joints and camera.

    Args:
        in_channels: channels of the feature map.
        mesh: fixed matrices.

    Shapes:
        (B, in_channels, h, w) to a dict of `vertices` (B, 6890, 3), `cam` (B, 3): scale, x, y of a weak-perspective
        camera in the crop, `joints14` (B, 14, 3), `v431` and `v1723`, in metres around an origin near the pelvis.
    """

    seen: Tensor

    def __init__(self, in_channels: int, mesh: MeshMatrices) -> None:
        super().__init__()
        wide, narrow = WIDTHS
        self.conv_1x1 = nn.Conv2d(in_channels, wide, 1)
        self.token_selector_conv2d = nn.Conv2d(wide, narrow, 3, padding=1)
        self.token_selector_fc = nn.Linear(narrow, KEPT)
        self.layer_norm = nn.LayerNorm((KEPT, wide))
        self.transformer_1 = EncoderDecoder(wide, DEPTH)
        self.transformer_2 = EncoderDecoder(narrow, DEPTH)
        self.transformer_3 = EncoderDecoder(narrow, DEPTH)
        self.dim_reduce_enc = nn.Linear(wide, narrow)
        self.dim_reduce_dec = nn.Linear(wide, narrow)
        self.cam_token_embed = nn.Embedding(1, wide)
        self.joint_token_embed = nn.Embedding(JOINTS, wide)
        self.vertex_token_embed = nn.Embedding(COARSE, narrow)
        self.xyz_regressor_j = nn.Linear(narrow, 3)
        self.xyz_regressor_v = nn.Linear(narrow, 3)
        self.cam_predictor = nn.Linear(narrow, 3)
        self.up1, self.up0 = SparseRows(mesh.up1), SparseRows(mesh.up0)
        self.register_buffer("seen", torch.tensor(~mesh.apart()), persistent=False)

    def shares(self, x: Tensor) -> Tensor:
        """What each token left takes from each position: (B, 512, h, w) to (B, 39, h * w), rows that sum to 1."""
        x = F.gelu(self.token_selector_conv2d(x)).flatten(2).mT
        out: Tensor = self.token_selector_fc(x).softmax(1).mT
        return out

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        batch = features.shape[0]
        x = self.conv_1x1(features)
        image = self.layer_norm(self.shares(x) @ x.flatten(2).mT)  # (B, 39, 512)
        camera = repeated(self.cam_token_embed.weight, batch)
        joints = repeated(self.joint_token_embed.weight, batch)
        camera, image, joints = self.transformer_1(image, camera, joints, (KEPT, 1))
        camera, image = self.dim_reduce_enc(camera), self.dim_reduce_enc(image)
        camera, _, joints = self.transformer_2(image, camera, self.dim_reduce_dec(joints), (KEPT, 1))
        vertices = repeated(self.vertex_token_embed.weight, batch)
        _, _, vertices = self.transformer_3(joints, camera, vertices, (JOINTS, 1), self.seen)
        coarse = self.xyz_regressor_v(vertices)
        middle = self.up1(coarse)
        return {
            "vertices": self.up0(middle),
            "cam": self.cam_predictor(camera)[:, 0],
            "joints14": self.xyz_regressor_j(joints),
            "v431": coarse,
            "v1723": middle,
        }


class ToreMetroHead(nn.Module):
    """Feature map (B, 2048, 7, 7) to the same dict as `ToreFastMETROHead`.

    METRO's encoders see the 14 joints alone; the last hidden tokens of the third go on to the vertices.
    """

    template: Tensor
    seen: Tensor

    def __init__(self, mesh: MeshMatrices) -> None:
        super().__init__()
        width = WIDTHS[1]
        self.conv_learn_tokens = nn.Conv1d(CELLS, JOINTS, 1)
        self.trans_encoder = metro_blocks()
        self.cam_token_embed = nn.Embedding(1, width)
        self.vertex_token_embed = nn.Embedding(COARSE, width)
        self.transformer_3 = EncoderDecoder(width, DEPTH)
        self.cam_predictor = nn.Linear(width, 3)
        self.xyz_regressor_v = nn.Linear(width, 3)
        self.upsampling = LearnedUpsampling(COARSE, MIDDLE)
        self.upsampling2 = LearnedUpsampling(MIDDLE, FULL)
        self.register_buffer("template", as_tensor(mesh.template_tokens()[:JOINTS]), persistent=False)
        self.register_buffer("seen", torch.tensor(~mesh.apart()), persistent=False)

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        image = self.conv_learn_tokens(cells(features))  # (B, 14, 2048)
        batch = image.shape[0]
        joints = torch.cat((self.template.expand(batch, -1, -1), image), dim=2)
        for block in self.trans_encoder:
            joints, hidden = block(joints)
        camera = repeated(self.cam_token_embed.weight, batch)
        vertices = repeated(self.vertex_token_embed.weight, batch)
        camera, _, vertices = self.transformer_3(hidden, camera, vertices, (JOINTS, 1), self.seen)
        coarse = self.xyz_regressor_v(vertices)
        middle = self.upsampling(coarse)
        return {
            "vertices": self.upsampling2(middle),
            "cam": self.cam_predictor(camera)[:, 0],
            "joints14": joints,
            "v431": coarse,
            "v1723": middle,
        }


def tore_fastmetro(backbone: str, mesh: MeshMatrices, input_size: tuple[int, int] = INPUT_SIZE) -> Network:
    """TORE on FastMETRO-L with ResNet-50 (`r50`), HRNet-W64 (`h64`) or EfficientNet-B0 (`effb0`); any input size in
    multiples of 32."""
    encoder = find_backbone(backbone, FASTMETRO_BACKBONES)
    return Network(encoder.build(), nn.Identity(), ToreFastMETROHead(encoder.channels, mesh))


def tore_metro(backbone: str, mesh: MeshMatrices, input_size: tuple[int, int] = INPUT_SIZE) -> Network:
    """TORE on METRO with ResNet-50 (`r50`) or HRNet-W64 (`h64`), for images of 224x224."""
    return Network(find_backbone(backbone).build(), nn.Identity(), ToreMetroHead(mesh))


def official_layout(backbone: str) -> OfficialLayout:
    """Keys of TORE's checkpoints, on FastMETRO and on METRO."""
    renames = find_backbone(backbone, FASTMETRO_BACKBONES).renames
    return OfficialLayout(renames + TO_HEAD, never_read=f"{NEVER_READ}|{bert.NEVER_READ}", name="tore")


FAMILY = Family("tore", "TORE")
_KINDS: tuple[tuple[str, Callable[..., Network], Literal["matrices", "template"], Collection[str]], ...] = (
    ("tore-fastmetro-l", tore_fastmetro, "matrices", FASTMETRO_BACKBONES),
    ("tore-metro", tore_metro, "template", ("r50", "h64")),
)
NETWORKS = tuple(
    Net(
        name=f"{name}-{backbone}",
        build=partial(build, backbone),
        family=FAMILY,
        input_sizes=(INPUT_SIZE,),
        widths=BACKBONES[backbone].widths,
        output="mesh",
        layout=official_layout(backbone),
        mesh=mesh,
    )
    for name, build, mesh, backbones in _KINDS
    for backbone in backbones
)
