"""Drawing: where it lies, to fractions of a pixel; what it leaves alone; meshes against a slow z-buffer."""

from __future__ import annotations

import json
import struct
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from made_bodies import random_pose
from scipy.spatial import ConvexHull

from hmrbench.body import free_body
from hmrbench.data.images import read_image
from hmrbench.errors import HmrbenchError, UsageError
from hmrbench.geometry import project
from hmrbench.pictures import overlay, rendering
from hmrbench.pictures.overlay import draw_keypoints, overlay_meshes, save_mesh, side_view
from hmrbench.pictures.rendering import Mesh, render_meshes
from hmrbench.records import Array
from hmrbench.skeletons import COCO17, HMR44, Skeleton

GREY = np.full((120, 160, 3), 128, np.uint8)
GREY.setflags(write=False)
PAIR = Skeleton(name="pair", joints=("left_a", "left_b"), flip_pairs=(), limbs=((0, 1),))
DOT = Skeleton(name="dot", joints=("left_a",), flip_pairs=(), limbs=())


def draw(points: list[list[float]], scores: list[float], skeleton: Skeleton = PAIR) -> Array:
    return draw_keypoints(GREY, np.array([points]), np.array([scores]), skeleton)


# --- keypoints


@pytest.mark.parametrize("x", [50.0, 50.25, 50.5, 50.9])
def test_a_joint_lies_where_it_is_to_a_tenth_of_a_pixel(x: float) -> None:
    change = np.abs(draw([[x, 40.5]], [1.0], DOT).astype(float) - 128).sum(2)
    rows, columns = np.indices(change.shape)
    assert (change * columns).sum() / change.sum() == pytest.approx(x, abs=0.1)
    assert (change * rows).sum() / change.sum() == pytest.approx(40.5, abs=0.1)


def test_a_limb_is_opaque_as_its_weaker_end_and_smooth_at_its_edges() -> None:
    full = draw([[20, 60], [140, 60]], [1.0, 1.0])
    assert tuple(full[60, 80]) == overlay.LEFT
    half = draw([[20, 60], [140, 60]], [1.0, 0.5])
    shadow = 128 + 0.5 * overlay.OUTLINE_OPACITY * (np.array(overlay.OUTLINE) - 128)
    assert half[60, 80] == pytest.approx(shadow + 0.5 * (np.array(overlay.LEFT) - shadow), abs=1)
    slanted = draw([[20, 30], [140, 77]], [1.0, 1.0])
    assert len(np.unique(slanted[..., 2])) > 30  # steps between the colours: anti-aliased


def test_low_scores_are_left_out_and_the_picture_is_left_alone() -> None:
    assert np.array_equal(draw([[20, 60], [140, 60]], [0.05, 0.09]), GREY)
    one = draw([[20, 60], [140, 60]], [1.0, 0.0])
    assert np.array_equal(one[:, 40:], GREY[:, 40:])
    nobody = np.zeros((0, 17, 2))
    assert np.array_equal(draw_keypoints(GREY, nobody, nobody[..., 0], COCO17), GREY)


@pytest.mark.parametrize("place", [(-500.0, 20.0), (158.0, -3.0), (1e5, 1e5)])
def test_what_lies_outside_is_cut_off(place: tuple[float, float]) -> None:
    drawn = draw([list(place), [place[0] + 30, place[1] + 8]], [1.0, 1.0])
    assert drawn.shape == GREY.shape


@pytest.mark.parametrize("skeleton", [COCO17, HMR44])
def test_sides_have_their_colours(skeleton: Skeleton) -> None:
    for joint, colour in (
        ("left_elbow", overlay.LEFT),
        ("right_elbow", overlay.RIGHT),
        ("nose", overlay.CENTRE),
    ):
        points, scores = np.zeros((1, len(skeleton.joints), 2)), np.zeros((1, len(skeleton.joints)))
        j = skeleton.joints.index(joint)
        points[0, j], scores[0, j] = (80, 60), 1
        assert tuple(draw_keypoints(GREY, points, scores, skeleton)[60, 80]) == colour
    a, b = (skeleton.joints.index(f"{side}_hip") for side in ("left", "right"))
    if (a, b) in skeleton.limbs:
        points[0, a], points[0, b] = (40, 20), (120, 20)
        scores[0] = 0
        scores[0, [a, b]] = 1
        assert tuple(draw_keypoints(GREY, points, scores, skeleton)[20, 80]) == overlay.CENTRE


