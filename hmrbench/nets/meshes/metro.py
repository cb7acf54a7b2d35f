"""METRO: joints and vertices of a mesh at rest become tokens, which three BERT encoders move into place.

Paper: Lin et al., "End-to-End Human Pose and Mesh Reconstruction with Transformers", CVPR 2021.
Origin: microsoft/MeshTransformer (MIT), revision cefc4af. Key names as there, with `backbone.` as `encoder.` and all
else under `head.`.

The MLPs are 3072 wide in all three encoders (the setting of the checkpoints). The 49 positions of the feature map
are mixed into one image token for every joint and vertex, so the input is 224x224. Both upsamplings are learned.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from hmrbench.errors import UsageError
from hmrbench.nets.meshes.backbones import BACKBONES, NEVER_READ, find_backbone
from hmrbench.nets.meshes.layout import TO_HEAD, OfficialLayout
from hmrbench.nets.meshes.mesh import COARSE, FULL, JOINTS, MIDDLE, LearnedUpsampling, MeshMatrices, as_tensor
from hmrbench.nets.record import Family, Net
from hmrbench.nets.transformers import bert
from hmrbench.nets.transformers.bert import BertBlock
from hmrbench.nets.truncation import Network

INPUT_SIZE = (224, 224)
CELLS = 49  # positions of the feature map, 7x7
FEATURES = 2048
WIDTHS = (1024, 256, 128)
OUTS = (512, 128, 3)
HIDDEN = 3072


def metro_blocks() -> nn.ModuleList:
    """Three encoders from tokens of x, y, z and image features to x, y, z."""
    ins = (3 + FEATURES, *OUTS[:2])
    return nn.ModuleList(BertBlock(i, w, o, HIDDEN) for i, w, o in zip(ins, WIDTHS, OUTS, strict=True))


def cells(features: Tensor) -> Tensor:
    """The 7x7 positions of a feature map as (B, 49, C).

    Raises:
        UsageError: it has another size.
    """
    if tuple(features.shape[2:]) != (7, 7):
        height, width = (32 * int(side) for side in features.shape[2:])
        raise UsageError(f"this network has 49 positions wired in: images of 224x224, not about {height}x{width}")
    return features.flatten(2).mT


class TemplateHead(nn.Module):
    """What METRO and Mesh Graphormer have in common: tokens of a mesh at rest, upsampling, the camera."""

    template: Tensor

    def __init__(self, mesh: MeshMatrices) -> None:
        super().__init__()
        self.upsampling = LearnedUpsampling(COARSE, MIDDLE)
        self.upsampling2 = LearnedUpsampling(MIDDLE, FULL)
        self.cam_param_fc = nn.Linear(3, 1)
        self.cam_param_fc2 = nn.Linear(COARSE, 250)
        self.cam_param_fc3 = nn.Linear(250, 3)
        self.register_buffer("template", as_tensor(mesh.template_tokens()), persistent=False)

    def tokens(self, image: Tensor) -> Tensor:
        """Position at rest and image features (B, 445, 2048) of each joint and vertex: (B, 445, 2051)."""
        return torch.cat((self.template.expand(image.shape[0], -1, -1), image), dim=2)

    def meshes(self, points: Tensor) -> dict[str, Tensor]:
        """What the network puts out, from joints and coarse vertices (B, 14 + 431, 3); the camera reads the latter."""
        joints, coarse = points[:, :JOINTS], points[:, JOINTS:]
        middle = self.upsampling(coarse)
        camera = self.cam_param_fc3(self.cam_param_fc2(self.cam_param_fc(coarse)[..., 0]))
        return {
            "vertices": self.upsampling2(middle),
            "cam": camera,
            "joints14": joints,
            "v431": coarse,
            "v1723": middle,
        }


class MetroHead(TemplateHead):
    """Feature map to vertices, joints and camera.

    Args:
        mesh: fixed matrices and the mesh at rest.

    Shapes:
        (B, 2048, 7, 7) to a dict of `vertices` (B, 6890, 3), `cam` (B, 3): scale, x, y of a weak-perspective camera
        in the crop, `joints14` (B, 14, 3), `v431` and `v1723`, in metres around an origin near the pelvis.
    """

    def __init__(self, mesh: MeshMatrices) -> None:
        super().__init__(mesh)
        self.conv_learn_tokens = nn.Conv1d(CELLS, JOINTS + COARSE, 1)
        self.trans_encoder = metro_blocks()

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        x = self.tokens(self.conv_learn_tokens(cells(features)))
        for block in self.trans_encoder:
            x, _ = block(x)
        return self.meshes(x)


def metro(backbone: str, mesh: MeshMatrices, input_size: tuple[int, int] = INPUT_SIZE) -> Network:
    """METRO on ResNet-50 (`r50`) or HRNet-W64 (`h64`), for images of 224x224."""
    return Network(find_backbone(backbone).build(), nn.Identity(), MetroHead(mesh))


def official_layout(backbone: str) -> OfficialLayout:
    """Keys of `metro_*_state_dict.bin`."""
    renames = find_backbone(backbone).renames
    return OfficialLayout(renames + TO_HEAD, never_read=f"{NEVER_READ}|{bert.NEVER_READ}", name="metro")


FAMILY = Family("metro", "METRO")
NETWORKS = tuple(
    Net(
        name=f"metro-{backbone}",
        build=partial(metro, backbone),
        family=FAMILY,
        input_sizes=(INPUT_SIZE,),
        widths=BACKBONES[backbone].widths,
        output="mesh",
        layout=official_layout(backbone),
        mesh="template",
    )
    for backbone in ("r50", "h64")
)
