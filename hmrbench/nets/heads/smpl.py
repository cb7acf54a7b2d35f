"""The head of HMR2.0: a transformer decoder that reads SMPL parameters off an encoder's feature map.

Paper: Goel et al. 2023, "Humans in 4D: Reconstructing and Tracking Humans with Transformers". Repository
read: shubham-goel/4D-Humans (MIT licence), `hmr2/models/heads/smpl_head.py` and
`components/pose_transformer.py`. The names of all parameters are those of its checkpoints.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hmrbench.errors import UsageError
from hmrbench.geometry import matrix_to_rot6d, rot6d_to_matrix
from hmrbench.nets.record import HeadKind

JOINTS = 24
BETAS = 10


class PreNorm(nn.Module):
    """A layer applied to its normalised input. What it attends to (`context`) is not normalised."""

    def __init__(self, dim: int, fn: nn.Module) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fn = fn

    def forward(self, x: Tensor, *context: Tensor) -> Tensor:
        out: Tensor = self.fn(self.norm(x), *context)
        return out


class SelfAttention(nn.Module):
    """Multi-head attention among the queries. With a single query its softmax is 1, yet q and k are computed:
    the benchmark measures the network as published."""

    def __init__(self, dim: int, heads: int, dim_head: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_qkv = nn.Linear(dim, 3 * heads * dim_head, bias=False)
        self.to_out = nn.Sequential(nn.Linear(heads * dim_head, dim))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.to_qkv(x).chunk(3, dim=-1)
        out: Tensor = self.to_out(_attend(q, k, v, self.heads))
        return out


class CrossAttention(nn.Module):
    """Multi-head attention of the queries (B, N, dim) to the tokens of the context (B, M, context_dim)."""

    def __init__(self, dim: int, context_dim: int, heads: int, dim_head: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_kv = nn.Linear(context_dim, 2 * heads * dim_head, bias=False)
        self.to_q = nn.Linear(dim, heads * dim_head, bias=False)
        self.to_out = nn.Sequential(nn.Linear(heads * dim_head, dim))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        k, v = self.to_kv(context).chunk(2, dim=-1)
        out: Tensor = self.to_out(_attend(self.to_q(x), k, v, self.heads))
        return out


def _attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Attention of q (B, N, C) to k, v (B, M, C). Written out: as fast as the fused kernel for one query, and
    visible to a counter of multiply-adds."""
    q, k, v = (x.reshape(*x.shape[:2], heads, -1).transpose(1, 2) for x in (q, k, v))  # (B, heads, ., C/heads)
    weights = torch.softmax(q @ k.mT * q.shape[-1] ** -0.5, dim=-1)  # (B, heads, N, M)
    attended: Tensor = (weights @ v).transpose(1, 2).flatten(2)  # (B, N, C)
    return attended


class FeedForward(nn.Module):
    """Two linear layers; the identities stand where the checkpoints' numbering counts dropouts."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Identity(), nn.Linear(hidden, dim))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x)
        return out


class DecoderLayers(nn.Module):
    """`depth` times self-attention, cross-attention, MLP, each pre-norm with a residual; no final norm."""

    def __init__(self, dim: int, depth: int, heads: int, dim_head: int, mlp_dim: int, context_dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleList(
                (
                    PreNorm(dim, SelfAttention(dim, heads, dim_head)),
                    PreNorm(dim, CrossAttention(dim, context_dim, heads, dim_head)),
                    PreNorm(dim, FeedForward(dim, mlp_dim)),
                )
            )
            for _ in range(depth)
        )

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        for layer in self.layers:
            assert isinstance(layer, nn.ModuleList)
            x = layer[0](x) + x
            x = layer[1](x, context) + x
            x = layer[2](x) + x
        return x


class Decoder(nn.Module):
    """The decoder and its only query: an embedded zero plus a learned position."""

    def __init__(self, dim: int, depth: int, heads: int, dim_head: int, mlp_dim: int, context_dim: int) -> None:
        super().__init__()
        self.pos_embedding = nn.Parameter(torch.randn(1, 1, dim))
        self.to_token_embedding = nn.Linear(1, dim)
        self.transformer = DecoderLayers(dim, depth, heads, dim_head, mlp_dim, context_dim)

    def forward(self, context: Tensor) -> Tensor:
        zero = context.new_zeros(context.shape[0], 1, 1)
        out: Tensor = self.transformer(self.to_token_embedding(zero) + self.pos_embedding, context)
        return out


class SMPLHead(nn.Module):
    """Feature map to SMPL parameters and a weak-perspective camera.

    Args:
        in_channels: channels of the feature map.
        depth, heads, dim_head, mlp_dim: sizes of the decoder; 6, 8, 64, 1024 in HMR2.0 and 3, 4, 16, 128 in
            HMR2.0-S.
        dim: width of the decoder.

    Shapes:
        (B, in_channels, h, w) to a dict of rotation matrices `global_orient` (B, 1, 3, 3) and `body_pose`
        (B, 23, 3, 3), of `betas` (B, 10) and `cam` (B, 3): scale and x, y translation in the crop.

    What the decoder reads out is added to the mean parameters in the buffers `init_body_pose` (24 rotations
    in 6D), `init_betas`, `init_cam`. Every checkpoint holds them. An untrained head starts, by assumption, at
    the rest pose, zero betas and the camera (0.9, 0, 0): the file of mean parameters comes with SMPL's
    licence.
    """

    init_body_pose: Tensor
    init_betas: Tensor
    init_cam: Tensor

    def __init__(self, in_channels: int, depth: int, heads: int, dim_head: int, mlp_dim: int, dim: int = 1024) -> None:
        super().__init__()
        self.register_buffer("init_body_pose", matrix_to_rot6d(torch.eye(3)).repeat(JOINTS)[None])
        self.register_buffer("init_betas", torch.zeros(1, BETAS))
        self.register_buffer("init_cam", torch.tensor([[0.9, 0.0, 0.0]]))
        self.transformer = Decoder(dim, depth, heads, dim_head, mlp_dim, context_dim=in_channels)
        self.decpose = nn.Linear(dim, 6 * JOINTS)
        self.decshape = nn.Linear(dim, BETAS)
        self.deccam = nn.Linear(dim, 3)

    def decode(self, features: Tensor) -> Tensor:
        """The decoded query, before the read-outs: (B, in_channels, h, w) to (B, 1, dim)."""
        token: Tensor = self.transformer(features.flatten(2).mT)  # context: (B, h * w, in_channels)
        return token

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        token = self.decode(features)[:, 0]  # (B, dim)
        pose = rot6d_to_matrix((self.decpose(token) + self.init_body_pose).reshape(-1, JOINTS, 6))
        return {
            "global_orient": pose[:, :1],  # (B, 1, 3, 3)
            "body_pose": pose[:, 1:],  # (B, 23, 3, 3)
            "betas": self.decshape(token) + self.init_betas,  # (B, 10)
            "cam": self.deccam(token) + self.init_cam,  # (B, 3)
        }


def _build(channels: int, input_size: tuple[int, int], **sizes: Any) -> SMPLHead:
    sizes = {name: sizes[name] for name in ("depth", "heads", "dim_head", "mlp_dim")}
    if None in sizes.values():
        raise UsageError(f"an smpl head needs {', '.join(sizes)}")
    return SMPLHead(channels, **sizes)


HEADS = (HeadKind("smpl", _build, side_crop=8),)
