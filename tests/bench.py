"""Speed, as ratios taken in one run: `make bench`. Nothing here is a test; machines differ and are noisy.

Each pair is timed in turns, A B A B, so that a change of the machine's speed meets both alike.
"""

from __future__ import annotations

import argparse
import io
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from pycocotools.cocoeval import COCOeval
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import reference
from conftest import make_coco, prepare_job

from hmrbench import data, evaluation, zoo
from hmrbench.cards import load_card
from hmrbench.codecs import Crops, find_codec
from hmrbench.data.loader import CropSettings, batches, crop_image
from hmrbench.device import keep_freed_memory
from hmrbench.files.coco_json import make_coco as make_truth
from hmrbench.metrics import mpjpe, pa_mpjpe
from hmrbench.metrics.coco_keypoints import measure_results
from hmrbench.metrics.coco_matches import ap_of_resamples
from hmrbench.nets.fusion import fuse
from hmrbench.profiling import profile_model
from hmrbench.profiling.flops import count
from hmrbench.profiling.latency import bare_rate
from hmrbench.records import Dataset
from hmrbench.zoo import create_encoder


def in_turns(a: Callable[[], object], b: Callable[[], object], rounds: int) -> tuple[float, float]:
    """Median seconds of A and of B, run alternately after one warm-up each."""
    a(), b()
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for kept, run in zip(times, (a, b), strict=True):
            start = time.perf_counter()
            run()
            kept.append(time.perf_counter() - start)
    return statistics.median(times[0]), statistics.median(times[1])


def report(what: str, ours: float, other: float) -> None:
    """One line: ours, the other, and how many times faster ours is."""
    print(f"{what:74s} {ours:9.4f} {other:9.4f} s  {other / ours:6.2f}x", flush=True)


def big_coco(folder: Path, images: int, people: int) -> Dataset:
    """Generated 640x480 JPEG pictures with many people each, as detectors find them in COCO."""
    make_coco(folder, (people,) * images, size=(640, 480))
    rng = np.random.default_rng(0)
    texture = cv2.resize(rng.integers(0, 256, (48, 64, 3), np.uint8), (640, 480), interpolation=cv2.INTER_CUBIC)
    for path in (folder / "val2017").iterdir():
        cv2.imwrite(str(path), texture)
    return data.open_dataset(data.load_spec("coco-val"), folder, "det")


