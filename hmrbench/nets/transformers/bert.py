"""The BERT encoders of METRO and Mesh Graphormer: tokens in, fewer channels out.

Papers: Lin et al., "End-to-End Human Pose and Mesh Reconstruction with Transformers", CVPR 2021; Lin et al., "Mesh
Graphormer", ICCV 2021, whose graph block is that of Kolotouros et al., "Convolutional Mesh Regression", CVPR 2019.
Origin: microsoft/MeshTransformer, microsoft/MeshGraphormer (MIT), on the BERT layers of pytorch-transformers 1.0.0
(Apache-2.0). Key names as there, but a graph block's `W` and `b` are `weight` and `bias`.

Official checkpoints hold tables of words and token types, a second table of positions and a pooler. No forward reads
them; they are kept because the published numbers of parameters count them.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hmrbench.nets.meshes.mesh import COARSE, JOINTS, SparseRows

EPS = 1e-12
WORDS, POSITIONS, TYPES = 30522, 512, 2
NEVER_READ = r"\.bert\.(embeddings|pooler)\.|\.graph_conv\.skip_conv\."  # ours, in official checkpoints and counts


class GraphBlock(nn.Module):
    """Residual graph convolution over the coarse vertices (B, 431, width)."""

    def __init__(self, width: int, adjacency: SparseRows) -> None:
        super().__init__()
        half = width // 2
        self.pre_norm = nn.LayerNorm(width, eps=EPS)
        self.lin1, self.lin2 = nn.Linear(width, half), nn.Linear(half, width)
        self.norm1, self.norm2 = nn.LayerNorm(half, eps=EPS), nn.LayerNorm(half, eps=EPS)
        self.conv = GraphConvolution(half, adjacency)
        self.skip_conv = nn.Linear(width, width)  # for blocks that change the width, which this one does not

    def forward(self, x: Tensor) -> Tensor:
        y = self.lin1(F.relu(self.pre_norm(x)))
        y = self.conv(F.relu(self.norm1(y)))
        y = self.lin2(F.relu(self.norm2(y)))
        out: Tensor = x + y
        return out


class GraphConvolution(nn.Module):
    """A linear map of each vertex, then the mean over itself and its neighbours."""

    def __init__(self, width: int, adjacency: SparseRows) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, width))  # in, out
        self.bias = nn.Parameter(torch.zeros(width))
        self.adjacency = adjacency
        nn.init.xavier_uniform_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.adjacency(x @ self.weight) + self.bias
        return y


class SelfAttention(nn.Module):
    """Multi-head self-attention of tokens (B, N, width), before its output layer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = (
            layer(x).reshape(b, n, self.heads, -1).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c)


class DenseAndNorm(nn.Module):
    """A linear layer, what it is added to, and their norm."""

    def __init__(self, in_width: int, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(in_width, width)
        self.LayerNorm = nn.LayerNorm(width, eps=EPS)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        y: Tensor = self.LayerNorm(residual + self.dense(x))
        return y


class BertLayer(nn.Module):
    """Post-norm attention and MLP; between them, where there is one, a graph block on the vertices."""

    def __init__(self, width: int, heads: int, hidden: int, adjacency: SparseRows | None) -> None:
        super().__init__()
        self.attention = nn.ModuleDict({"self": SelfAttention(width, heads), "output": DenseAndNorm(width, width)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, hidden)})
        self.output = DenseAndNorm(hidden, width)
        self.graph_conv = None if adjacency is None else GraphBlock(width, adjacency)

    def forward(self, x: Tensor) -> Tensor:
        x = self.attention["output"](self.attention["self"](x), x)
        if self.graph_conv is not None:
            end = JOINTS + COARSE
            x = torch.cat((x[:, :JOINTS], self.graph_conv(x[:, JOINTS:end]), x[:, end:]), dim=1)
        out: Tensor = self.output(F.gelu(self.intermediate["dense"](x)), x)
        return out


class Layers(nn.Module):
    """Layers, one after the other."""

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        super().__init__()
        self.layer = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layer:
            x = layer(x)
        return x


class Bert(nn.Module):
    """Tokens (B, N, in_width), projected and with learned positions added, through the layers: (B, N, width)."""

    def __init__(
        self, in_width: int, width: int, hidden: int, depth: int, heads: int, adjacency: SparseRows | None
    ) -> None:
        super().__init__()
        tables = {"word": WORDS, "position": POSITIONS, "token_type": TYPES}
        self.embeddings = nn.ModuleDict({f"{name}_embeddings": nn.Embedding(n, width) for name, n in tables.items()})
        self.embeddings["LayerNorm"] = nn.LayerNorm(width, eps=EPS)
        self.pooler = nn.ModuleDict({"dense": nn.Linear(width, width)})
        self.position_embeddings = nn.Embedding(POSITIONS, width)
        self.img_embedding = nn.Linear(in_width, width)
        self.encoder = Layers(BertLayer(width, heads, hidden, adjacency) for _ in range(depth))

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.encoder(self.position_embeddings.weight[: tokens.shape[1]] + self.img_embedding(tokens))
        return out


class BertBlock(nn.Module):
    """One encoder, its output mapped to `out_width`, with a linear way past it.

    Args:
        in_width, width, out_width: channels of the tokens before, inside and after.
        hidden: width within the MLPs.
        adjacency: for a graph block in every layer; the tokens are then joints, vertices, others, in this order.
    """

    def __init__(
        self,
        in_width: int,
        width: int,
        out_width: int,
        hidden: int,
        adjacency: SparseRows | None = None,
        depth: int = 4,
        heads: int = 4,
    ) -> None:
        super().__init__()
        self.bert = Bert(in_width, width, hidden, depth, heads, adjacency)
        self.cls_head = nn.Linear(width, out_width)
        self.residual = nn.Linear(in_width, out_width)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N, in_width) to (B, N, out_width), and the hidden tokens (B, N, width) of which that is made."""
        hidden = self.bert(tokens)
        return self.cls_head(hidden) + self.residual(tokens), hidden
