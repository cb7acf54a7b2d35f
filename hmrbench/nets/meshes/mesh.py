"""The mesh that the METRO family regresses: its three resolutions, and the fixed matrices between them.

Papers: Lin et al., "End-to-End Human Pose and Mesh Reconstruction with Transformers" (METRO), CVPR 2021; the
matrices are those of Kolotouros et al., "Convolutional Mesh Regression", CVPR 2019, after Ranjan et al., ECCV
2018. They are derived from SMPL and come with no checkpoint: whoever builds a network hands them over.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor, nn

Array = NDArray[Any]

COARSE, MIDDLE, FULL = 431, 1723, 6890  # vertices of the three meshes
JOINTS = 14
# The 14 joints among the 17 of METRO's Human3.6M regressor (`J_regressor_h36m_correct.npy`), from right ankle to
# head. In SPIN's file of nearly the same name the legs are swapped, and so are the first six of these.
H36M_TO_14 = (3, 2, 1, 4, 5, 6, 16, 15, 14, 11, 12, 13, 8, 10)
SHAPES = {
    "adjacency": (COARSE, COARSE),
    "up0": (FULL, MIDDLE),
    "up1": (MIDDLE, COARSE),
    "down0": (MIDDLE, FULL),
    "down1": (COARSE, MIDDLE),
    "joints17": (17, FULL),
}


@dataclass(frozen=True)
class MeshMatrices:
    """Fixed sparse matrices (float32 values) of the shapes in `SHAPES`, and the mesh at rest.

    `adjacency` has a self loop on every vertex and rows that sum to 1; `up1` and `up0` take coarse to middle to full,
    `down0` and `down1` the way back; `joints17` gives the joints of Human3.6M. `template` (6890, 3) is the mesh at
    rest in metres, turned to the camera's orientation (y down).
    """

    adjacency: csr_array
    up0: csr_array
    up1: csr_array
    down0: csr_array
    down1: csr_array
    joints17: csr_array
    template: Array

    def template_tokens(self) -> Array:
        """Joints, then coarse vertices of the mesh at rest, its pelvis at the origin: (14 + 431, 3) float64."""
        vertices = self.template.astype(np.float64)
        joints = self.joints17.astype(np.float64) @ vertices
        coarse = self.down1.astype(np.float64) @ (self.down0.astype(np.float64) @ vertices)
        tokens: Array = np.concatenate((joints[list(H36M_TO_14)], coarse)) - joints[:1]
        return tokens

    def apart(self) -> Array:
        """(431, 431) bool: which pairs of coarse vertices are no neighbours."""
        pattern: Array = self.adjacency.toarray() == 0
        return pattern


class SparseRows(nn.Module):
    """A fixed sparse matrix, applied to the vertices of a batch: (B, columns, C) to (B, rows, C).

    Every row is kept as its K columns and weights, K being the most that a row has: a lookup and a sum, which any
    device, precision and exporter knows.
    """

    columns: Tensor
    weights: Tensor

    def __init__(self, matrix: csr_array) -> None:
        super().__init__()
        matrix = matrix.tocsr()
        counts = np.diff(matrix.indptr)
        row = np.repeat(np.arange(len(counts)), counts)
        place = np.arange(matrix.nnz) - matrix.indptr[row]
        columns = np.zeros((len(counts), max(int(counts.max()), 1)), np.int64)
        weights = np.zeros(columns.shape)
        columns[row, place], weights[row, place] = matrix.indices, matrix.data
        self.register_buffer("columns", torch.tensor(columns), persistent=False)
        self.register_buffer("weights", as_tensor(weights), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return (x[:, self.columns] * self.weights[..., None]).sum(2)


class LearnedUpsampling(nn.Linear):
    """A full matrix over vertices, and a bias for each: (B, in, C) to (B, out, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.mT).mT


def as_tensor(array: Array) -> Tensor:
    """Fixed numbers of a network, in the precision in which it is being built."""
    return torch.tensor(array, dtype=torch.get_default_dtype())
