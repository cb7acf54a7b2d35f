"""A network to a file of another runtime; in int8, with the layers that cost accuracy left out until a bound holds.

The search: the layers that can be in int8 are cut into at most GROUPS stretches in the order in which they run.
The network is scored on the calibration set in fp32 and in int8. If the drop is above the bound, each stretch alone is
put into int8, and what that changes in the output on crops of that set (root mean square, in standard deviations) ranks
the stretches; by bisection the fewest of the most costly ones are left in fp that keep the bound. Never is the set
looked at on which the file will be scored.
"""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Mapping, Sequence
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
from hmrbench.runtimes import Calibration, Exported, ExportSettings, Network, Prepared, Runtime, Setting
from hmrbench.runtimes.checking import compare_outputs, crops_of_people
from hmrbench.runtimes.exported import record_path
from hmrbench.runtimes.writing import check_export, in_fp32, quantised
from hmrbench.schema import DatasetSpec, ModelCard

_log = logging.getLogger(__name__)

GROUPS = 12
RANKED = 8  # crops on which stretches are ranked


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
    if weights is None and opened is not None and card.demo_weights is not None:  # as for an evaluation on this set
        weights = opened[1][0].default_weights
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


@dataclass(frozen=True)
class _Int8:
    """A network whose layers go into int8 by stretches, those named or all but those named."""

    card: ModelCard
    runtime: Runtime
    settings: ExportSettings
    calibration: Calibration
    whole: Network
    setting: Setting
    folder: Path
    layers: Sequence[str]

    @property
    def stretches(self) -> list[list[str]]:
        """The layers, cut into at most GROUPS parts in the order in which they run."""
        return [list(s) for s in np.array_split(np.array(self.layers, object), min(GROUPS, len(self.layers)))]

    def ready(self, in_fp: Sequence[str]) -> Prepared:
        """The network in int8, but for these layers."""
        target = self.folder / f"int8{self.runtime.suffix}"
        made = quantised(self.runtime, self.whole, target, self.calibration, replace(self.settings, in_fp=in_fp))
        return self.runtime.prepare(made, self.setting)

    def costs(self, net: nn.Module) -> list[float]:
        """What each stretch alone changes in the output of PyTorch's network, in standard deviations."""
        given = tuple(x[:RANKED] for x in self.calibration.crops.given)
        with torch.inference_mode():
            expected = net(*given)
        found = []
        for stretch in self.stretches:
            with self.ready([layer for layer in self.layers if layer not in stretch]) as forward:
                found.append(compare_outputs(expected, forward(*given))[1])
        return found


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
    spec, people = opened
    job = prepare(card, spec, EvaluationSettings(weights="random", workers=1, flip=False), people)
    setting = replace(job.setting, device=runtime.check(card.name, "auto", "int8"), dtype="int8")
    with (
        tempfile.TemporaryDirectory(prefix="hmrbench-") as folder,
        in_fp32(net, card, runtime, settings.batch_size, Path(folder)) as whole,
    ):
        assert whole.file is not None
        layers = runtime.layers(whole.file)
        int8 = _Int8(card, runtime, settings, calibration, whole, setting, Path(folder), layers)
        return _bounded(net, int8, _Scorer(job, spec, people, calibrate.max_drop[0]), calibrate.max_drop[1])


def _bounded(net: nn.Module, int8: _Int8, score: _Scorer, bound: float) -> tuple[ExportSettings, Mapping[str, Any]]:
    """The fewest of the most costly stretches in fp with which the score drops by no more than the bound.

    Raises:
        UsageError: all but one of them are too few.
    """
    full, higher = score(net)
    tried: dict[int, float] = {}
    stretches, low, high = int8.stretches, 0, 0
    costs: list[float] = []  # of each stretch, measured where some must stay in fp
    ranked: list[int] = []

    def in_fp(count: int) -> list[str]:
        return [layer for i in ranked[:count] for layer in stretches[i]]

    def drop(count: int) -> float:
        value, _ = score(int8.ready(in_fp(count)))
        tried[count] = full - value if higher else value - full
        told = (int8.card.name, count, len(stretches), score.name, tried[count])
        _log.info("%s: %d of %d stretches in fp: %s drops by %.3f", *told)
        return tried[count]

    if drop(0) > bound:
        costs = int8.costs(net)
        ranked = sorted(range(len(stretches)), key=lambda i: -costs[i])
        high = len(ranked) - 1  # with all of them in fp there would be no int8
        if high == 0 or drop(high) > bound:
            raise UsageError(
                f"{int8.card.name}: with all but the least costly of {len(ranked)} stretches of layers in fp, "
                f"{score.name} still drops by {tried[high]:.3f}, more than {bound:g}: int8 cannot keep that bound"
            )
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if drop(middle) <= bound else (middle, high)
    found = {
        "score": score.name, "bound": bound, "fp32": full, "drop": tried[high], "layers": len(int8.layers),
        "in_fp": len(in_fp(high)),
        "stretches": [
            {"first": str(s[0]), "last": str(s[-1]), "rms_std": cost, "in_fp": i in ranked[:high]}
            for i, (s, cost) in enumerate(zip(stretches, costs, strict=False))
        ],
        "drops": {str(count): value for count, value in sorted(tried.items())},
    }  # fmt: skip
    return replace(int8.settings, in_fp=in_fp(high)), found
