"""The embedded demo world is what its seed draws, and both of its layouts agree."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from hmrbench_synth import demo_scene

from hmrbench import data
from hmrbench.data.images import read_image

SEED = 2026
POSE, MESH = data.load_spec("demo-pose"), data.load_spec("demo-mesh")
FOLDER = data.find_folder(POSE, None)


@pytest.mark.parametrize("index", [0, 1, 57, 219])
def test_the_shipped_pictures_and_annotations_are_those_of_the_seed(index: int) -> None:
    truth = json.loads((FOLDER / POSE.annotations).read_text())
    assert truth["info"]["seed"] == SEED
    assert truth["info"]["split"] == "test"
    shipped = [a for a in truth["annotations"] if a["image_id"] == index + 1]
    scene = demo_scene(SEED, "test", index)
    assert len(scene.people) == len(shipped)
    for person, annotation in zip(scene.people, shipped, strict=True):
        found = np.array(annotation["keypoints"]).reshape(17, 3)
        np.testing.assert_allclose(person.keypoints_px, found, atol=0.011)
    picture = read_image(FOLDER / POSE.images / truth["images"][index]["file_name"])
    assert picture.shape == scene.image.shape
    difference = cv2.absdiff(picture, scene.image)
    assert difference.mean() < 4  # JPEG


def test_both_layouts_are_the_same_people() -> None:
    pose, mesh = data.open_dataset(POSE, None), data.open_dataset(MESH, None)
    assert len(pose.samples) == len(mesh.samples) == 290
    assert [s.image for s in pose.samples] == [s.image for s in mesh.samples]
    nose = mesh.truth["keypoints_px"][:, 0]  # OpenPose's first joint
    for sample, annotation, xy in zip(pose.samples, pose.truth.dataset["annotations"], nose, strict=True):
        assert sample.id == f"ann {annotation['id']}"
        if annotation["keypoints"][2]:
            assert np.linalg.norm(np.array(annotation["keypoints"][:2]) - xy) < 12


def test_it_is_small() -> None:
    assert sum(p.stat().st_size for p in FOLDER.rglob("*") if p.is_file()) < 8e6