def test_several_people_on_photographs(coco_mini: Path) -> None:
    """Ground truth on the four photographs: nothing far from a person is touched."""
    truth = json.loads((coco_mini / "annotations" / "person_keypoints_val2017.json").read_text())
    for entry in truth["images"]:
        image = read_image(coco_mini / "val2017" / entry["file_name"])
        people = [a for a in truth["annotations"] if a["image_id"] == entry["id"] and a["num_keypoints"]]
        points = np.array([a["keypoints"] for a in people], float).reshape(-1, 17, 3)
        drawn = draw_keypoints(image, points[..., :2], (points[..., 2] > 0) * 0.9, COCO17)
        near = np.zeros(image.shape[:2], bool)
        for x, y, w, h in (a["bbox"] for a in people):
            near[max(int(y) - 20, 0) : int(y + h) + 20, max(int(x) - 20, 0) : int(x + w) + 20] = True
        changed = (drawn != image).any(2)
        assert changed.any()
        assert not (changed & ~near).any()


# --- meshes


loaded = cache(free_body)


def posed(seed: int = 0, depth_m: float = 12.0, lite: bool = True) -> tuple[Array, Array, Mesh]:
    """Joints (44, 3), SMPL joints (24, 3) and mesh of the free body, posed at random, before the camera."""
    body = loaded(lite)
    R, betas = (torch.tensor(x, dtype=torch.float32) for x in random_pose(1, seed))
    place = torch.tensor([[0.1, -0.2, depth_m]])
    out = body(R[:, :1], R[:, 1:], 0.3 * betas, place, vertices=True)
    assert out.joints is not None
    assert out.vertices is not None
    return out.joints[0].numpy(), out.smpl_joints[0].numpy(), Mesh(out.vertices[0].numpy(), body.faces)


def standing(depth_m: float = 10.0, x_m: float = 0.0) -> Mesh:
    """The free body, small version, standing upright and facing the camera."""
    body = loaded(True)
    turned = torch.diag(torch.tensor([1.0, -1.0, -1.0])).expand(1, 1, 3, 3)
    place = torch.tensor([[x_m, 0.0, depth_m]])
    out = body(turned, torch.eye(3).expand(1, 23, 3, 3), torch.zeros(1, 10), place, vertices=True)
    assert out.vertices is not None
    return Mesh(out.vertices[0].numpy(), body.faces)


def in_picture(points_m: Array, focal_px: float, center_px: tuple[float, float]) -> Array:
    """(N, 2) pixels by the formula that projects joints."""
    center = torch.tensor([center_px], dtype=torch.float64)
    points = torch.tensor(points_m, dtype=torch.float64)[None]
    nowhere = torch.zeros(1, 3, dtype=torch.float64)
    return project(points, nowhere, torch.full((1, 2), focal_px, dtype=torch.float64), center)[0].numpy()


def extent(mask: Array) -> Array:
    """left, top, right, bottom of a mask."""
    rows, columns = np.nonzero(mask)
    return np.array([columns.min(), rows.min(), columns.max(), rows.max()])


