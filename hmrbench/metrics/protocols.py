"""What the rules of other families than 4D-Humans' read off meshes: joints of several sets, and vertex errors.

A rule is named as `--protocol` names it, and its scores after it: `MPJPE@metro`. They stand beside the benchmark's own
numbers and never among them. Everything is computed in float64, some samples at a time.

The truth of a data set measured by such a rule is that of `metrics.mpjpe`, and holds as well, where they are known,

    joints17     (17, V)   the regressor of Human3.6M's joints, rows in METRO's order, scipy-sparse; `regressor` says
                           which it is, as `tree_regressor` does of the body's own
    body                   the neutral body (a `hmrbench.body.Body`), which poses predicted parameters too
    mesh_params            true parameters `global_orient` (N, 1, 3, 3), `body_pose` (N, 23, 3, 3), `betas` (N, 10)
    mesh_known   (N,)      whose parameters are known
    gendered               the bodies `female` and `male` by name, for people of whom `genders` (N,) says so
    gendered_truth         whether the family's truth for this data set is the gendered mesh, and not annotated joints

Predictions hold `vertices_m` or the body's parameters among their `params`; or, of a tool that has joints alone,
`joints14_m` (14, 3), the joints that METRO and SPIN compare, `joints24_m` (24, 3), those of SMPL's tree, or
`joints22_m` (22, 3), the first ones of SMPL-X's, regressed from its own mesh. Predictions of SMPL-X have no vertex
errors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from hmrbench.errors import DataError
from hmrbench.metrics.mpjpe import BODY_PARAMS, VERTEX_CHUNK, mpjpe, of_smplx, pa_mpjpe, pve
from hmrbench.nets.meshes.mesh import H36M_TO_14
from hmrbench.records import Array, Dataset, Measure, Measurement, Metric, Prediction

EXTRA = slice(25, 44)  # the joints of 4D-Humans' set that are the first 19 of SPIN's and METRO's 24 annotated ones
ANNOTATED_TO_14 = (*range(13), 18)  # of these, in the order of `H36M_TO_14`
ANNOTATED_PELVIS = 14
NAMES = ("MPJPE", "PA-MPJPE", "PVE")


@dataclass(frozen=True)
class Meshes:
    """What is read off N predicted and true meshes; NaN for whom there is none.

    `pred14`, `true14` (N, 14, 3) are 14 of Human3.6M's joints with their pelvis, which stands apart, at the origin;
    `annotated14` are the annotated ones likewise. `pred24`, `true24` (N, 24, 3) are SMPL's tree, its root at the
    origin; `pred22` (N, 22, 3) are the first ones of SMPL-X's tree likewise, where they are given. Of true meshes the
    neutral body poses `true14` and `true24`, the gendered one where it is known `gendered14`, `gendered24`. `pve_h36m`
    and `pve_root` (N,) are vertex errors in mm, each mesh on its own pelvis.
    """

    pred14: Array
    true14: Array
    annotated14: Array
    gendered14: Array
    pred24: Array
    true24: Array
    gendered24: Array
    pred22: Array
    pve_h36m: Array
    pve_root: Array


@dataclass(frozen=True)
class Rule:
    """How one family measures.

    `joints(meshes, truth)` gives predicted and true joints (N, J, 3), centred as the family does, and words for the
    truth; `vertices(meshes)` the vertex errors (N,), where it has any. `count` are the joints compared; `pelvis`,
    `source` and `about_vertices` say in words what is centred, where predicted joints are from, and how vertices are.
    `whole` says that predictions of SMPL-X are compared by SMPL-X's own joints, where they hold them.
    """

    name: str
    count: int
    pelvis: str
    source: str
    about_vertices: str
    joints: Callable[[Meshes, Mapping[str, Any]], tuple[Array, Array, str]]
    vertices: Callable[[Meshes], Array] | None = None
    needs_regressor: bool = False
    whole: bool = False


def metric_of(rule: Rule) -> Metric:
    """A rule as a metric."""
    measures = tuple(
        Measure(f"{name}@{rule.name}", "mm", False, shown=name != "PVE", change_shown=False) for name in NAMES
    )
    return Metric(rule.name, "mm", False, partial(_compute, rule, measures), measures=measures)


def _compute(rule: Rule, measures: Sequence[Measure], predictions: Sequence[Prediction], data: Dataset) -> Measurement:
    """Raises DataError where the predictions or the truth lack what the rule needs."""
    truth = data.truth
    meshes = truth.get("meshes") or read_meshes(predictions, data)
    pred, true, _ = rule.joints(meshes, truth)
    predicted: Array = np.all(np.isfinite(pred), axis=(1, 2))
    there: Array = predicted & np.all(np.isfinite(true), axis=(1, 2))
    if not there.any():
        side = "data set has" if predicted.any() else "predictions have"
        raise DataError(f"{data.name}: the {side} nothing that rule '{rule.name}' can compare ({rule.source})")
    found = {"MPJPE": mpjpe(pred[there], true[there]), "PA-MPJPE": pa_mpjpe(pred[there], true[there])}
    per_sample = {name: _spread(mm, there) for name, mm in found.items()}
    remarks = []
    if not there.all():
        remarks.append(f"rule '{rule.name}' measures {there.sum():,} of {len(there):,} people: the others lack joints")
    if rule.vertices is not None and np.isfinite(errors := rule.vertices(meshes)).any():
        per_sample["PVE"] = errors
    scores = [
        m.score(float(np.nanmean(mm))) for m in measures if (mm := per_sample.get(m.name.partition("@")[0])) is not None
    ]
    named = {f"{name}@{rule.name}": mm for name, mm in per_sample.items()}
    return Measurement(tuple(scores), {}, named, tuple(remarks))


def _spread(values: Array, there: Array) -> Array:
    out = np.full(len(there), np.nan)
    out[there] = values
    return out


def describe_rule(rule: Rule, predictions_have: str, truth: Mapping[str, Any], meshes: Meshes) -> dict[str, Any]:
    """What a rule does with these predictions, for the row."""
    regressor = truth.get("regressor", "none") if rule.needs_regressor else truth["tree_regressor"]
    source = rule.source if predictions_have == "meshes" else "joints of the file"
    if rule.whole and np.isfinite(meshes.pred22).any():
        regressor, source = f"SMPL-X's own; of the truth {regressor}", "SMPL-X's tree, regressed from its mesh"
    return {
        "joints": rule.count,
        "predicted": source,
        "pelvis": rule.pelvis,
        "regressor": regressor,
        "truth": rule.joints(meshes, truth)[2],
        "vertices": rule.about_vertices,
    }


def read_meshes(predictions: Sequence[Prediction], data: Dataset) -> Meshes:
    """One pass over all samples.

    Raises:
        DataError: predictions are of another topology than the body or the regressor.
    """
    truth, count = data.truth, len(predictions)
    shapes = {"14": (count, 14, 3), "24": (count, 24, 3)}
    found = {
        f"{side}{n}": np.full(shape, np.nan) for side in ("pred", "true", "gendered") for n, shape in shapes.items()
    }
    found["pred22"] = np.full((count, 22, 3), np.nan)
    errors = {name: np.full(count, np.nan) for name in ("pve_h36m", "pve_root")}
    for start in range(0, count, VERTEX_CHUNK):
        rows = np.arange(start, min(start + VERTEX_CHUNK, count))
        pred, true, gendered = (
            predicted_meshes(predictions, rows, truth), _true_meshes(truth, rows), _gendered_meshes(truth, rows)
        )  # fmt: skip
        pelves = {}
        for side, meshes in (("pred", pred), ("true", true), ("gendered", gendered)):
            if meshes is None:
                continue
            found[f"{side}14"][rows], found[f"{side}24"][rows], *pelves[side] = _joints_of(meshes, truth)
        if pred is not None and true is not None and not of_smplx(predictions):
            for name, k in (("pve_h36m", 0), ("pve_root", 1)):
                errors[name][rows] = _vertex_errors(pred - pelves["pred"][k], true - pelves["true"][k])
    for n in ("14", "22", "24"):
        name, shape = f"joints{n}_m", found[f"pred{n}"].shape
        if all(name in p.params for p in predictions):
            found[f"pred{n}"] = given = np.stack([p.params[name] for p in predictions]).astype(np.float64)
            if given.shape != shape:
                raise DataError(f"{name} is {given.shape}, expected {shape}")
    for n in ("22", "24"):  # whose first joint is the root
        found[f"pred{n}"] -= found[f"pred{n}"][:, :1]
    return Meshes(annotated14=_annotated(truth, count), **found, **errors)


def _joints_of(meshes: Array, truth: Mapping[str, Any]) -> tuple[Array, Array, Array, Array]:
    """14 joints on Human3.6M's pelvis, 24 on SMPL's root, and both pelves (n, 1, 3) as they were."""
    tree = regressed(truth["body"].mesh.J_regressor.cpu().double().numpy(), meshes)
    root = tree[:, :1]
    joints17 = truth.get("joints17")
    if joints17 is None:
        nothing = np.full((len(meshes), 14, 3), np.nan)
        return nothing, tree - root, nothing[:, :1], root
    h36m = regressed(joints17.astype(np.float64), meshes)
    pelvis = h36m[:, :1]
    return h36m[:, list(H36M_TO_14)] - pelvis, tree - root, pelvis, root


def regressed(regressor: Any, vertices_m: Array) -> Array:
    """Joints (N, J, 3) float64 by a regressor (J, V), dense or sparse, from meshes (N, V, 3).

    Raises:
        DataError: the shapes do not fit.
    """
    vertices = np.asarray(vertices_m, np.float64)
    joints = regressor.shape[0]
    if vertices.ndim != 3 or regressor.shape[1] != vertices.shape[1] or vertices.shape[2] != 3:
        raise DataError(f"meshes {vertices.shape} and regressor {regressor.shape} must be (N, V, 3) and ({joints}, V)")
    # One product for all samples: (J, V) times (V, N * 3)
    flat = regressor @ vertices.transpose(1, 0, 2).reshape(vertices.shape[1], -1)
    found: Array = flat.reshape(joints, len(vertices), 3).transpose(1, 0, 2)
    return found


def _vertex_errors(pred: Array, true: Array) -> Array:
    """Errors in mm of meshes (n, V, 3), NaN where a truth is not known."""
    known = np.isfinite(pred[:, 0, 0]) & np.isfinite(true[:, 0, 0])
    return _spread(pve(pred[known], true[known]) if known.any() else np.zeros(0), known)


def predicted_meshes(predictions: Sequence[Prediction], rows: Array, truth: Mapping[str, Any]) -> Array | None:
    """Predicted meshes (n, V, 3) float64 of some samples; None where the predictions hold none."""
    params = [predictions[i].params for i in rows]
    body = truth.get("body")
    if all("vertices_m" in p for p in params):
        meshes = np.stack([p["vertices_m"] for p in params]).astype(np.float64)
        if body is not None and meshes.shape[1:] != (len(body.mesh.v_template), 3):
            raise DataError(
                f"predicted meshes have {meshes.shape[1]:,} vertices, and the body that the data set is measured with "
                f"({body.source}) has {len(body.mesh.v_template):,}"
            )
        return meshes if body is not None else None
    if body is None or not all(key in p for p in params for key in BODY_PARAMS):
        return None
    return posed(body, {key: np.stack([p[key] for p in params]) for key in BODY_PARAMS})


def posed(body: Any, params: Mapping[str, Array]) -> Array:
    """Vertices (n, V, 3) float64 of a posed body."""
    device = body.mesh.v_template.device
    with torch.no_grad():
        tensors = {key: torch.as_tensor(params[key], dtype=torch.float32, device=device) for key in BODY_PARAMS}
        vertices: Array = body(**tensors, vertices=True).vertices.cpu().double().numpy()
    return vertices


def _true_meshes(truth: Mapping[str, Any], rows: Array) -> Array | None:
    if "mesh_params" not in truth or truth.get("body") is None:
        return None
    meshes = posed(truth["body"], {key: truth["mesh_params"][key][rows] for key in BODY_PARAMS})
    meshes[~truth["mesh_known"][rows]] = np.nan
    return meshes


def _gendered_meshes(truth: Mapping[str, Any], rows: Array) -> Array | None:
    if not truth.get("gendered") or "mesh_params" not in truth:
        return None
    meshes = np.full((len(rows), len(truth["body"].mesh.v_template), 3), np.nan)
    for gender, body in truth["gendered"].items():
        own = (truth["genders"][rows] == gender) & truth["mesh_known"][rows]
        if own.any():
            chosen = rows[own]
            meshes[own] = posed(body, {key: truth["mesh_params"][key][chosen] for key in BODY_PARAMS})
    return meshes


def _annotated(truth: Mapping[str, Any], count: int) -> Array:
    """The annotated joints (N, 14, 3), the annotated pelvis at the origin."""
    joints = truth.get("joints_m")
    if joints is None or np.shape(joints)[1:] != (44, 3):
        return np.full((count, 14, 3), np.nan)
    annotated = np.asarray(joints, np.float64)[:, EXTRA]
    found: Array = annotated[:, list(ANNOTATED_TO_14)] - annotated[:, ANNOTATED_PELVIS, None]
    return found


def mesh_truth(meshes: Meshes, joints: str) -> tuple[Array, str]:
    """The true joints (N, J, 3) of meshes, `14` or `24`: of gendered ones where anybody has one, and words for it."""
    gendered, neutral = getattr(meshes, f"gendered{joints}"), getattr(meshes, f"true{joints}")
    has = np.isfinite(gendered[:, 0, 0])
    if has.any():
        return gendered, f"the gendered mesh's joints, of {has.sum():,} people"
    return neutral, "the neutral mesh's joints"
