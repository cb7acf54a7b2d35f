"""The adversarial prior of HMR and HMR2.0: a network learns to tell predicted bodies from real ones, and the mesh
network to be taken for real.

Paper: Kanazawa et al., "End-to-end Recovery of Human Shape and Pose", CVPR 2018, after Goodfellow et al. 2014 and
Mao et al. 2017 (least squares). Origin: shubham-goel/4D-Humans (MIT), `hmr2/models/discriminator.py` and the training
step of `hmr2/models/hmr2.py`; real bodies are its motion capture data, `cmu_mocap.npz`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from hmrbench.errors import DataError
from hmrbench.files import file_sha256, read_arrays
from hmrbench.geometry import axis_angle_to_matrix
from hmrbench.records import Array
from hmrbench.training.recipes import Recipe

JOINTS, BETAS = 23, 10
_BODIES = 2  # keeps this stream of random numbers apart from those of the feed


@dataclass(frozen=True)
class RealBodies:
    """Bodies without pictures: `pose` (N, 23, 3) axis-angle in radians, without the root, and `betas` (N, 10)."""

    pose: Array
    betas: Array
    sha256: str

    def draw(self, rng: np.random.Generator, count: int) -> tuple[Array, Array]:
        """Some of them, (count, 23, 3) and (count, 10)."""
        chosen = rng.integers(len(self.pose), size=count)
        return self.pose[chosen], self.betas[chosen]


def read_bodies(path: Path) -> RealBodies:
    """Real bodies from a file as 4D-Humans' `cmu_mocap.npz`: `body_pose` (N, 72), root first, and `betas` (N, 10).

    Raises:
        DataError: missing, unreadable, or of other shapes.
    """
    content = read_arrays(path, "file of real bodies")
    lacking = [name for name in ("body_pose", "betas") if name not in content]
    if lacking:
        raise DataError(f"{path}: lacks {', '.join(lacking)}")
    count = len(content["body_pose"])
    for name, shape in (("body_pose", (count, 3 * (1 + JOINTS))), ("betas", (count, BETAS))):
        array = content[name]
        if array.shape != shape or not count or array.dtype.kind not in "fiu" or not np.isfinite(array).all():
            raise DataError(f"{path}: '{name}' is {array.dtype} {array.shape}, not finite numbers {shape}")
    pose, betas = (content[name].astype(np.float32) for name in ("body_pose", "betas"))
    return RealBodies(pose[:, 3:].reshape(-1, JOINTS, 3), betas, file_sha256(path))


class Discriminator(nn.Module):
    """25 verdicts on a body: of each joint alone, of the shape, of the whole pose; 1 is real, 0 is not.

    Names of parameters are those of HMR2.0's checkpoints (`discriminator.*`).
    """

    def __init__(self) -> None:
        super().__init__()
        self.D_conv1 = nn.Conv2d(9, 32, 1)
        self.D_conv2 = nn.Conv2d(32, 32, 1)
        self.pose_out = nn.ModuleList(nn.Linear(32, 1) for _ in range(JOINTS))
        self.betas_fc1 = nn.Linear(BETAS, 10)
        self.betas_fc2 = nn.Linear(10, 5)
        self.betas_out = nn.Linear(5, 1)
        self.D_alljoints_fc1 = nn.Linear(32 * JOINTS, 1024)
        self.D_alljoints_fc2 = nn.Linear(1024, 1024)
        self.D_alljoints_out = nn.Linear(1024, 1)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)
            else:
                nn.init.zeros_(parameter)

    def forward(self, body_pose: Tensor, betas: Tensor) -> Tensor:
        """Rotation matrices (B, 23, 3, 3) and betas (B, 10) to verdicts (B, 25)."""
        x = body_pose.reshape(-1, JOINTS, 9).mT.unsqueeze(3)  # (B, 9, 23, 1)
        x = self.D_conv2(self.D_conv1(x).relu()).relu()  # (B, 32, 23, 1)
        joints = [judge(x[:, :, i, 0]) for i, judge in enumerate(self.pose_out)]
        shape = self.betas_out(self.betas_fc2(self.betas_fc1(betas).relu()).relu())
        whole = self.D_alljoints_out(self.D_alljoints_fc2(self.D_alljoints_fc1(x.flatten(1)).relu()).relu())
        return torch.cat([*joints, shape, whole], dim=1)


class Prior:
    """The discriminator under training, its real bodies and its weight in the loss."""

    def __init__(self, bodies: RealBodies, recipe: Recipe, fabric: Any, seed: int) -> None:
        self.bodies, self.fabric, self.seed = bodies, fabric, seed
        self.weight = recipe.loss.adversarial
        torch.manual_seed(seed)
        self.net = Discriminator().to(fabric.device)
        settings = recipe.optimizer
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)

    def penalty(self, output: Mapping[str, Tensor]) -> Tensor:
        """How far predicted bodies are from being taken for real: a sum over verdicts, a mean over people.

        Its gradient reaches the mesh network alone.
        """
        fixed = {name: p.detach() for name, p in self.net.named_parameters()}
        verdicts = functional_call(self.net, fixed, (output["body_pose"].float(), output["betas"].float()))
        penalty: Tensor = (verdicts - 1).square().sum() / len(verdicts)
        return penalty

    def learn(self, output: Mapping[str, Tensor], step: int) -> Tensor:
        """One step of the discriminator on the predicted and as many real bodies; returns its loss."""
        pose, betas = output["body_pose"].detach().float(), output["betas"].detach().float()
        rank, size, count = self.fabric.global_rank, self.fabric.world_size, len(pose)
        drawn = self.bodies.draw(np.random.default_rng((self.seed, _BODIES, step)), size * count)  # for all processes
        own = slice(rank * count, (rank + 1) * count)
        real_pose, real_betas = (torch.from_numpy(array[own]).to(pose.device) for array in drawn)
        verdicts = self.net(torch.cat([pose, axis_angle_to_matrix(real_pose)]), torch.cat([betas, real_betas]))
        predicted, real = verdicts.chunk(2)
        loss: Tensor = (predicted.square().sum() + (real - 1).square().sum()) / count
        self.optimizer.zero_grad()
        torch.autograd.backward(self.weight * loss)
        for parameter in self.net.parameters():
            parameter.grad = self.fabric.all_reduce(parameter.grad, reduce_op="mean")
        self.optimizer.step()
        return loss.detach()

    def state(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {"net": self.net.state_dict(), "optimizer": self.optimizer.state_dict()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Put back what `state` gave."""
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