@pytest.mark.parametrize(
    ("seed", "focal_px", "depth_m"), [(0, 1500, 12), (1, 300, 2.5), (2, 12500, 90), (3, 12500, 80)]
)
def test_mesh_coincides_with_projected_vertices_and_joints(seed: int, focal_px: float, depth_m: float) -> None:
    """The mask ends where the vertices do; joints lie on it; what is seen at a joint is before it, by less
    than a body is thick.
    """
    joints, skeleton, mesh = posed(seed, depth_m, lite=seed != 3)
    size, center = (420, 440), (220.0, 210.0)
    drawn = render_meshes([mesh], focal_px, center, size)
    corners = in_picture(mesh.vertices_m, focal_px, center)
    expected = np.concatenate([corners.min(0), corners.max(0)])
    assert (expected >= 0).all()  # all of it lies in the picture
    assert extent(drawn.coverage > 0) == pytest.approx(expected, abs=1.5)
    px = np.round(in_picture(skeleton, focal_px, center)).astype(int)
    surface = drawn.depth_m[px[:, 1], px[:, 0]]
    assert np.isfinite(surface).mean() > 0.95
    before = skeleton[:, 2] - surface
    assert before[np.isfinite(surface)].min() > -0.03
    assert np.median(before[np.isfinite(surface)]) < 0.3
    px44 = np.round(in_picture(joints, focal_px, center)).astype(int)
    assert (drawn.coverage[px44[:, 1], px44[:, 0]] > 0).mean() > 0.9


def test_a_mesh_is_cut_off_at_the_border() -> None:
    mesh = standing()
    whole = render_meshes([mesh], 500, (80, 60), (120, 160))
    part = render_meshes([mesh], 500, (30, 20), (60, 90))
    assert part.coverage == pytest.approx(whole.coverage[40:100, 50:140], abs=0.12)
    inner = part.coverage == 1
    assert np.median(np.abs(part.depth_m[inner] - whole.depth_m[40:100, 50:140][inner])) < 1e-4


def slow_depth(mesh: Mesh, focal_px: float, center_px: tuple[float, float], size: tuple[int, int]) -> Array:
    """Depth at pixel centres: every triangle against every pixel."""
    depth = np.full(size, np.inf)
    y, x = np.indices(size)
    xy, z = in_picture(mesh.vertices_m, focal_px, center_px), mesh.vertices_m[:, 2]
    for face in mesh.faces:
        (x0, y0), (x1, y1), (x2, y2) = xy[face]
        area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
        if area:
            a = ((x1 - x) * (y2 - y) - (x2 - x) * (y1 - y)) / area
            b = ((x2 - x) * (y0 - y) - (x0 - x) * (y2 - y)) / area
            inside = (a >= 0) & (b >= 0) & (1 - a - b >= 0)
            here = 1 / (a / z[face[0]] + b / z[face[1]] + (1 - a - b) / z[face[2]])
            depth = np.where(inside & (here < depth), here, depth)
    return depth


def test_depth_equals_a_slow_z_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "SAMPLES", 1)
    _, _, mesh = posed(4, depth_m=3.0)
    size, center = (70, 60), (28.0, 33.0)
    expected = slow_depth(mesh, 75, center, size)
    drawn = render_meshes([mesh], 75, center, size)
    seen, wanted = np.isfinite(drawn.depth_m), np.isfinite(expected)
    assert (seen != wanted).sum() <= 2  # pixel centres on an edge
    assert drawn.coverage[seen].min() == 1
    assert drawn.depth_m[seen & wanted] == pytest.approx(expected[seen & wanted], abs=2e-4)


def test_samples_give_the_share_of_a_pixel_that_is_covered() -> None:
    """A square of 20.5 x 10.25 pixels, whose edges cut pixels."""
    corners = np.array([[10.1, 20.2], [30.6, 20.2], [30.6, 30.45], [10.1, 30.45]])
    vertices = np.column_stack([(corners - [80, 60]) / 100, np.ones(4)])
    drawn = render_meshes([Mesh(vertices, np.array([[0, 2, 1], [0, 3, 2]]))], 100, (80, 60), (120, 160))
    assert drawn.coverage.sum() == pytest.approx(20.5 * 10.25, rel=0.02)
    assert drawn.coverage[21:30, 11:30].min() == 1
    assert drawn.coverage[25, 10] == pytest.approx(0.4, abs=0.17)  # pixel 10 reaches from 9.5 to 10.5
    assert drawn.coverage[20, 20] == pytest.approx(0.3, abs=0.17)


