"""Slow, obvious versions of what the package computes, for comparison."""

from __future__ import annotations

import cv2
import numpy as np

# --- pose protocol, map by map and pixel by pixel


def decode_heatmaps(heatmaps, center, size, codec, dtype=np.float32):
    """mmpose 0.x, one map after the other with OpenCV: keypoints (B, K, 2) in image pixels and scores (B,
    K)."""
    batch, joints, height, width = heatmaps.shape
    keypoints, scores = np.zeros((batch, joints, 2)), np.zeros((batch, joints), np.float32)
    for b in range(batch):
        for k in range(joints):
            heatmap = heatmaps[b, k].astype(dtype)
            y, x = np.unravel_index(heatmap.argmax(), heatmap.shape)
            scores[b, k] = heatmap[y, x]
            if scores[b, k] <= 0:
                position = np.array([-1.0, -1.0])
            elif codec == "udp":
                position = _newton_udp(heatmap, x, y)
            elif codec == "dark":
                position = _newton_dark(heatmap, x, y)
            else:
                position = np.array([x, y], float)
                if 1 < x < width - 1 and 1 < y < height - 1:
                    position[0] += 0.25 * np.sign(heatmap[y, x + 1] - heatmap[y, x - 1])
                    position[1] += 0.25 * np.sign(heatmap[y + 1, x] - heatmap[y - 1, x])
            cells = np.array([width, height]) - (1 if codec == "udp" else 0)
            keypoints[b, k] = position * size[b] / cells + center[b] - size[b] / 2
    return keypoints, scores


def _newton_udp(heatmap, x, y):
    blurred = cv2.GaussianBlur(heatmap, (11, 11), 0)
    v = np.pad(np.log(np.clip(blurred, 0.001, 50)), 1, mode="edge").astype(np.float64)
    r, c = y + 1, x + 1
    slope = np.array([v[r, c + 1] - v[r, c - 1], v[r + 1, c] - v[r - 1, c]]) / 2
    dxx = v[r, c + 1] - 2 * v[r, c] + v[r, c - 1]
    dyy = v[r + 1, c] - 2 * v[r, c] + v[r - 1, c]
    dxy = (v[r + 1, c + 1] - v[r, c + 1] - v[r + 1, c] + 2 * v[r, c] - v[r, c - 1] - v[r - 1, c] + v[r - 1, c - 1]) / 2
    curvature = np.array([[dxx, dxy], [dxy, dyy]]) + np.finfo(np.float32).eps * np.eye(2)
    return np.array([x, y]) - np.linalg.inv(curvature) @ slope


def _newton_dark(heatmap, x, y):
    height, width = heatmap.shape
    if not (1 < x < width - 2 and 1 < y < height - 2):
        return np.array([x, y], float)
    blurred = cv2.GaussianBlur(np.pad(heatmap, 5), (11, 11), 0)[5:-5, 5:-5]
    v = np.log(np.maximum(blurred * (heatmap.max() / blurred.max()), 1e-10)).astype(np.float64)
    slope = np.array([v[y, x + 1] - v[y, x - 1], v[y + 1, x] - v[y - 1, x]]) / 2
    dxx = (v[y, x + 2] - 2 * v[y, x] + v[y, x - 2]) / 4
    dyy = (v[y + 2, x] - 2 * v[y, x] + v[y - 2, x]) / 4
    dxy = (v[y + 1, x + 1] - v[y - 1, x + 1] - v[y + 1, x - 1] + v[y - 1, x - 1]) / 4
    if dxx * dyy - dxy**2 == 0:
        return np.array([x, y], float)
    return np.array([x, y]) - np.linalg.inv(np.array([[dxx, dxy], [dxy, dyy]])) @ slope


def encode_heatmap(x_px, y_px, input_size, heatmap_size, codec):
    """One target heatmap (H, W) and its weight, pixel by pixel."""
    height, width = heatmap_size
    less = 1 if codec == "udp" else 0
    x = x_px * (width - less) / (input_size[1] - less)
    y = y_px * (height - less) / (input_size[0] - less)
    column, row = int(x + 0.5), int(y + 0.5)  # towards zero
    heatmap = np.zeros((height, width))
    near_x, near_y = (x, y) if codec == "dark" else (column, row)
    if int(near_x - 6) >= width or int(near_y - 6) >= height or int(near_x + 7) < 0 or int(near_y + 7) < 0:
        return heatmap, 0.0
    for v in range(height):
        for u in range(width):
            if codec != "dark" and (abs(u - column) > 6 or abs(v - row) > 6):
                continue
            centre = (column, row) if codec == "plain" else (x, y)
            heatmap[v, u] = np.exp(-((u - centre[0]) ** 2 + (v - centre[1]) ** 2) / 8)
    return heatmap, 1.0


def warp(image, matrix, input_size):
    """Bilinear crop (H, W, C) in float64, black outside the image: every output pixel is looked up on its
    own."""
    height, width = input_size
    inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))
    out = np.zeros((height, width, image.shape[2]))

    def pixel(u, v):
        inside = 0 <= v < image.shape[0] and 0 <= u < image.shape[1]
        return image[v, u].astype(float) if inside else np.zeros(image.shape[2])

    for row in range(height):
        for column in range(width):
            x, y, _ = inverse @ [column, row, 1]
            u, v = int(np.floor(x)), int(np.floor(y))
            fx, fy = x - u, y - v
            out[row, column] = (1 - fy) * ((1 - fx) * pixel(u, v) + fx * pixel(u + 1, v))
            out[row, column] += fy * ((1 - fx) * pixel(u, v + 1) + fx * pixel(u + 1, v + 1))
    return out


