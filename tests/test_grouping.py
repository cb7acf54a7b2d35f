"""People out of heatmaps and tags: the official numbers, planted people, and what only shows at the edges."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import refio
import torch
from torch import Tensor

from hmrbench.codecs import Crops, find_codec, grouping
from hmrbench.data.crop import crop_matrix, whole_picture
from hmrbench.errors import DataError, HmrbenchError
from hmrbench.records import Array
from hmrbench.skeletons import COCO17

Official = dict[str, Array]
SIZE = (128, 96)  # of the input of the official numbers


@pytest.fixture(scope="module")
def official_groups(refs: Path) -> Official:
    with np.load(refs / "poses" / "grouping.npz") as file:
        return dict(file)


def views(official: Official) -> grouping.Output:
    """The official outputs for a picture and its mirror image, merged."""
    output, flipped = (
        (torch.from_numpy(official[f"out0{name}"]).float(), torch.from_numpy(official[f"out1{name}"]).float())
        for name in ("", "_of_flipped_image")
    )
    return grouping.merge(output, grouping.flip_back(flipped, COCO17))


# --------------------------------------------------------------------------- the official numbers


def test_maps_and_peaks_are_the_official_ones(official_groups: Official) -> None:
    coarse, fine = views(official_groups)
    heatmaps, tags = grouping.full_maps(coarse[0], fine[0], SIZE, 2)
    assert refio.error(official_groups, "heatmaps", heatmaps[None].numpy()) < 1e-6
    assert refio.error(official_groups, "tags", tags[None].numpy()) < 1e-6
    peaks = grouping.find_peaks(heatmaps, tags)
    count = official_groups["top_k.val"].shape[2]
    np.testing.assert_array_equal(peaks.values[:, :count], official_groups["top_k.val"][0])
    at = peaks.values[:, :count] > 0  # where nothing is left, any place may be named
    np.testing.assert_array_equal(peaks.cells[:, :count][at], official_groups["top_k.loc"][0][at])


def test_people_are_the_official_ones(official_groups: Official) -> None:
    coarse, fine = views(official_groups)
    heatmaps, tags = grouping.full_maps(coarse[0], fine[0], SIZE, 2)
    cells, values = grouping.match(grouping.find_peaks(heatmaps, tags))
    matched = official_groups["grouped.matched"]
    assert (matched[..., 2] == 0).sum() == 25  # so that joints are missing
    np.testing.assert_array_equal(cells, matched[..., :2])
    np.testing.assert_array_equal(values, matched[..., 2])
    cells, values, scores = grouping.group(heatmaps, tags)
    final = official_groups["grouped.final"]
    np.testing.assert_allclose(cells, final[..., :2], atol=1e-4)
    np.testing.assert_array_equal(values, final[..., 2])
    np.testing.assert_allclose(scores, official_groups["scores"], rtol=1e-6)


def test_keypoints_in_the_image_are_the_official_ones(official_groups: Official) -> None:
    crops = Crops(official_groups["center"][None], official_groups["scale"][None] * 200, SIZE)
    (keypoints,), (values,), (scores,) = find_codec("grouping").decode(views(official_groups), crops)
    np.testing.assert_allclose(keypoints, official_groups["image_keypoints"][..., :2], atol=1e-4)
    np.testing.assert_array_equal(values, official_groups["image_keypoints"][..., 2])
    np.testing.assert_allclose(scores, official_groups["scores"], rtol=1e-6)


@pytest.mark.parametrize("name", ["427x640", "640x427", "500x500", "333x500", "1200x800"])
def test_sizes_are_the_official_ones(official_groups: Official, name: str) -> None:
    height, width = map(int, name.split("x"))
    crops = whole_picture((width, height), (448, 448))
    official = official_groups[f"resize.{name}"]
    assert crops.input_size == (official[1], official[0])
    np.testing.assert_array_equal(crops.center_px[0], official[2:4])
    np.testing.assert_allclose(crops.size_px[0], official[4:] * 200, rtol=1e-12)
    matrix = crop_matrix(crops.center_px[0], crops.size_px[0], crops.input_size, "classic")
    np.testing.assert_array_equal(matrix, official_groups[f"resize.{name}.matrix"])


@pytest.mark.parametrize(
    ("wh", "input_size", "expected"),
    [
        ((640, 480), (448, 448), (448, 640)),
        ((480, 640), (448, 448), (640, 448)),
        ((640, 480), (256, 256), (256, 384)),
        ((640, 480), (512, 512), (512, 704)),
        ((10, 10), (500, 600), (512, 512)),  # the shorter side counts, up to the next multiple of 64
        ((1, 18), (448, 448), (8064, 448)),
    ],
)
def test_the_shorter_side_is_that_of_the_input(
    wh: tuple[int, int], input_size: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert whole_picture(wh, input_size).input_size == expected


def test_a_long_and_thin_picture_is_refused() -> None:
    with pytest.raises(DataError, match=r"1x100000 is too long and thin.* has 44800000, more than 8192"):
        whole_picture((1, 100_000), (448, 448))


# --------------------------------------------------------------------------- planted people


def plant(
    people: list[dict[int, tuple[int, int]]], tags: list[float], size: tuple[int, int] = (64, 96), height: float = 0.9
) -> tuple[Tensor, Tensor]:
    """Heatmaps (K, H, W) with a peak of width 3 at each joint (x, y) of each person, tags (K, H, W, 1) around it."""
    heatmaps, tag_maps = torch.zeros(17, *size), torch.full((17, *size, 1), 50.0)
    rows, columns = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    for n, (person, tag) in enumerate(zip(people, tags, strict=True)):
        for joint, (x, y) in person.items():
            squared = (columns - x) ** 2 + (rows - y) ** 2
            heatmaps[joint] = torch.maximum(heatmaps[joint], (height - 0.01 * n) * torch.exp(-squared / 4.5))
            tag_maps[joint][squared <= 9] = tag
    return heatmaps, tag_maps


def crowd(seed: int, count: int, size: tuple[int, int] = (64, 96)) -> list[dict[int, tuple[int, int]]]:
    """People whose joints of one kind are at least 12 cells apart, and as far from the border."""
    rng = np.random.default_rng(seed)
    places = [(x, y) for x in range(12, size[1] - 11, 12) for y in range(12, size[0] - 11, 12)]
    drawn = [rng.permutation(len(places))[:count] for _ in range(17)]
    return [{k: places[drawn[k][n]] for k in range(17)} for n in range(count)]


@pytest.mark.parametrize("seed", range(3))
def test_planted_people_are_found(seed: int) -> None:
    people, tags = crowd(seed, 5), [0.0, 2.0, -2.0, 4.0, 6.5]
    cells, values, scores = grouping.group(*plant(people, tags))
    assert cells.shape == (5, 17, 2)
    found = {tuple(map(int, cells[n, 0])): n for n in range(5)}
    for n, person in enumerate(people):
        mine = found[person[0]]
        # Neighbours are equal, so that a quarter goes up and to the left of the middle of the cell.
        np.testing.assert_allclose(cells[mine], np.array([person[k] for k in range(17)]) + 0.25)
        assert scores[mine] == pytest.approx(0.9 - 0.01 * n, abs=1e-6)
        np.testing.assert_allclose(values[mine], scores[mine], atol=1e-6)


def test_the_tags_decide_and_not_the_places() -> None:
    """Two people side by side whose lower halves changed places: who belongs together, the tags say."""
    people = [
        {k: upper if k < 11 else lower for k in range(17)}
        for upper, lower in (((20, 20), (60, 40)), ((60, 20), (20, 40)))
    ]
    cells, _, _ = grouping.group(*plant(people, [1.0, 3.0]))
    assert cells.shape[0] == 2
    assert {(*map(int, one[0]), *map(int, one[16])) for one in cells} == {(20, 20, 60, 40), (60, 20, 20, 40)}


def test_a_missing_joint_is_looked_for_where_the_tag_is_alike() -> None:
    """Below the threshold of peaks, and next to a higher one of somebody else."""
    people, tags = crowd(0, 2), [1.0, 5.0]
    whole = plant(people, tags)
    faint = whole[0].clone()
    x, y = people[0][9]
    faint[9, y - 3 : y + 4, x - 3 : x + 4] *= 0.1 / 0.95  # 0.0947 at its highest
    cells, values, scores = grouping.group(faint, whole[1])
    mine = int(np.flatnonzero((cells[:, 0].astype(int) == people[0][0]).all(1))[0])
    np.testing.assert_allclose(cells[mine, 9], np.array([x, y]) + 0.25)
    assert values[mine, 9] == pytest.approx(0.9 * 0.1 / 0.95, rel=1e-5)
    assert scores[mine] == pytest.approx(0.9 * 16 / 17, rel=1e-5)  # taken before


def test_what_is_nowhere_positive_stays_missing() -> None:
    person = {k: (20 + 2 * k, 30) for k in range(17) if k != 3}
    heatmaps, tags = plant([person], [1.0])
    cells, values, scores = grouping.group(heatmaps, tags)
    assert (cells[0, 3].tolist(), values[0, 3]) == ([0.0, 0.0], 0.0)
    assert scores[0] == pytest.approx(0.9 * 16 / 17, rel=1e-5)


def test_nobody() -> None:
    cells, values, scores = grouping.group(torch.full((17, 64, 64), 0.1), torch.zeros(17, 64, 64, 2))
    assert (cells.shape, values.shape, scores.shape) == ((0, 17, 2), (0, 17), (0,))


def test_no_more_than_thirty_peaks_of_a_joint() -> None:
    places = [(4 + 6 * (n % 10), 4 + 6 * (n // 10)) for n in range(40)]
    heatmaps, tags = plant([{0: place} for place in places], [2.0 * n for n in range(40)])
    assert len(grouping.group(heatmaps, tags)[0]) == 30
    # Another joint's peaks join these, and begin people of their own beyond them.
    heatmaps[1], tags[1] = heatmaps[0].flip(-1), -2 - tags[0].flip(-2)
    assert len(grouping.group(heatmaps, tags)[0]) == 60


def test_two_who_begin_with_the_very_same_tag_are_one() -> None:
    """An official quirk: people are named by their first tag."""
    cells, _, _ = grouping.group(*plant([{0: (20, 20)}, {0: (60, 40)}], [1.0, 1.0]))
    assert len(cells) == 1
    assert cells[0, 0].astype(int).tolist() == [60, 40]  # the lower one comes last


@pytest.mark.parametrize("corner", [(0, 0), (95, 0), (0, 63), (95, 63)])
def test_a_peak_in_the_corner(corner: tuple[int, int]) -> None:
    cells, _, _ = grouping.group(*plant([dict.fromkeys(range(17), corner)], [1.0]))
    # Beyond the border stands the cell itself, so that the other neighbour is lower.
    quarter = [0.25 if at else -0.25 for at in corner]
    np.testing.assert_allclose(cells[0], np.tile(np.array(corner) + 0.5 + quarter, (17, 1)))


# --------------------------------------------------------------------------- the codec


def outputs(people: list[dict[int, tuple[int, int]]], tags: list[float]) -> grouping.Output:
    """What a network that finds these people puts out for one picture; cells are those of the second output."""
    heatmaps, tag_maps = plant(people, tags)
    coarse = torch.cat([heatmaps, tag_maps[..., 0]])[None, :, ::2, ::2]
    return coarse, heatmaps[None]


def test_a_picture_and_its_mirror_image_say_the_same() -> None:
    people, tags = crowd(1, 3), [1.0, 3.0, 5.0]
    output = outputs(people, tags)
    mirrored = [{COCO17.flip_order[k]: (95 - x, y) for k, (x, y) in person.items()} for person in people]
    coarse, fine = outputs(mirrored, tags)
    fine_back = grouping.flip_back((coarse, fine), COCO17)[1]
    torch.testing.assert_close(fine_back, output[1])
    # A flip of what was flipped is what was there.
    twice = grouping.flip_back(grouping.flip_back(output, COCO17), COCO17)
    assert all(torch.equal(a, b) for a, b in zip(twice, output, strict=True))
    crops = whole_picture((192, 128), (128, 128))
    alone = grouping.decode(output, crops)
    both = grouping.decode(grouping.merge(output, output), crops)
    for a, b in zip(alone, both, strict=True):
        np.testing.assert_allclose(a[0], b[0], atol=1e-6)
    for n, person in enumerate(people):
        nearest = np.abs(alone[0][0][:, :, :] - 2 * np.array([person[k] for k in range(17)])).max((1, 2))
        assert nearest.min() < 3, n


def test_pictures_of_a_batch_do_not_meet() -> None:
    first, second = outputs(crowd(1, 3), [1.0, 3.0, 5.0]), outputs(crowd(2, 1), [1.0])
    batch = tuple(torch.cat(pair) for pair in zip(first, second, strict=True))
    wide, small = whole_picture((192, 128), (128, 128)), whole_picture((96, 64), (128, 128))
    center, size = (np.concatenate([getattr(c, name) for c in (wide, small)]) for name in ("center_px", "size_px"))
    found = grouping.decode(batch, Crops(center, size, wide.input_size))  # type: ignore[arg-type]
    for values in found:
        assert [len(v) for v in values] == [3, 1]
    for i, (output, crops) in enumerate(((first, wide), (second, small))):
        for together, alone in zip(found, grouping.decode(output, crops), strict=True):
            np.testing.assert_array_equal(together[i], alone[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c, f: (c[:, :-1], f), "heatmaps with tags and heatmaps of 17 joints"),
        (lambda c, f: (c, f[0]), "heatmaps with tags and heatmaps of 17 joints"),
        (lambda c, f: (torch.cat([c, c]), torch.cat([f, f])), "2 outputs for 1 pictures"),
        (lambda c, f: (c * torch.nan, f), "row 0 of the batch are not finite"),
        (lambda c, f: (c, f.where(f < 0.5, torch.inf)), "row 0 of the batch are not finite"),
    ],
)
def test_what_is_no_such_output_is_refused(change: object, message: str) -> None:
    output = change(*outputs(crowd(0, 2), [1.0, 3.0]))  # type: ignore[operator]
    with pytest.raises(HmrbenchError, match=message):
        grouping.decode(output, whole_picture((192, 128), (128, 128)))
    if output[0].ndim != output[1].ndim or output[0].shape[1] != 34:
        with pytest.raises(HmrbenchError, match="do not fit the 17 joints"):
            grouping.flip_back(output, COCO17)


def test_tags_beyond_what_can_be_compared() -> None:
    tags = np.tile(np.array([[3e38], [-3e38]], np.float32), (17, 1, 1))
    with pytest.raises(HmrbenchError, match="tags are too far apart"):
        grouping.match(grouping.Peaks(np.ones((17, 2), np.float32), np.zeros((17, 2, 2), np.int64), tags))