def test_no_ray_slips_between_two_triangles() -> None:
    """Rays at the very edges that the triangles of a crumpled sheet share."""
    rng = np.random.default_rng(0)
    sheet = np.stack([*np.mgrid[0:60, 0:60], np.zeros((60, 60))], axis=-1) * 2.0
    sheet += rng.uniform(-0.9, 0.9, sheet.shape)
    index = np.arange(3600).reshape(60, 60)
    a, b, c, d = (x.ravel() for x in (index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]))
    faces = np.concatenate([np.stack([a, b, c], axis=1), np.stack([a, c, d], axis=1)])
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    vertices, share = sheet.reshape(-1, 3).astype(np.float32), rng.random((len(edges), 1), np.float32)
    points = vertices[edges[:, 0]] * (1 - share) + vertices[edges[:, 1]] * share
    points = points[(points[:, :2].min(1) > 3) & (points[:, :2].max(1) < 115)]
    points[:, 2] = -10
    hits = rendering._scene(vertices, faces).run(points, np.array([[0, 0, 1]], np.float32))
    assert len(hits) > 10_000
    assert (hits >= 0).all()


def test_the_nearer_person_is_seen() -> None:
    near, far = standing(8.0), Mesh(standing(9.0).vertices_m, standing().faces, rendering.SKINS[1])
    one, other = (render_meshes(order, 600, (80, 60), (120, 160)) for order in ([near, far], [far, near]))
    assert one.depth_m == pytest.approx(other.depth_m, abs=1e-5)
    assert one.colour == pytest.approx(other.colour, abs=1e-2)
    alone = render_meshes([near], 600, (80, 60), (120, 160))
    inner = alone.coverage == 1
    assert one.depth_m[inner] == pytest.approx(alone.depth_m[inner], abs=1e-3)
    assert one.colour[60, 80, 2] > one.colour[60, 80, 1]  # blue, not green


@pytest.mark.parametrize("depth_m", [-10.0, 0.0, 1e13])
def test_people_behind_the_camera_or_nowhere_near_are_not_drawn_over(depth_m: float) -> None:
    mesh = standing(0.0)
    mesh = Mesh(mesh.vertices_m + np.array([0, 0, depth_m]), mesh.faces)
    drawn = overlay_meshes(GREY, [mesh], 500, (80, 60))
    assert drawn.shape == GREY.shape
    if depth_m:
        assert (drawn != GREY).any(2).sum() <= 1
    assert render_meshes([], 500, (80, 60), (120, 160)).coverage.max() == 0


def test_overlay_is_half_open_and_leaves_the_rest_alone() -> None:
    mesh = standing()
    drawn = render_meshes([mesh], 450, (80, 60), (120, 160))
    out = overlay_meshes(GREY, [mesh], 450, (80, 60), opacity=0.75)
    assert np.array_equal(out[drawn.coverage == 0], GREY[drawn.coverage == 0])
    inner = drawn.coverage == 1
    assert out[inner] == pytest.approx(0.25 * 128 + 0.75 * drawn.colour[inner], abs=0.51)
    assert np.array_equal(out, overlay_meshes(GREY, [mesh], 450, (80, 60), opacity=0.75))


def test_shading_shows_form() -> None:
    """Lit from the upper left: a ball is brighter there, darkest at the lower right, and smooth between."""
    index = np.arange(2000) + 0.5
    height, angle = 1 - 2 * index / 2000, np.pi * (1 + 5**0.5) * index
    ring = np.sqrt(1 - height**2)
    ball = np.stack([np.cos(angle) * ring, np.sin(angle) * ring, height], axis=1)
    faces = ConvexHull(ball).simplices
    a, b, c = (ball[faces[:, k]] for k in range(3))
    inwards = (np.cross(b - a, c - a) * a).sum(1) < 0
    faces[inwards] = faces[inwards][:, ::-1]
    drawn = render_meshes([Mesh(ball + np.array([0, 0, 20]), faces)], 900, (80, 60), (120, 160))
    brightness = drawn.colour.mean(2)
    assert brightness[60 - 22, 80 - 15] > brightness[60, 80] > brightness[60 + 30, 80 + 20] > 20
    assert np.abs(np.diff(brightness[60, 45:115])).max() < 8


