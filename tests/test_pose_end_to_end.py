"""From photograph and box to keypoints as mmpose's own test path: crop, network, mirror image, codec."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
import refio
import seeding
import torch

from hmrbench.codecs import Crops, msra, simcc
from hmrbench.data.crop import crop_people, expand_boxes
from hmrbench.data.images import read_image
from hmrbench.nets.record import known_networks
from hmrbench.skeletons import COCO17

INPUT = (256, 192)
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


@pytest.fixture(scope="module")
def people(coco_mini, refs):
    """Normalised pictures (4, 3, 256, 192) and their crops."""
    truth = json.loads((coco_mini / "annotations" / "person_keypoints_val2017.json").read_text())
    names = {image["id"]: image["file_name"] for image in truth["images"]}
    persons = {person["id"]: person for person in truth["annotations"]}
    chosen = [persons[int(i)] for i in np.load(refs / "poses/end_to_end.npz")["ann_ids"]]
    center, size = expand_boxes(np.array([person["bbox"] for person in chosen]), aspect=192 / 256)
    pixels = np.empty((len(chosen), *INPUT, 3), np.float32)
    for i, person in enumerate(chosen):
        photograph = read_image(coco_mini / "val2017" / names[person["image_id"]])
        pixels[i] = crop_people(photograph, center[i : i + 1], size[i : i + 1], INPUT, "classic")[0]
    images = torch.from_numpy((pixels - np.float32(MEAN)) / np.float32(STD)).permute(0, 3, 1, 2).contiguous()
    return images, Crops(center, size, INPUT)


def test_pictures_are_the_official_ones(people, refs):
    with np.load(refs / "poses/end_to_end.npz") as official:
        assert refio.error(official, "input", people[0].numpy()) < 1e-5


@pytest.mark.parametrize("name", ["simplebaseline-res50", "hrnet-w32", "simcc-res50", "rtmpose-t"])
@torch.no_grad()
def test_keypoints_are_the_official_ones(people, refs, name):
    images, crops = people
    record, key = known_networks()[name], name.replace("-", "_")
    layouts = json.loads(gzip.decompress((refs / "poses" / "layouts.json.gz").read_bytes()))
    official_key = {record.layout.ours(k): k for k in layouts[key]}
    net = seeding.seed_module_(record.build(INPUT).eval(), official_key.__getitem__)
    output, mirrored = net(images), net(images.flip(-1))
    with np.load(refs / "poses/end_to_end.npz") as official:
        if record.output == "heatmap":
            output = (output + msra.MMPOSE1.flip_back(mirrored, COCO17)) / 2
            assert refio.error(official, f"{key}.heatmap_flip_avg_shifted", output.numpy()) < 2e-3
            keypoints, scores = msra.MMPOSE1.decode(output, crops)
        else:
            output = simcc.merge(output, simcc.SIMCC.flip_back(mirrored, COCO17), simcc.MMPOSE_RULE)
            keypoints, scores = simcc.SIMCC.decode(output, crops)
        assert np.abs(keypoints - official[f"{key}.keypoints"]).max() < 0.01
        np.testing.assert_allclose(scores, official[f"{key}.scores"], rtol=1e-3)
