"""Body models in SMPL's format: load, pose, regress joints."""

from hmrbench.body.arrays import BodyArrays, read_body, read_regressor
from hmrbench.body.install import (
    body_folder,
    check_same_body,
    find_body,
    find_gendered,
    free_body,
    install_body,
    load_body,
)
from hmrbench.body.model import Body, BodyOutput

__all__ = [
    "Body",
    "BodyArrays",
    "BodyOutput",
    "body_folder",
    "check_same_body",
    "find_body",
    "find_gendered",
    "free_body",
    "install_body",
    "load_body",
    "read_body",
    "read_regressor",
]