@pytest.mark.parametrize("count", [1, 2, 5])
def test_side_view(count: int) -> None:
    """Who faces the camera faces left: toes are left of the body. Everybody has the same height."""
    meshes = [Mesh(standing(10 + i, x_m=i).vertices_m, standing().faces, rendering.SKINS[i]) for i in range(count)]
    view = side_view(meshes, 240)
    rows = round(count**0.5)
    columns = -(-count // rows)
    assert len(view) == 240
    assert view.shape[1] % columns == 0
    cell_height, cell_width = 240 // rows, view.shape[1] // columns
    heights = []
    for i in range(count):
        top, left = i // columns * cell_height, i % columns * cell_width
        mask = (view[top : top + cell_height, left : left + cell_width] < overlay.BACKGROUND - 3).any(2)
        x0, y0, x1, y1 = extent(mask)
        heights.append(y1 - y0)
        assert np.nonzero(mask[y1 - 3 : y1])[1].mean() < np.nonzero(mask)[1].mean()
        assert 0 <= x0 < x1 < cell_width
    assert max(heights) - min(heights) <= 1
    assert heights[0] == pytest.approx(0.9 * cell_height, abs=2)
    assert side_view([], 100).shape[0] == 100


def test_a_mesh_that_is_not_finite_is_an_error() -> None:
    mesh = standing()
    broken = mesh.vertices_m.copy()
    broken[3] = np.nan
    with pytest.raises(HmrbenchError, match="mesh 1 is not finite"):
        render_meshes([mesh, Mesh(broken, mesh.faces)], 500, (80, 60), (120, 160))


def test_without_the_renderer_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "embreex.rtcore_scene", None)
    with pytest.raises(UsageError, match="pip install embreex"):
        render_meshes([standing()], 500, (80, 60), (120, 160))


# --- files


def read_obj(path: Path) -> tuple[Array, Array]:
    lines = [line.split() for line in path.read_text().splitlines()]
    vertices = np.array([line[1:] for line in lines if line[0] == "v"], float)
    return vertices, np.array([line[1:] for line in lines if line[0] == "f"], int) - 1


def read_ply(path: Path) -> tuple[Array, Array]:
    header, _, content = path.read_bytes().partition(b"end_header\n")
    counts = [int(line.split()[2]) for line in header.decode().splitlines() if line.startswith("element")]
    vertices = np.frombuffer(content, "<f4", 3 * counts[0]).reshape(-1, 3)
    faces = [struct.unpack_from("<Biii", content, 12 * counts[0] + 13 * i) for i in range(counts[1])]
    assert len(content) == 12 * counts[0] + 13 * counts[1]
    assert {face[0] for face in faces} == {3}
    return vertices, np.array(faces)[:, 1:]


@pytest.mark.parametrize(("suffix", "read"), [("obj", read_obj), ("ply", read_ply)])
def test_saved_meshes_stand_upright(suffix: str, read: object, tmp_path: Path) -> None:
    mesh = standing(10)
    save_mesh(mesh, tmp_path / f"person.{suffix}")
    vertices, faces = read(tmp_path / f"person.{suffix}")  # type: ignore[operator]
    assert np.array_equal(faces, mesh.faces)
    assert vertices == pytest.approx(mesh.vertices_m * [1, -1, -1], abs=1e-5)
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    assert (a * np.cross(b, c)).sum() > 0  # a positive volume: the outside is still outside
    assert [p.name for p in tmp_path.iterdir()] == [f"person.{suffix}"]


def test_other_mesh_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.obj, \.ply or \.npz"):
        save_mesh(standing(), tmp_path / "person.stl")
