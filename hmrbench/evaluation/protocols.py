"""Rules of other families as `--protocol` names them: which metrics a data set is then measured with, and by what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from scipy.sparse import csr_array

from hmrbench.body import Body, find_body, find_gendered
from hmrbench.body.arrays import SMPL_VERTICES
from hmrbench.body.mesh_assets import MeshAssets, find_mesh_assets, matrix_sha256
from hmrbench.body.public_assets import describe_regressor
from hmrbench.errors import DataError, UsageError, unknown_name
from hmrbench.metrics import metro_protocol, smpl24_protocol, smplerx_protocol, spin_protocol
from hmrbench.metrics.protocols import Rule, describe_rule, read_meshes
from hmrbench.records import Dataset, Prediction
from hmrbench.schema import DatasetSpec

OWN = "4d-humans"  # the rule by which all networks are compared
RULES: Mapping[str, Rule] = {
    module.RULE.name: module.RULE for module in (metro_protocol, spin_protocol, smplerx_protocol, smpl24_protocol)
}
PROTOCOLS = (OWN, *RULES, "all")


def with_protocol(spec: DatasetSpec, protocol: str | None) -> DatasetSpec:
    """A data set measured by another family's rule, or by all rules side by side; None is 4D-Humans'.

    Raises:
        UsageError: there is no such rule, or the data set is not for meshes.
    """
    if protocol in (None, OWN):
        return spec
    if protocol not in PROTOCOLS:
        raise unknown_name("protocol", str(protocol), PROTOCOLS)
    if spec.task != "hmr":
        raise UsageError(f"--protocol {protocol} is a rule for meshes, and {spec.name} is a data set of keypoints")
    metrics = (*spec.metrics, *RULES) if protocol == "all" else (str(protocol),)
    return spec.model_copy(
        update={"metrics": metrics, "options": {**spec.options, "meshes": True, "protocol": protocol}}
    )


def rule_of(metric: str) -> str | None:
    """The rule that a score is named after, such as `metro` of `MPJPE@metro`; None for 4D-Humans' own."""
    name = metric.rpartition("@")[2]
    return name if name in RULES else None


def rules_of(spec: DatasetSpec) -> list[Rule]:
    """The rules of other families among a data set's metrics."""
    return [RULES[name] for name in spec.metrics if name in RULES]


def assets_for(spec: DatasetSpec, needed: bool, path: Path | None) -> MeshAssets | None:
    """The mesh assets, if the network (`needed`) or one of the data set's rules is built on them.

    Raises:
        DataError: they are missing, which says how to get them, or broken; or the rules cannot be had with this body.
    """
    rules = rules_of(spec)
    if rules and len(body_of(spec).mesh.v_template) != SMPL_VERTICES:
        raise DataError(
            f"{spec.name} is measured with the body '{spec.options.get('body', 'smpl')}'; the rules "
            f"{', '.join(rule.name for rule in rules)} are of joints on SMPL's mesh of {SMPL_VERTICES:,} vertices"
        )
    return find_mesh_assets(path) if needed or any(rule.needs_regressor for rule in rules) else None


def body_of(spec: DatasetSpec) -> Body:
    """The body model that a data set is measured with: its option `body`, else SMPL.

    Raises:
        DataError: SMPL is not installed; says how to get it.
    """
    return find_body(spec.options.get("body", "smpl"))


def with_meshes(
    predictions: Sequence[Prediction], spec: DatasetSpec, people: Dataset, assets: MeshAssets | None
) -> Dataset:
    """The data set with what its rules read off all meshes, in one pass."""
    body = body_of(spec)
    truth: dict[str, Any] = {**people.truth, "body": body, **_regressors(body)}
    if assets is not None:
        truth |= {"joints17": assets.matrices.joints17, "regressor": describe_regressor(assets.matrices.joints17)}
    truth["gendered_truth"] = bool(spec.options.get("gendered_truth"))
    if truth["gendered_truth"] and set(truth.get("genders", ())) & {"female", "male"}:
        truth["gendered"] = find_gendered()
        if not truth["gendered"]:
            truth["no_gendered"] = "the female and the male body are not installed (hmrbench body install --gender)"
    people = replace(people, truth=truth)
    return replace(people, truth={**truth, "meshes": read_meshes(predictions, people)})


def _regressors(body: Body) -> dict[str, str]:
    """The regressors of the body's tree and of the 19 extra joints in words, with the beginnings of their hashes."""
    found = {"SMPL's own": body.mesh.J_regressor, "SMPL_to_J19": body.extra_regressor()}
    said = [f"{name} ({matrix_sha256(csr_array(x.cpu().numpy()))[:12]})" for name, x in found.items()]
    return dict(zip(("tree_regressor", "extra_regressor"), said, strict=True))


def said_of_rules(predictions: Sequence[Prediction], spec: DatasetSpec, people: Dataset) -> dict[str, Any]:
    """What each rule did, for the row: joints, pelvis, regressor, truth; nothing where there is none.

    Args:
        people: from `with_meshes`.
    """
    rules = rules_of(spec)
    if not rules:
        return {}
    joints = {"joints14_m", "joints24_m"} & set(predictions[0].params)  # of a tool that has no meshes
    found = {
        rule.name: describe_rule(rule, "joints" if joints else "meshes", people.truth, people.truth["meshes"])
        for rule in rules
    }
    if spec.options.get("protocol") == "all" and "mpjpe" in spec.metrics:
        found = {OWN: _own_rule(people.truth)} | found
    return {"rules": found}


def _own_rule(truth: Mapping[str, Any]) -> dict[str, Any]:
    compared = truth.get("joint_subset")
    return {
        "joints": 44 if compared is None else len(compared),
        "predicted": "the 19 extra joints, regressed from the mesh",
        "pelvis": "the extra regressor's (MPII), joint 39",
        "regressor": truth["extra_regressor"],
        "truth": "annotated joints",
        "vertices": "on joint 39 of each mesh; neutral truth" if "params" in truth else "none",
    }