def bench_loop(folder: Path, model: str, people: int, rounds: int) -> None:
    """End-to-end evaluation against the network's bare forward rate with the same batch and precision."""
    dataset = big_coco(folder, images=max(1, people // 8), people=7)
    job = prepare_job(model, "coco-val", weights="random", opened=dataset, batch_size=8, device="cpu")
    net, _ = zoo.load_weights(job.card, None)
    count = len(dataset.samples)
    x = torch.randn(8, 3, *job.card.input)

    @torch.inference_mode()
    def bare() -> None:
        for start in range(0, count, 8):
            net(x[: min(8, count - start)])
            net(x[: min(8, count - start)])  # the mirrored picture

    loop, forward = in_turns(lambda: evaluation.predict_all(net, job), bare, rounds)
    what = f"evaluation of {model}, people/s against bare forwards"
    print(f"{what:74s} {count / loop:9.2f} {count / forward:9.2f} /s  {100 * forward / loop:5.1f} %", flush=True)


def bench_loading(folder: Path, rounds: int) -> None:
    """Crops per second when a picture is read once, against reading it once per person, one thread each."""
    dataset = big_coco(folder, images=12, people=20)  # COCO val2017 has 104,125 detector boxes on 5,000 images: 21 each
    settings = CropSettings(load_card("vitpose-s").crop, (256, 192), "udp")

    def once_per_person() -> None:
        for sample in dataset.samples:
            crop_image(sample.image, [sample], settings)

    def ours() -> None:
        for _ in batches(dataset.samples, range(len(dataset.samples)), settings, 64, workers=1):
            pass

    fast, slow = in_turns(ours, once_per_person, rounds)
    report(f"{len(dataset.samples)} crops out of {12} pictures; reading each once per box", fast, slow)


def bench_decoding(rounds: int) -> None:
    """Decoding of heatmaps against the official way, one map at a time."""
    rng = np.random.default_rng(0)
    heatmaps = reference_heatmaps(rng, 64)
    crops = Crops(np.full((64, 2), 100.0), np.tile([150.0, 200.0], (64, 1)), (256, 192))
    for name in ("udp", "plain", "dark"):
        codec = find_codec(name)
        maps = torch.from_numpy(heatmaps)
        one_by_one = partial(reference.decode_heatmaps, heatmaps, crops.center_px, crops.size_px, name)
        fast_s, slow_s = in_turns(partial(codec.decode, maps, crops), one_by_one, rounds)
        report(f"decode 64 people, codec {name}; one map at a time as in mmpose", fast_s, slow_s)


def reference_heatmaps(rng: np.random.Generator, people: int) -> np.ndarray:
    """Gaussian peaks with noise, (B, 17, 64, 48) float32."""
    x, y = rng.uniform(4, 44, (people, 17, 1, 1)), rng.uniform(4, 60, (people, 17, 1, 1))
    grid_y, grid_x = np.mgrid[:64, :48]
    peaks = np.exp(-((grid_x - x) ** 2 + (grid_y - y) ** 2) / 8)
    return (peaks + 0.01 * rng.random(peaks.shape)).astype(np.float32)


def bench_metrics(rounds: int) -> None:
    """MPJPE and PA-MPJPE of as many poses as 3DPW-test has, against one batched singular value decomposition."""
    rng = np.random.default_rng(0)
    gt = rng.normal(0, 0.3, (35515, 14, 3)).astype(np.float32)
    pred = gt + rng.normal(0, 0.05, gt.shape).astype(np.float32)

    def by_svd() -> None:
        a, b = torch.from_numpy(pred), torch.from_numpy(gt)
        (a - b).norm(dim=-1).mean(-1)
        a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
        u, s, vh = torch.linalg.svd(a.mT @ b)
        sign = torch.ones_like(s)
        sign[:, 2] = torch.det(u @ vh).sign()
        rotation = (u * sign[:, None]) @ vh
        scale = (s * sign).sum(-1) / (a**2).sum((1, 2))
        (scale[:, None, None] * a @ rotation - b).norm(dim=-1).mean(-1)

    fast, slow = in_turns(lambda: (mpjpe(pred, gt), pa_mpjpe(pred, gt)), by_svd, rounds)
    report("MPJPE and PA-MPJPE of 35,515 poses; batched SVD in float32", fast, slow)


def bench_scoring(rounds: int) -> None:
    """All that a COCO row reports against pycocotools' ten numbers, for as many people and detections as val2017 has,
    and AP's intervals from 1,000 resamples of two runs."""
    truth, results = coco_scene(people=5955, detections=12)
    coco = make_truth(truth)

    def official() -> None:
        copies = make_truth({**truth, "annotations": [dict(a) for a in truth["annotations"]]})
        with redirect_stdout(io.StringIO()):
            evaluator = COCOeval(copies, copies.loadRes([dict(r) for r in results]), "keypoints")
            evaluator.evaluate(), evaluator.accumulate(), evaluator.summarize()

    fast, slow = in_turns(partial(measure_results, coco, results), official, rounds)
    report(f"score {len(results):,} detections; pycocotools", fast, slow)
    per_sample = measure_results(coco, results).per_sample
    images = len(per_sample["truths"])
    counts = np.random.default_rng(0).multinomial(images, np.full(images, 1 / images), size=1000)
    start = time.perf_counter()
    for _ in range(2):
        ap_of_resamples(per_sample, counts)
    print(f"{'AP of 1,000 resamples of two runs':74s} {time.perf_counter() - start:9.2f} s", flush=True)


def coco_scene(people: int, detections: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Annotations of generated people, and each found so many times, more or less well."""
    rng = np.random.default_rng(0)
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for n, image in enumerate(np.sort(rng.integers(0, people * 2 // 5, people)).tolist()):
        box = [*rng.uniform(0, 300, 2).tolist(), *rng.uniform(20, 300, 2).tolist()]
        xy = np.round(rng.uniform(0, 1, (17, 2)) * box[2:] + box[:2])
        shared = {"image_id": image, "category_id": 1}
        keypoints = np.column_stack([xy, np.full(17, 2)]).ravel().tolist()
        size = {"bbox": box, "area": 0.6 * box[2] * box[3], "iscrowd": 0, "num_keypoints": 17}
        annotations.append({**shared, **size, "id": n + 1, "keypoints": keypoints})
        for _ in range(detections):
            moved = xy + rng.normal(0, rng.uniform(0, 0.2), (17, 2)) * box[3]
            found = np.column_stack([moved, np.ones(17)]).ravel().tolist()
            results.append({**shared, "keypoints": found, "score": float(rng.random())})
    images = [{"id": i} for i in range(people * 2 // 5)]
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]}, results


def bench_encoders(rounds: int) -> None:
    """Encoders against timm's networks of the same sizes, at 256x192, eager."""
    keep_freed_memory(torch.device("cpu"))
    for name, other in (("vit-b", timm_vit), ("swin-t", timm_swin)):
        ours, theirs = create_encoder(name).eval(), other().eval()
        fuse(ours)
        for batch_size in (1, 8):
            x = torch.randn(batch_size, 3, 256, 192)
            with torch.inference_mode():
                fast, slow = in_turns(partial(ours, x), partial(theirs, x), rounds)
            report(f"{name}, batch size {batch_size}; timm", fast, slow)


def bench_matrix_rate(rounds: int) -> None:
    """Multiply-adds per second of encoders at batch size 8, as a share of those of a plain product of 1024 x 1024."""
    keep_freed_memory(torch.device("cpu"))
    left, right = torch.randn(2, 1024, 1024)
    for name in ("gmf-t", "gmf-s", "swin-t", "swin-s", "vmamba-t", "vit-s", "vit-b"):
        net, x = create_encoder(name).eval(), torch.randn(8, 3, 256, 192)
        macs = count(net, x.shape).macs
        fuse(net)
        with torch.inference_mode():
            ours, product = in_turns(partial(net, x), partial(torch.mm, left, right), rounds)
        rates = macs / ours / 1e9, 1024**3 / product / 1e9
        what = f"{name}, batch size 8, against a plain product"
        print(f"{what:74s} {rates[0]:9.2f} {rates[1]:9.2f} GMAC/s  {100 * rates[0] / rates[1]:5.1f} %", flush=True)


def timm_vit() -> torch.nn.Module:
    sizes: dict[str, Any] = {"img_size": (256, 192), "patch_size": 16, "embed_dim": 768, "depth": 12, "num_heads": 12}
    return VisionTransformer(**sizes, num_classes=0, global_pool="", class_token=False)


def timm_swin() -> torch.nn.Module:
    sizes: dict[str, Any] = {"window_size": 7, "embed_dim": 96, "depths": (2, 2, 6, 2), "num_heads": (3, 6, 12, 24)}
    return SwinTransformer(img_size=(256, 192), **sizes, num_classes=0, strict_img_size=False)


def bench_profiler(model: str, rounds: int) -> None:
    """The profiler's rate against a bare ten-line loop, and two runs of it against each other."""
    keep_freed_memory(torch.device("cpu"))  # as the profiler does: page faults are no part of the network
    net = zoo.load_weights(load_card(model), None)[0]
    x = torch.randn(1, 3, *load_card(model).input)
    rows, bare = [], [bare_rate(net, x)]
    for _ in range(rounds):
        rows.append(profile_model(model, device="cpu"))
        bare.append(bare_rate(net, x))
    found = [row.images_per_s for row in rows]
    # Each run of the profiler against the loops right before and after it: the machine's speed drifts.
    ratio = statistics.median(2 * a / (b + c) for a, b, c in zip(found, bare, bare[1:], strict=False))
    what = f"profiler of {model}, images/s against a bare loop"
    ours, other = statistics.median(found), statistics.median(bare)
    print(f"{what:74s} {ours:9.2f} {other:9.2f} /s  {100 * ratio:5.1f} %", flush=True)
    steady = [row.images_per_s for row in rows if row.row()["stable"]]
    print(f"{'of its runs, stable by their own account':74s} {len(steady):9d} {len(rows):9d}")
    for name, rates in (("profiler", found), ("profiler where both are stable", steady), ("bare loop", bare)):
        steps = [max(a, b) / min(a, b) - 1 for a, b in pairwise(rates)]
        what = f"two runs of the {name}, one after the other, differ by"
        print(f"{what:74s} {f'{100 * statistics.median(steps):9.1f} %' if steps else 'none':>9s}", flush=True)


def main() -> None:
    """All comparisons, the quick ones first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--people", type=int, default=48, help="people in the end-to-end comparison")
    parser.add_argument("--models", nargs="*", default=["swinpose-t-s3", "vitpose-s"])
    args = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, median of {args.rounds} rounds in turns")
    print(f"{'':74s} {'ours':>9s} {'other':>9s}    ratio")
    with tempfile.TemporaryDirectory() as folder:
        bench_decoding(args.rounds)
        bench_metrics(args.rounds)
        bench_scoring(args.rounds)
        bench_encoders(args.rounds)
        bench_matrix_rate(args.rounds)
        bench_loading(Path(folder) / "many", args.rounds)
        for model in args.models:
            bench_loop(Path(folder) / model, model, args.people, args.rounds)
            bench_profiler(model, args.rounds)


if __name__ == "__main__":
    main()