def oks_one(pred, gt, visible, area, sigmas):
    """Object keypoint similarity of one pair, joint by joint."""
    total, count = 0.0, 0
    for (px, py), (gx, gy), seen, sigma in zip(pred, gt, visible, sigmas, strict=True):
        if seen:
            squared = (px - gx) ** 2 + (py - gy) ** 2
            total += np.exp(-squared / (2 * area * (2 * sigma) ** 2))
            count += 1
    return total / count if count else 0.0


def oks_nms(keypoints, scores, areas, sigmas, threshold):
    """Greedy suppression, pair by pair: indices kept, best first."""
    left = sorted(range(len(scores)), key=lambda i: (-scores[i], -i))
    keep = []
    while left:
        best = left.pop(0)
        keep.append(best)
        seen = [True] * len(sigmas)
        left = [
            i
            for i in left
            if oks_one(keypoints[i], keypoints[best], seen, (areas[i] + areas[best]) / 2, sigmas) <= threshold
        ]
    return keep


# --- bodies and human mesh recovery, joint by joint and vertex by vertex


def pose_body(arrays, rotations, betas):
    """Linear blend skinning (Loper et al. 2015) of one body in float64: rotations (24, 3, 3) and betas (10,)
    to posed vertices (V, 3) and joints (24, 3)."""
    shaped = arrays.v_template + np.asarray(arrays.shapedirs, float) @ betas
    rest = arrays.J_regressor.astype(float) @ shaped
    if arrays.posedirs is not None:
        shaped = shaped + arrays.posedirs.astype(float) @ (rotations[1:] - np.eye(3)).ravel()
    world = np.zeros((24, 4, 4))
    for j, parent in enumerate(arrays.parents):
        local = np.eye(4)
        local[:3, :3] = rotations[j]
        local[:3, 3] = rest[j] if parent < 0 else rest[j] - rest[parent]
        world[j] = local if parent < 0 else world[parent] @ local
    vertices = np.zeros_like(shaped, float)
    for j in range(24):
        from_rest = world[j, :3, 3] - world[j, :3, :3] @ rest[j]
        vertices += arrays.weights[:, j : j + 1] * (shaped @ world[j, :3, :3].T + from_rest)
    return vertices, world[:, :3, 3]


def joints44(arrays, vertices, joints, update_hips=False):
    """The joint set of 4D-Humans from a posed body: OpenPose's 25 by name, then the 19 regressed ones."""
    nose, reye, leye, rear, lear, lbig, lsmall, lheel, rbig, rsmall, rheel = vertices[arrays.joint_vertices]
    pelvis, lhip, rhip, _, lknee, rknee, _, lankle, rankle, _, _, _, neck, _, _, _, *arms = joints
    lshoulder, rshoulder, lelbow, relbow, lwrist, rwrist = arms[:6]
    if update_hips:
        middle = 0.5 * (rhip + lhip) + 0.5 * (pelvis - 0.5 * (rhip + lhip))
        rhip, lhip = middle + 0.75 * (rhip - lhip), middle - 0.75 * (rhip - lhip)
    openpose = [
        nose, neck, rshoulder, relbow, rwrist, lshoulder, lelbow, lwrist, pelvis, rhip, rknee, rankle,
        lhip, lknee, lankle, reye, leye, rear, lear, lbig, lsmall, lheel, rbig, rsmall, rheel,
    ]  # fmt: skip
    return np.concatenate((openpose, arrays.joint_regressor_extra.astype(float) @ vertices))


def align(source, target):
    """One pose after the similarity transform that takes it closest to another: Umeyama 1991, by SVD."""
    x, y = (p.astype(float) - p.astype(float).mean(0) for p in (source, target))
    U, S, Vh = np.linalg.svd(y.T @ x)
    D = np.diag([1, 1, np.sign(np.linalg.det(U @ Vh))])
    scale = (S @ D).sum() / (x * x).sum()
    return scale * x @ (U @ D @ Vh).T + target.astype(float).mean(0)


def pa_error_mm(pred, gt):
    """One pose: mean joint error after the best similarity transform."""
    return 1000 * np.linalg.norm(align(pred, gt) - gt, axis=1).mean()


def pck_percent(pred, gt, visible, size, threshold):
    """Keypoint by keypoint: mean over the joints seen at least once, and each joint's value."""
    per_joint = []
    for k in range(pred.shape[1]):
        hits = [
            np.linalg.norm(pred[n, k].astype(float) - gt[n, k]) / size[n] < threshold
            for n in range(len(pred))
            if visible[n, k]
        ]
        per_joint.append(100 * np.mean(hits) if hits else np.nan)
    return np.nanmean(per_joint), np.array(per_joint)


# --- networks, step by step


def selective_scan_loop(u, delta, A, B, C, D, delta_bias):
    """One image, lane and step after the other, numpy in float64: u, delta (B, K*D, L), B, C (B, K, N, L)."""
    u, delta, A, B, C, D, delta_bias = (np.asarray(x, float) for x in (u, delta, A, B, C, D, delta_bias))
    images, lanes, steps = u.shape
    y = np.empty_like(u)
    for i in range(images):
        for lane in range(lanes):
            k = lane // (lanes // B.shape[1])
            h = np.zeros(A.shape[1])
            for t in range(steps):
                dt = np.logaddexp(0, delta[i, lane, t] + delta_bias[lane])
                h = np.exp(dt * A[lane]) * h + dt * B[i, k, :, t] * u[i, lane, t]
                y[i, lane, t] = C[i, k, :, t] @ h + D[lane] * u[i, lane, t]
    return y
