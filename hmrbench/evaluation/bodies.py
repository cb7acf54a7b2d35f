"""The body that a mesh network is measured with or drawn with, and the codec that poses it."""

from __future__ import annotations

from typing import Any

from hmrbench.body import Body, WholeBody, find_body, find_whole_body, whole_body_path
from hmrbench.body.decode import check_body, decode_mesh, decode_whole, mesh_codec_of
from hmrbench.codecs import Codec, Crops
from hmrbench.errors import DataError, HmrbenchError, UsageError
from hmrbench.evaluation.protocols import body_of, rules_of
from hmrbench.records import Array
from hmrbench.schema import DatasetSpec, ModelCard

NO_BODY = "none"


def mesh_codec(card: ModelCard, body: Body | WholeBody | None, whole: WholeBody | None = None) -> Codec:
    """How the output of an HMR network is read; such networks are not averaged with the mirrored picture.

    Args:
        body: what its parameters pose; SMPL-X, or nothing, where what a network for SMPL-X says is taken as it is.
        whole: SMPL-X, where its joints are wanted beside those of `body`.

    Raises:
        UsageError: the card names no codec of meshes, or the network is not for SMPL-X.
        DataError: the body is not of the topology of the network's meshes.
    """
    codec = mesh_codec_of(card)
    if isinstance(body, Body):
        check_body(codec, body)
    elif codec.mesh != "smplx":
        raise UsageError(f"{card.name} predicts no SMPL-X: its meshes are of SMPL")

    def decode(output: Any, crops: Crops) -> tuple[Array, Array, Array | None, dict[str, Array]]:
        if isinstance(body, Body):
            return decode_mesh(output, crops.center_px, crops.size_px, body, codec, crops.image_wh_px, whole)
        return decode_whole(output, crops.center_px, crops.size_px, body)

    def unused(*_: Any) -> Any:
        raise HmrbenchError("a mesh network has no heatmaps to flip or to encode")

    return Codec(name=codec.name, geometry="classic", decode=decode, flip_back=unused, encode=unused)


def body_for(card: ModelCard, spec: DatasetSpec) -> Body | WholeBody | None:
    """What a mesh network's parameters pose; for loose pictures that may be SMPL-X, or nothing."""
    name = spec.options.get("body")
    if card.task != "hmr" or (name == NO_BODY and not spec.metrics):
        return None
    return find_whole_body() if name == "smplx" and not spec.metrics else body_of(spec)


def whole_body_for(card: ModelCard, spec: DatasetSpec) -> WholeBody | None:
    """SMPL-X, if a rule takes its joints, the network is for it and it is installed."""
    takes = card.task == "hmr" and mesh_codec_of(card).mesh == "smplx" and any(r.whole for r in rules_of(spec))
    return find_whole_body() if takes and whole_body_path().is_file() else None


def usual_body(card: ModelCard) -> str:
    """The name of what loose pictures are drawn with: SMPL, or for a network for SMPL-X what is installed."""
    if card.task != "hmr" or mesh_codec_of(card).mesh != "smplx":
        return "smpl"
    if whole_body_path().is_file():
        return "smplx"
    try:
        find_body()
    except DataError:
        return NO_BODY
    return "smpl"
