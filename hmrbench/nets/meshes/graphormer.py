"""Mesh Graphormer: METRO with graph convolutions among the vertices and the image's grid among the tokens.

Paper: Lin, Wang and Liu, "Mesh Graphormer", ICCV 2021.
Origin: microsoft/MeshGraphormer (MIT), revision 27f7cdb. Key names as there, with `backbone.` as `encoder.`, all else
under `head.`, and a graph block's `W` and `b` as `weight` and `bias`.

Every joint and vertex gets the same global image feature; the 49 positions of the map before the last layer join as
tokens of their own and are cut off at the end. The MLPs are twice as wide as their encoder.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from hmrbench.errors import unknown_name
from hmrbench.nets.meshes.backbones import CLASSES, H64_WIDTHS, HRNET_RENAMES, NEVER_READ, GlobalAndGrid
from hmrbench.nets.meshes.layout import TO_HEAD, OfficialLayout
from hmrbench.nets.meshes.mesh import COARSE, JOINTS, MeshMatrices, SparseRows
from hmrbench.nets.meshes.metro import FEATURES, INPUT_SIZE, OUTS, TemplateHead, cells
from hmrbench.nets.record import Family, Net
from hmrbench.nets.transformers import bert
from hmrbench.nets.transformers.bert import BertBlock
from hmrbench.nets.truncation import Network

GRID_CHANNELS = 1024
WIDTHS = (1024, 256, 64)


class GraphormerHead(TemplateHead):
    """Global feature (B, 2048) and grid (B, 1024, 7, 7) to the same dict as METRO's head."""

    def __init__(self, mesh: MeshMatrices) -> None:
        super().__init__(mesh)
        self.grid_feat_dim = nn.Linear(GRID_CHANNELS, 3 + FEATURES)
        graphs = (None, None, SparseRows(mesh.adjacency))
        sizes = zip((3 + FEATURES, *OUTS[:2]), WIDTHS, OUTS, graphs, strict=True)
        self.trans_encoder = nn.ModuleList(BertBlock(i, w, o, 2 * w, graph) for i, w, o, graph in sizes)

    def forward(self, features: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        whole, grid = features
        x = self.tokens(whole[:, None].expand(-1, JOINTS + COARSE, -1))
        x = torch.cat((x, self.grid_feat_dim(cells(grid))), dim=1)  # (B, 445 + 49, 2051)
        for block in self.trans_encoder:
            x, _ = block(x)
        return self.meshes(x[:, : JOINTS + COARSE])


def graphormer(backbone: str, mesh: MeshMatrices, input_size: tuple[int, int] = INPUT_SIZE) -> Network:
    """Mesh Graphormer on HRNet-W64 (`h64`), for images of 224x224."""
    if backbone != "h64":
        raise unknown_name("backbone", backbone, ("h64",))
    return Network(GlobalAndGrid(64, "features", CLASSES), nn.Identity(), GraphormerHead(mesh))


def official_layout() -> OfficialLayout:
    """Keys of `graphormer_*_state_dict.bin`."""
    graph = ((r"\.(lin1|lin2|skip_conv)\.W$", r".\1.weight"), (r"\.(lin1|lin2|skip_conv)\.b$", r".\1.bias"))
    return OfficialLayout(graph + HRNET_RENAMES + TO_HEAD, never_read=f"{NEVER_READ}|{bert.NEVER_READ}")


FAMILY = Family("graphormer", "Mesh Graphormer")
NETWORKS = (
    Net(
        name="graphormer-h64",
        build=partial(graphormer, "h64"),
        family=FAMILY,
        input_sizes=(INPUT_SIZE,),
        widths=H64_WIDTHS,
        output="mesh",
        layout=official_layout(),
        mesh="template",
    ),
)
