"""Body models in SMPL's format, and SMPL-X: load, pose, regress joints."""

from hmrbench.body.arrays import BodyArrays, read_body, read_regressor
from hmrbench.body.install import (
    body_folder,
    check_same_body,
    find_body,
    find_gendered,
    find_whole_body,
    free_body,
    install_body,
    load_body,
    whole_body_path,
)
from hmrbench.body.model import Body, BodyOutput
from hmrbench.body.whole_body import WholeBody, read_whole_body

__all__ = [
    "Body",
    "BodyArrays",
    "BodyOutput",
    "WholeBody",
    "body_folder",
    "check_same_body",
    "find_body",
    "find_gendered",
    "find_whole_body",
    "free_body",
    "install_body",
    "load_body",
    "read_body",
    "read_regressor",
    "read_whole_body",
    "whole_body_path",
]
