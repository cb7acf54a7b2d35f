"""From photograph and box to keypoints as mmpose's own test path: crop, network, mirror image, codec."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace

import numpy as np
import pytest
import refio
import seeding
import torch
from conftest import prepare_job
from drawn import OPENCV_5

from hmrbench import evaluation, zoo
from hmrbench.data.crop import crop_people, expand_boxes
from hmrbench.data.images import read_image
from hmrbench.nets.record import known_networks

INPUT = (256, 192)
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


@pytest.fixture(scope="module")
def people(coco_mini, refs):
    """Normalised pictures (4, 3, 256, 192)."""
    truth = json.loads((coco_mini / "annotations" / "person_keypoints_val2017.json").read_text())
    names = {image["id"]: image["file_name"] for image in truth["images"]}
    persons = {person["id"]: person for person in truth["annotations"]}
    chosen = [persons[int(i)] for i in np.load(refs / "poses/end_to_end.npz")["ann_ids"]]
    center, size = expand_boxes(np.array([person["bbox"] for person in chosen]), aspect=192 / 256)
    pixels = np.empty((len(chosen), *INPUT, 3), np.float32)
    for i, person in enumerate(chosen):
        photograph = read_image(coco_mini / "val2017" / names[person["image_id"]])
        pixels[i] = crop_people(photograph, center[i : i + 1], size[i : i + 1], INPUT, "classic")[0]
    return ((pixels - np.float32(MEAN)) / np.float32(STD)).transpose(0, 3, 1, 2)


def test_pictures_are_the_official_ones(people, refs):
    with np.load(refs / "poses/end_to_end.npz") as official:
        assert refio.error(official, "input", people) < (1e-5 if OPENCV_5 else 0.05)


@pytest.mark.skipif(not OPENCV_5, reason="seeded networks see the rounding of OpenCV 4 in other maxima")
@pytest.mark.parametrize("name", ["simplebaseline-res50", "hrnet-w32", "simcc-res50", "rtmpose-t"])
@torch.no_grad()
def test_keypoints_are_the_official_ones(coco_mini, people, refs, name):
    """The card's crop, codec, flip shift and mean, as `eval` and `predict` run them."""
    layouts = json.loads(gzip.decompress((refs / "poses" / "layouts.json.gz").read_bytes()))
    key = name.replace("-", "_")
    job = prepare_job(name, "coco-val", weights="random", data_root=coco_mini, boxes="gt", batch_size=4, device="cpu")
    official_key = {known_networks()[name].layout.ours(k): k for k in layouts[key]}
    net = seeding.seed_module_(zoo.build_net(job.card).eval(), official_key.__getitem__)
    with np.load(refs / "poses/end_to_end.npz") as official:
        if known_networks()[name].output == "heatmap":
            images = torch.from_numpy(np.ascontiguousarray(people))
            output = job.codec.merge(net(images), job.codec.flip_back(net(images.flip(3)), job.dataset.skeleton))
            assert refio.error(official, f"{key}.heatmap_flip_avg_shifted", output.numpy()) < 2e-3
        by_id = {sample.id: sample for sample in job.dataset.samples}
        boxes = job.dataset.truth.anns  # the reference takes them as they are annotated, not cut off at the border
        chosen = tuple(
            replace(by_id[f"ann {i}"], box_xywh_px=tuple(boxes[int(i)]["bbox"])) for i in official["ann_ids"]
        )
        job = replace(job, dataset=replace(job.dataset, samples=chosen))
        found = {}
        for index, batch in evaluation.predict(net, job, range(len(chosen))):
            found |= dict(zip(index.tolist(), batch, strict=True))
        predicted = [found[i] for i in range(len(found))]
        keypoints = np.stack([person.keypoints_px for person in predicted])
        assert np.abs(keypoints - official[f"{key}.keypoints"]).max() < 0.01
        np.testing.assert_allclose([p.scores for p in predicted], official[f"{key}.scores"], rtol=1e-3)
