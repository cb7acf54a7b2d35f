"""Every known checkpoint layout -> our keys, checked key by key; nothing in a file is executed.

Our keys are those of `nets.truncation.Network`: `encoder.*`, `neck.*`, `head.*`. Encoders keep the key names of their
official repositories (Swin: timm's), so most layouts differ by a prefix. Facts were read in ViTPose
(mmpose 0.x detectors), mmpose 1.x configs (mmpretrain's VisionTransformer), microsoft/Swin-Transformer,
timm, GroupMixFormer, VMamba and 4D-Humans; the shapes are those of the files themselves.
"""

from hmrbench.checkpoints.files import read_state, save_state
from hmrbench.checkpoints.layouts import decoder_sizes, find_layout
from hmrbench.checkpoints.loading import LoadReport, as_own, cannot_be_meant, load_encoder, load_network

__all__ = [
    "LoadReport",
    "as_own",
    "cannot_be_meant",
    "decoder_sizes",
    "find_layout",
    "load_encoder",
    "load_network",
    "read_state",
    "save_state",
]
