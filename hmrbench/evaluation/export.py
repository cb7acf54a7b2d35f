"""A network to a file of another runtime; in int8, with the layers that cost accuracy left out until a bound holds.

The search: the layers that can be in int8 are cut into at most GROUPS stretches in the order in which they run. Each
stretch alone is put into int8, and what that changes in the output on crops of the calibration set (root mean square,
in standard deviations) ranks the stretches. Then the network is scored on that set, first in fp32, then in int8 with
the most costly stretches left in fp: none of them, and if the drop is above the bound, by bisection the fewest that
keep it. Never is the set looked at on which the file will be scored.
"""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from hmrbench import data, runtimes, zoo
from hmrbench.cards import load_card
from hmrbench.errors import UsageError, unknown_name
from hmrbench.evaluation.job import EvaluationSettings, Job, card_and_spec, prepare
from hmrbench.evaluation.score import measure
from hmrbench.evaluation.unfinished import predict_all
from hmrbench.fetch import sources
from hmrbench.files import file_sha256
from hmrbench.records import Dataset
from hmrbench.results import runs as results
from hmrbench.runtimes import Calibration, Exported, ExportSettings, Prepared, Runtime
from hmrbench.runtimes.exported import (
    check_export,
    compare_outputs,
    crops_of_people,
    in_fp32,
    quantised,
    record_path,
)  # fmt: skip
from hmrbench.schema import DatasetSpec, ModelCard

_log = logging.getLogger(__name__)

GROUPS = 12


@dataclass(frozen=True)
class CalibrationSettings:
    """Whose crops set the ranges of int8.

    Attributes:
        dataset: a training or calibration set; never the one on which the file is scored.
        crops: how many of its people, spread over it.
        max_drop: by how much a score of that set may be worse in int8, such as {"AP": 0.5}; the search above then.
        data_root: the folder of the data sets.
        boxes: `gt` or `det`.
        datasets_file: a further file of data sets.
    """

    dataset: str
    crops: int = 128
    max_drop: tuple[str, float] | None = None
    data_root: Path | None = None
    boxes: str | None = None
    datasets_file: Path | None = None


def read_bound(text: str) -> tuple[str, float]:
    """`AP=0.5` as a score and how much worse it may be.

    Raises:
        UsageError: it is not of that form.
    """
    found = re.fullmatch(r"([^=]+)=(\d+(?:\.\d+)?)", text.strip())
    if found is None:
        raise UsageError(f"a bound is SCORE=NUMBER such as AP=0.5, not '{text}'")
    return found[1].strip(), float(found[2])


def export(
    model: str | ModelCard,
    path: Path,
    settings: ExportSettings,
    *,
    weights: str | Path | None = None,
    calibrate: CalibrationSettings | None = None,
    models_dirs: Sequence[Path] = (),
) -> Exported:
    """Write a model for a runtime, with a JSON beside it, as `hmrbench export` does.

    Raises:
        UsageError: an unknown name, or settings that cannot be.
        DataError: weights or the calibration set are missing or broken.
        HmrbenchError: the network cannot be converted, or gives other numbers than PyTorch; then nothing is kept.
    """
    card = model if isinstance(model, ModelCard) else load_card(model, models_dirs)
    runtime = check_export(card, settings, path, calibrate is not None)
    for target in (path, record_path(path)):
        results.try_writing(target)
    opened = None if calibrate is None else _open(card, calibrate, settings)
    label, file = sources.resolve_weights(card, weights)
    sha256 = None if file is None else file_sha256(file)
    net, _ = zoo.load_weights(card, file)
    calibration, search = None, None
    if calibrate is not None and opened is not None:
        calibration = opened[0]
        if calibrate.max_drop is not None:
            settings, search = _search(net, card, runtime, settings, calibration, opened[1], calibrate)
    return runtimes.export(
        net, card, settings, path, weights=label, weights_sha256=sha256, calibration=calibration, search=search
    )


def _open(
    card: ModelCard, calibrate: CalibrationSettings, settings: ExportSettings
) -> tuple[Calibration, tuple[DatasetSpec, Dataset]]:
    """The crops that calibrate, and the set that they are of."""
    card, spec = card_and_spec(card, calibrate.dataset, (), calibrate.datasets_file)
    if calibrate.crops < 1:
        raise UsageError(f"calibration needs crops, not {calibrate.crops}")
    people = data.open_dataset(spec, calibrate.data_root, calibrate.boxes, None)
    return Calibration(people, crops_of_people(card, people, calibrate.crops)), (spec, people)


