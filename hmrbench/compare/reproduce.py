"""Published numbers against what the public weights give here, by each card's own protocol.

A claim is what somebody reported of one file of weights on one data set; for this project's demo weights it is what
`baselines/demo.json` holds. Each claim is one evaluation with the boxes that are usual for the data set and with the
mirrored picture; a finished one is taken as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hmrbench import data, evaluation
from hmrbench.compare import baselines, bootstrap
from hmrbench.errors import HmrbenchError, UsageError, WeightsError
from hmrbench.evaluation import EvaluationSettings
from hmrbench.evaluation.unfinished import Progress
from hmrbench.fetch import fetch, sources
from hmrbench.fetch.fetch import FetchProgress
from hmrbench.metrics.measures import measure_of
from hmrbench.records import Dataset, EvalResult
from hmrbench.results import runs as results
from hmrbench.schema import DatasetSpec, ModelCard
from hmrbench.schema.reading import share_dir

Verdict = str  # reproduced, off, not comparable, not run
TOLERANCE = {"%": 0.2, "mm": 0.5}  # other versions of OpenCV and of the rounding of crops move a score by less


@dataclass(frozen=True)
class Claim:
    """What is said of one network with one file of weights on one data set.

    `variant` names the weights, "demo" this project's own; `codec` is None for the card's; `values` and `tolerances`
    are by metric, `sources` say who reported; `protocol` is the rule for meshes by which they did, None for 4D-Humans'.
    """

    card: ModelCard
    dataset: str
    variant: str
    codec: str | None
    values: Mapping[str, float]
    tolerances: Mapping[str, float]
    source: str
    protocol: str | None = None


@dataclass(frozen=True)
class Reproduction:
    """One number of a claim and what came out here.

    `low` and `high` bound the measured number (bootstrap, 95 %); None without resampling. `verdict` is `reproduced`,
    `off` (by more than `tolerance`), `not comparable` (the data here are not the whole set), or `not run`; then
    `reason` says why.
    """

    model: str
    variant: str
    dataset: str
    boxes: str | None
    codec: str | None
    metric: str
    unit: str
    published: float
    measured: float | None
    difference: float | None
    low: float | None
    high: float | None
    tolerance: float
    verdict: Verdict
    reason: str
    source: str
    weights: str | None = None
    weights_sha256: str | None = None
    samples: int | None = None


def find_claims(cards: Iterable[ModelCard], spec: DatasetSpec, tolerance: float | None = None) -> list[Claim]:
    """What is published of these networks on a data set, for each of their weights.

    Args:
        tolerance: for all scores; None for the usual one of a score's unit, or half of the last digit reported.

    Raises:
        UsageError: nothing is.
    """
    cards = list(cards)
    found = _claims(cards, spec, tolerance)
    if not found:
        demo = spec.default_weights == "demo"
        held = ", ".join(r["model"] for r in _demo_rows(spec)) if demo else ""
        more = f": there are those of this project's demo weights ({held})" if held else ""
        raise UsageError(f"none of the {len(cards)} models has a published number on {spec.name}{more}")
    return found


def to_open(spec: DatasetSpec, claims: Sequence[Claim]) -> DatasetSpec:
    """The data set with all that the claims are measured against: true meshes, where a rule needs them."""
    if all(claim.protocol is None for claim in claims):
        return spec
    return spec.model_copy(update={"options": {**spec.options, "meshes": True}})


def _claims(cards: Sequence[ModelCard], spec: DatasetSpec, tolerance: float | None) -> list[Claim]:
    chosen = [card for card in cards if card.task == spec.task]
    if spec.default_weights == "demo":
        return _demo_claims(chosen, spec, tolerance)
    found = []
    for card in chosen:
        first = card.weights[0].variant if card.weights else ""
        own = [p for p in card.published if p.dataset.lower() == spec.name.lower()]
        kinds = [(p.variant or first, p.codec, evaluation.rule_of(p.metric)) for p in own]
        for variant, codec, rule in dict.fromkeys(kinds):
            numbers = [p for p, kind in zip(own, kinds, strict=True) if kind == (variant, codec, rule)]
            values = {p.metric: p.value for p in numbers}
            usual = _tolerances(values)
            tolerances = usual if tolerance is None else dict.fromkeys(values, tolerance)
            source = "; ".join(dict.fromkeys(p.source for p in numbers))
            found.append(Claim(card, spec.name, variant, codec, values, tolerances, source, rule))
    return found


def _demo_claims(cards: Sequence[ModelCard], spec: DatasetSpec, tolerance: float | None) -> list[Claim]:
    held = _demo_baseline()
    rows = {r["model"]: r["values"] for r in _demo_rows(spec)}
    found = []
    for card in (card for card in cards if card.name in rows and card.demo_weights is not None):
        values = rows[card.name]
        tolerances = {m: held["tolerances"].get(m, 0.0) if tolerance is None else tolerance for m in values}
        found.append(Claim(card, spec.name, "demo", None, values, tolerances, "baselines/demo.json"))
    return found


def _demo_baseline() -> dict[str, Any]:
    return baselines.read_baseline(share_dir() / "baselines" / "demo.json")


def _demo_rows(spec: DatasetSpec) -> list[dict[str, Any]]:
    """What is known of demo weights on a data set."""
    return [row for row in _demo_baseline()["rows"] if row.get("dataset") == spec.name]


def _tolerances(values: Mapping[str, float]) -> dict[str, float]:
    """The usual tolerance of each score, or half of the last digit where all were rounded more than that."""
    digits = max(len(f"{value:g}".partition(".")[2]) for value in values.values())
    return {m: max(TOLERANCE.get(measure_of(m).unit, 0.0), 0.5 * 10.0**-digits) for m in values}


def reproduce(
    claims: Sequence[Claim],
    spec: DatasetSpec,
    settings: EvaluationSettings,
    runs: Path,
    *,
    weights: Mapping[int, str | Path | HmrbenchError],
    people: Dataset,
    progress: Progress | None = None,
    failures: list[HmrbenchError] | None = None,
) -> Iterator[list[Reproduction]]:
    """The numbers of each claim, in turn; a claim that cannot be run says why, and the others go on.

    Args:
        settings: device, precision, workers and the like; weights, boxes, flip and codec are the claim's.
        runs: where evaluations are kept; finished ones are taken, unfinished ones continued.
        weights: of each claim by its place, see `fetch_all`.
        people: the data set, opened as `to_open` says.
        failures: gets the errors of claims that could not be run.
    """
    lacking = data.lacking(spec, people)
    for place, claim in enumerate(claims):
        try:
            given = weights[place]
            if isinstance(given, HmrbenchError):
                raise given
            own = replace(settings, weights=given, boxes=None, flip=True, codec=claim.codec, limit=None)
            job = evaluation.prepare(claim.card, evaluation.with_protocol(spec, claim.protocol), own, people)
            result = evaluation.run(job, runs=runs, resume=True, progress=progress)
            kept = results.finished(runs, "eval", job.run_key)
            intervals = {} if kept is None else bootstrap.intervals(kept, bootstrap.Draw())
        except HmrbenchError as e:
            if failures is not None:
                failures.append(e)
            yield [_unmeasured(claim, metric, str(e)) for metric in claim.values]
            continue
        yield [_held(claim, metric, result, intervals, lacking) for metric in claim.values]


def fetch_all(
    claims: Sequence[Claim], *, offline: bool = False, progress: FetchProgress | None = None
) -> dict[int, str | Path | HmrbenchError]:
    """What to evaluate each claim with, by its place, fetched if need be; or why there is nothing.

    Args:
        offline: only weights that are here.
    """
    found: dict[int, str | Path | HmrbenchError] = {}
    for place, claim in enumerate(claims):
        try:
            found[place] = _weights(claim, offline, progress)
        except HmrbenchError as e:
            found[place] = e
    return found


def _weights(claim: Claim, offline: bool, progress: FetchProgress | None) -> str | Path:
    """What to say after `--weights` for a claim, fetched if need be.

    Raises:
        WeightsError: they are not here and cannot be fetched; says what a person has to do.
    """
    if claim.variant == "demo":
        return "demo"
    own = sources.weights_sources(claim.card, variant=claim.variant) if claim.card.weights else []
    if not own:
        raise WeightsError("no source of its weights is known")
    found = fetch.find(own)
    if found is None and all(s.url == "manual:" for s in own):
        raise WeightsError(f"its weights are got by hand: {own[0].page} (hmrbench weights fetch {claim.card.name})")
    if found is None:
        found = sources.fetch_weights(claim.card, variant=claim.variant, offline=offline, progress=progress)
    return found.path if found.source.url == "manual:" else found.source.url


def _held(
    claim: Claim, metric: str, result: EvalResult, intervals: Mapping[str, tuple[float, float]], lacking: str
) -> Reproduction:
    value, base = result.metrics.get(metric), _unmeasured(claim, metric, "")
    known = {
        "boxes": result.boxes,
        "codec": result.codec,
        "weights": result.weights,
        "weights_sha256": result.weights_sha256,
        "samples": result.samples,
    }
    base = replace(base, **known)  # type: ignore[arg-type]
    if value is None:
        return replace(base, reason=f"an evaluation on {claim.dataset} does not give it")
    low, high = intervals.get(metric, (None, None))
    difference = value - claim.values[metric]
    base = replace(base, measured=value, difference=difference, low=low, high=high)
    if lacking:
        return replace(base, verdict="not comparable", reason=lacking)
    # A sum of rounded numbers is not off by what the rounding of the difference adds.
    if abs(difference) <= claim.tolerances[metric] + 1e-9:
        return replace(base, verdict="reproduced")
    return replace(base, verdict="off", reason=f"by more than {claim.tolerances[metric]:g}")


def _unmeasured(claim: Claim, metric: str, reason: str) -> Reproduction:
    return Reproduction(
        model=claim.card.name,
        variant=claim.variant,
        dataset=claim.dataset,
        boxes=None,
        codec=claim.codec,
        metric=metric,
        unit=measure_of(metric).unit,
        published=claim.values[metric],
        measured=None,
        difference=None,
        low=None,
        high=None,
        tolerance=claim.tolerances[metric],
        verdict="not run",
        reason=reason,
        source=claim.source,
    )
