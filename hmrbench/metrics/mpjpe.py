"""MPJPE, PA-MPJPE and PVE: errors of joints and vertices in millimetres.

Protocol of 4D-Humans (Goel et al. 2023, repository shubham-goel/4D-Humans, MIT licence;
`hmr2/utils/pose_utils.py`): both poses are moved so that the pelvis is the origin, then a subset of the
joints is compared, for PA-MPJPE after the best similarity transform. Here everything is computed in float64.

The truth of a data set measured with this metric (`Dataset.truth`) is a mapping that holds

    joints_m      (N, J, 3)  joints in metres, any frame up to a translation; J as in `Prediction.joints_m`. Those that
                             are not compared may be anything, NaN too
    joints_confidence (N, J) 0 where nobody labelled the joint (absent: all are labelled). As in 4D-Humans such a joint
                             counts like any other where it is compared, which a remark says; a pelvis must be labelled
    joint_subset  (S,)       which of the J joints are compared (absent: all)
    pelvis        int, (P,)  the joint, or the joints whose mean, is moved to the origin (absent: joint 0)
    joint_names   (J,)       names for the per-joint scores (absent: those of the skeleton with J joints)

and, for PVE, either

    vertices_m    (N, V, 3)  vertices in metres, in the frame of `joints_m`

where the predictions' `params` hold `vertices_m` (V, 3) as well, or

    body                     the body model (a `hmrbench.body.Body`)
    params                   its `global_orient` (N, 1, 3, 3), `body_pose` (N, 23, 3, 3) and `betas` (N, 10)
    has_body_pose, has_betas (N,)  0 for people whose parameters are not known (absent: all are), who have no PVE
    pve_of_some              whether a PVE of the others alone is meant; if not, such people are refused

where the predictions' `params` hold the same three for the same body, or `vertices_m` of its topology. Those that hold
`smplx_betas` are of SMPL-X, and pose the body for its joints alone: their vertices are not the body's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch

from hmrbench.errors import DataError
from hmrbench.geometry import similarity_align
from hmrbench.records import Array, Dataset, Measure, Measurement, Metric, Prediction
from hmrbench.skeletons import joint_names

ArrayOrTensor = TypeVar("ArrayOrTensor", Array, torch.Tensor)

MEASURES = (
    Measure("MPJPE", "mm", False),
    Measure("PA-MPJPE", "mm", False),
    Measure("PVE", "mm", False, shown=False, change_shown=False),
)
NO_EXTENT_M = 1e-6  # joints this close to the first one are a placeholder, not a pose
BODY_PARAMS = ("global_orient", "body_pose", "betas")
OF_SMPLX = "smplx_betas"  # the parameter that predictions of SMPL-X hold
VERTEX_CHUNK = 256  # samples whose vertices are held at a time
POSE_CHUNK = 4096  # poses aligned at a time: their arrays stay in the cache


def mpjpe(pred: ArrayOrTensor, gt: ArrayOrTensor) -> ArrayOrTensor:
    """Mean per-joint position error, one value per pose. Nothing is centred here; see `pelvis_centred`.

    Args:
        pred: (N, J, 3) joints in metres.
        gt: (N, J, 3) joints in metres, same frame.

    Returns:
        (N,) error in millimetres, float64, tensor or array as `pred` is.

    Raises:
        DataError: the shapes differ, or a pose is not finite (rows are named).
    """
    return _like(pred, _errors_mm(*_poses(pred, gt)).mean(1))


def pa_mpjpe(pred: ArrayOrTensor, gt: ArrayOrTensor) -> ArrayOrTensor:
    """Mean joint error after similarity alignment (Umeyama 1991, no reflection), one value per pose.

    Args:
        pred: (N, J, 3) joints in metres, any frame.
        gt: (N, J, 3) joints in metres.

    Returns:
        (N,) error in millimetres, float64, tensor or array as `pred` is.

    Raises:
        DataError: the shapes differ, or a pose is not finite or has no extent (rows are named).
    """
    return _like(pred, _aligned_errors_mm(*_poses(pred, gt)).mean(1))


def pve(pred: ArrayOrTensor, gt: ArrayOrTensor) -> ArrayOrTensor:
    """Mean per-vertex error: (N, V, 3) metres to (N,) mm. Nothing is centred; raises as `mpjpe`."""
    return mpjpe(pred, gt)


def pelvis_centred(joints: ArrayOrTensor, pelvis: int | Sequence[int] | Array) -> ArrayOrTensor:
    """`joints` (N, J, 3) with the pelvis (one joint, or the mean of several) at the origin; a new array."""
    centred: ArrayOrTensor = joints - _pelvis(joints, pelvis)
    return centred


def _pelvis(joints: ArrayOrTensor, pelvis: int | Sequence[int] | Array) -> ArrayOrTensor:
    position: ArrayOrTensor = joints[:, np.atleast_1d(pelvis).tolist()].mean(1)[:, None]  # (N, 1, 3)
    return position


def _poses(pred: Any, gt: Any, ids: Sequence[str] | None = None) -> tuple[Array, Array]:
    pred, gt = (
        x.detach().cpu().double().numpy() if isinstance(x, torch.Tensor) else np.asarray(x, np.float64)
        for x in (pred, gt)
    )
    if pred.shape != gt.shape or pred.ndim != 3 or pred.shape[-1] != 3:
        raise DataError(f"prediction {pred.shape} and truth {gt.shape} must both be (N, J, 3)")
    for name, x in (("prediction", pred), ("truth", gt)):
        # one NaN or infinity makes the sum of its pose such
        _reject(~np.isfinite(np.einsum("njc->n", x)), f"{name} is not finite", ids)
    return pred, gt


def _reject(bad: Array, what: str, ids: Sequence[str] | None) -> None:
    """Raise if any row is bad, naming the first few."""
    rows = np.flatnonzero(bad)
    if rows.size:
        names = ", ".join(str(ids[i]) if ids is not None else str(i) for i in rows[:5])
        more = f" and {rows.size - 5} more" if rows.size > 5 else ""
        raise DataError(f"{what}: {'sample' if ids is not None else 'row'} {names}{more}")


def _errors_mm(pred: Array, gt: Array) -> Array:
    difference = pred - gt
    errors: Array = 1000 * np.sqrt(np.einsum("njc,njc->nj", difference, difference))
    return errors


def _aligned_errors_mm(pred: Array, gt: Array, ids: Sequence[str] | None = None) -> Array:
    for name, x in (("prediction", pred), ("truth", gt)):
        offset = x - x[:, :1]
        no_extent = np.einsum("njc,njc->n", offset, offset) < NO_EXTENT_M**2
        _reject(no_extent, f"{name} has no extent (all joints in one place)", ids)
    parts = (slice(i, i + POSE_CHUNK) for i in range(0, max(len(pred), 1), POSE_CHUNK))
    return np.concatenate([_errors_mm(similarity_align(pred[part], gt[part]), gt[part]) for part in parts])


def _like(pred: ArrayOrTensor, values: Array) -> ArrayOrTensor:
    if isinstance(pred, torch.Tensor):
        return torch.from_numpy(values).to(pred.device)
    return values


def compute(predictions: Sequence[Prediction], dataset: Dataset) -> Measurement:
    """MPJPE and PA-MPJPE, and PVE where truth and predictions have vertices or body parameters.

    Raises:
        DataError: a prediction has no joints, or others than the truth, or is not usable; names the sample. Or the
            truth is not usable, see `check_truth`.
    """
    truth: Mapping[str, Any] = dataset.truth
    ids = [sample.id for sample in dataset.samples]
    check_truth(dataset)
    pred, gt = _joints(predictions, dataset, ids)
    pred_pelvis, gt_pelvis = (_pelvis(joints, truth.get("pelvis", 0)) for joints in (pred, gt))
    names = joint_names(gt.shape[1], truth.get("joint_names"))
    subset = _subset(truth)
    pred, gt = (pred - pred_pelvis)[:, subset], (gt - gt_pelvis)[:, subset]  # (N, S, 3)
    errors = {"MPJPE": _errors_mm(pred, gt), "PA-MPJPE": _aligned_errors_mm(pred, gt, ids)}  # (N, S)
    per_joint = {
        metric: {names[j]: float(value) for j, value in zip(subset, mm.mean(0), strict=True)}
        for metric, mm in errors.items()
    }
    per_sample = {metric: mm.mean(1) for metric, mm in errors.items()}
    pelvis, known = truth.get("pelvis", 0), _posed(truth, len(gt))
    vertex_errors = [
        _errors_mm(v, w).mean(1) for v, w in _vertices(predictions, truth, ids, pred_pelvis, gt_pelvis, pelvis, known)
    ]
    if vertex_errors:
        per_sample["PVE"] = np.full(len(gt), np.nan)
        per_sample["PVE"][known] = np.concatenate(vertex_errors)
    scores = tuple(m.score(float(np.nanmean(per_sample[m.name]))) for m in MEASURES if m.name in per_sample)
    return Measurement(scores, per_joint, per_sample, _remarks(truth, known, of_smplx(predictions)))


def check_truth(dataset: Dataset) -> None:
    """Refuse a truth that cannot be scored.

    Raises:
        DataError: a joint that is compared, or the pelvis, is not finite, the pelvis has confidence 0, or PVE would be
            that of some people only; names the samples.
    """
    truth: Mapping[str, Any] = dataset.truth
    ids = [sample.id for sample in dataset.samples]
    gt = np.asarray(truth["joints_m"], np.float64)
    subset, pelvis = _subset(truth), np.atleast_1d(truth.get("pelvis", 0))
    for what, joints in (("joints", subset), ("pelvis", pelvis)):
        if not joints.size or joints.dtype.kind not in "iu" or joints.min() < 0 or joints.max() >= gt.shape[1]:
            raise DataError(f"{dataset.name}: {what} must be among 0 to {gt.shape[1] - 1}, not {joints.tolist()}")
    used = np.union1d(subset, pelvis)
    _reject(~np.all(np.isfinite(gt[:, used]), axis=(1, 2)), "truth is not finite", ids)
    confidence = truth.get("joints_confidence")
    if confidence is not None:
        labelled = np.all(np.asarray(confidence)[:, pelvis] > 0, axis=1)
        _reject(~labelled, "the true pelvis, from which all joints are measured, has confidence 0", ids)
    if "params" in truth and not truth.get("pve_of_some"):
        without = (
            "has_body_pose or has_betas is 0, so that PVE would be of fewer people than MPJPE; if that is meant, say"
        )
        _reject(~_posed(truth, len(gt)), f"{without} 'pve: labelled' in the set's options", ids)


def _subset(truth: Mapping[str, Any]) -> Array:
    """The joints that are compared, (S,)."""
    return np.asarray(truth.get("joint_subset", range(np.shape(truth["joints_m"])[1])))


def _posed(truth: Mapping[str, Any], count: int) -> Array:
    """Whose body parameters are known, (N,) bool."""
    flags = [np.asarray(truth[name]) > 0 for name in ("has_body_pose", "has_betas") if name in truth]
    known: Array = np.all([np.ones(count, bool), *flags], axis=0)
    return known


def _remarks(truth: Mapping[str, Any], known: Array, smplx: bool) -> tuple[str, ...]:
    remarks = []
    if "joints_confidence" in truth:
        compared = np.asarray(truth["joints_confidence"])[:, _subset(truth)] > 0
        if not compared.all():
            remarks.append(
                f"{(~compared).sum():,} of {compared.size:,} compared 3D joints have confidence 0, that is, are not "
                f"labelled, in {(~compared).any(1).sum():,} people; they count all the same, as in 4D-Humans"
            )
    if smplx and ("params" in truth or "vertices_m" in truth):
        remarks.append("no PVE: the predictions are of SMPL-X, whose vertices are not those of the truth")
    elif "params" in truth and not known.all():
        remarks.append(f"PVE is that of {known.sum():,} of {len(known):,} people: the others have no body parameters")
    return tuple(remarks)


def _joints(predictions: Sequence[Prediction], dataset: Dataset, ids: Sequence[str]) -> tuple[Array, Array]:
    """Predicted joints (N, J, 3), all there and finite, and the true ones, where what is not finite is 0."""
    gt = np.asarray(dataset.truth["joints_m"])
    if len(predictions) != len(gt) or not predictions:
        raise DataError(f"{dataset.name}: {len(predictions)} predictions for {len(gt)} poses")
    joints = []
    for sample_id, prediction in zip(ids, predictions, strict=True):
        if prediction.joints_m is None or prediction.joints_m.shape != gt.shape[1:]:
            found = "none" if prediction.joints_m is None else str(prediction.joints_m.shape)
            raise DataError(f"sample {sample_id}: 3D joints expected {gt.shape[1:]}, found {found}")
        joints.append(prediction.joints_m)
    return _poses(np.stack(joints), np.where(np.isfinite(gt), gt, 0), ids)


def _vertices(
    predictions: Sequence[Prediction],
    truth: Mapping[str, Any],
    ids: Sequence[str],
    pred_pelvis: Array,
    gt_pelvis: Array,
    pelvis: Any,
    known: Array,
) -> Iterator[tuple[Array, Array]]:
    """Predicted and true vertices of the `known` samples, pelvis at the origin, some samples at a time; nothing where
    either side has none.

    Vertices that are given lie in the frame of the joints; those of a posed body are centred on that body's own pelvis,
    since parameters say nothing of where the person stands.
    """
    meshes = all("vertices_m" in p.params for p in predictions)
    given = "vertices_m" in truth and meshes
    posed = "body" in truth and (meshes or all(key in p.params for p in predictions for key in BODY_PARAMS))
    if (not given and not posed) or of_smplx(predictions):
        return
    for key in ("vertices_m",) if meshes else BODY_PARAMS:
        true = truth["vertices_m"] if given else truth["body"].mesh.v_template[None] if meshes else truth["params"][key]
        wanted = tuple(np.shape(true)[1:])
        for sample_id, p in zip(ids, predictions, strict=True):
            if p.params[key].shape != wanted:
                raise DataError(f"sample {sample_id}: {key} expected {wanted}, found {p.params[key].shape}")
    places = np.flatnonzero(known)
    for start in range(0, len(places), VERTEX_CHUNK):
        rows = places[start : start + VERTEX_CHUNK]
        params = [predictions[i].params for i in rows]
        if given:
            pred = np.stack([p["vertices_m"] for p in params]) - pred_pelvis[rows]
            gt = truth["vertices_m"][rows] - gt_pelvis[rows]
        else:
            if meshes:
                pred = np.stack([p["vertices_m"] for p in params]) - pred_pelvis[rows]
            else:
                pred = _pose(truth["body"], {key: np.stack([p[key] for p in params]) for key in BODY_PARAMS}, pelvis)
            gt = _pose(truth["body"], {key: truth["params"][key][rows] for key in BODY_PARAMS}, pelvis)
        yield _poses(pred, gt, [ids[i] for i in rows])


def of_smplx(predictions: Sequence[Prediction]) -> bool:
    """Whether these are predictions of SMPL-X, whose vertices are not those of the truth."""
    return any(OF_SMPLX in p.params for p in predictions)


def _pose(body: Any, params: Mapping[str, Array], pelvis: Any) -> Array:
    """Vertices (B, V, 3) of a posed body, its pelvis at the origin."""
    with torch.no_grad():
        tensors = {key: torch.as_tensor(value, dtype=torch.float32) for key, value in params.items()}
        posed = body(**tensors, vertices=True)
    joints, own = (posed.smpl_joints, 0) if posed.joints is None else (posed.joints, pelvis)
    vertices: Array = (posed.vertices - _pelvis(joints, own)).cpu().numpy()
    return vertices


METRIC = Metric("mpjpe", "mm", False, compute, check_truth, MEASURES)