@dataclass(frozen=True)
class _Scorer:
    """One score of a network on a data set."""

    job: Job
    spec: DatasetSpec
    people: Dataset
    name: str

    def __call__(self, net: nn.Module | Prepared) -> tuple[float, bool]:
        """The score, and whether more of it is better."""
        scores = {s.name: s for m in measure(predict_all(net, self.job), self.spec, self.people) for s in m.scores}
        if self.name not in scores:
            raise unknown_name("score", self.name, scores)
        return scores[self.name].value, scores[self.name].higher_is_better


def _search(
    net: nn.Module,
    card: ModelCard,
    runtime: Runtime,
    settings: ExportSettings,
    calibration: Calibration,
    opened: tuple[DatasetSpec, Dataset],
    calibrate: CalibrationSettings,
) -> tuple[ExportSettings, Mapping[str, Any]]:
    """Which layers stay out of int8, and what the search found, for the record."""
    assert calibrate.max_drop is not None
    assert runtime.layers is not None
    name, bound = calibrate.max_drop
    job = prepare(card, opened[0], EvaluationSettings(weights="random", workers=1, flip=False), opened[1])
    score = _Scorer(job, *opened, name)
    setting = replace(job.setting, device=runtime.check(card.name, "auto", "int8"), dtype="int8")
    with (
        tempfile.TemporaryDirectory(prefix="hmrbench-") as folder,
        in_fp32(net, card, runtime, settings.batch_size, Path(folder)) as whole,
    ):
        assert whole.file is not None
        layers = runtime.layers(whole.file)
        stretches = [list(s) for s in np.array_split(np.array(layers, object), min(GROUPS, len(layers)))]

        def ready(in_fp: Sequence[str]) -> Prepared:
            target, chosen = Path(folder) / f"int8{runtime.suffix}", replace(settings, in_fp=in_fp)
            return runtime.prepare(quantised(runtime, whole, target, calibration, chosen), setting)

        x = calibration.crops.x[:8]
        with torch.inference_mode():
            expected = net(x)
        costs = []
        for stretch in stretches:
            with ready([layer for layer in layers if layer not in stretch]) as forward:
                costs.append(compare_outputs(expected, forward(x))[1])
        ranked = sorted(range(len(stretches)), key=lambda i: -costs[i])
        full, higher = score(net)

        def drop(count: int) -> float:
            value, _ = score(ready([layer for i in ranked[:count] for layer in stretches[i]]))
            lost = full - value if higher else value - full
            _log.info("%s: %d of %d stretches in fp: %s drops by %.3f", card.name, count, len(ranked), name, lost)
            return lost

        count, tried = _fewest(drop, len(ranked) - 1, bound)  # with all of them in fp there would be no int8
    if tried[count] > bound:
        raise UsageError(
            f"{card.name}: with all but the least costly of {len(ranked)} stretches of layers in fp, "
            f"{name} still drops by {tried[count]:.3f}, more than {bound:g}: int8 cannot keep that bound"
        )
    in_fp = [layer for i in ranked[:count] for layer in stretches[i]]
    found = {
        "score": name, "bound": bound, "fp32": full, "drop": tried[count], "layers": len(layers), "in_fp": len(in_fp),
        "stretches": [
            {"first": str(s[0]), "last": str(s[-1]), "rms_std": cost, "in_fp": i in ranked[:count]}
            for i, (s, cost) in enumerate(zip(stretches, costs, strict=True))
        ],
        "drops": {str(count): value for count, value in sorted(tried.items())},
    }  # fmt: skip
    return replace(settings, in_fp=in_fp), found


def _fewest(drop: Callable[[int], float], most: int, bound: float) -> tuple[int, dict[int, float]]:
    """The least number from 0 to `most` whose drop keeps the bound, by bisection, else `most`; and the drops tried."""
    tried = {0: drop(0)}
    if tried[0] <= bound:
        return 0, tried
    tried[most] = drop(most)
    low, high = 0, most
    while tried[most] <= bound and high - low > 1:
        middle = (low + high) // 2
        tried[middle] = drop(middle)
        low, high = (low, middle) if tried[middle] <= bound else (middle, high)
    return high, tried
