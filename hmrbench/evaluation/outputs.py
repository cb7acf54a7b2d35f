"""What an evaluation leaves behind, tried before anything slow and never lost with the file it was meant for."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from hmrbench import files
from hmrbench.evaluation.job import Job
from hmrbench.files import coco_json
from hmrbench.metrics import coco_keypoints
from hmrbench.records import Prediction
from hmrbench.results import runs as results


@contextmanager
def collect_failures(failures: list[str], what: str) -> Iterator[None]:
    """Add to `failures` why `what` could not be written inside."""
    try:
        yield
    except OSError as e:
        failures.append(f"{what} could not be written ({e.strerror or e})")


def try_outputs(job: Job, runs: Path | None, save_predictions: Path | None) -> None:
    """Whether what `run` leaves behind can be written.

    Raises:
        HmrbenchError: it cannot; names the folder or file.
    """
    if runs is not None:
        results.try_runs(runs, job.key)
    if save_predictions is not None:
        results.try_writing(save_predictions)


def write_predictions(predictions: Sequence[Prediction], job: Job, path: Path) -> None:
    """Write predictions for others to score: COCO result json for pose, after rescoring and NMS; npz for meshes."""
    if job.card.task == "hpe":
        coco = coco_json.person_category(job.dataset.truth)
        people, scoring = job.dataset, job.dataset.scoring
        found = coco_keypoints.coco_results(
            predictions, people.samples, skeleton=people.skeleton, category_id=coco, **scoring
        )
        files.write_atomic(path, json.dumps(found).encode())
    else:
        ids = np.array([s.id for s in job.dataset.samples])
        files.write_arrays(path, {"id": ids, **results.stack(predictions)})
