"""Two processes on the CPU, started by torchrun, give the very numbers of one; nobody is counted twice or
lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_training
import torch
from conftest import make_coco, prepare_training
from tiny_net import write_cards

from hmrbench import distributed, evaluation, files
from hmrbench.errors import DataError, HmrbenchError
from hmrbench.results import runs as results
from hmrbench.training import train
from hmrbench.training.log import read_table

TESTS = Path(__file__).parent


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As torchrun has it: sums of floats depend on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def torchrun(*arguments: object, processes: int = 2) -> subprocess.CompletedProcess[str]:
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path]), **one_thread}
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(processes),
    ]
    return subprocess.run(
        [*command, *map(str, arguments)], check=False, capture_output=True, text=True, env=env, timeout=300
    )


# --------------------------------------------------------------------------- one process


@pytest.mark.parametrize(
    ("people", "batch_size", "processes"), [(10, 3, 2), (10, 3, 3), (5, 4, 4), (1, 8, 2), (64, 8, 8)]
)
def test_shares_are_whole_batches_and_hold_everybody_once(
    people: int, batch_size: int, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "size", lambda: processes)
    shares = []
    for rank in range(processes):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        shares.append(distributed.my_share(range(100, 100 + people), batch_size))
    assert [i for share in shares for i in share] == list(range(100, 100 + people))
    assert all((share[0] - 100) % batch_size == 0 for share in shares if share)
    assert max(map(len, shares)) - min(map(len, shares)) <= 2 * batch_size


def test_alone_nothing_is_exchanged() -> None:
    distributed.start()
    assert (distributed.rank(), distributed.size(), distributed.is_first()) == (0, 1, True)
    assert distributed.gather_bytes(b"x") == [b"x"]
    assert distributed.from_first("text") == "text"
    assert distributed.highest(3) == 3
    with pytest.raises(DataError, match="mine"), distributed.together():
        raise DataError("mine")


# --------------------------------------------------------------------------- two processes


@pytest.mark.thorough
def test_eval_of_two_processes_is_eval_of_one(tmp_path: Path) -> None:
    coco, cards = make_coco(tmp_path / "coco", (1, 3, 2, 4, 2)), write_cards(tmp_path / "cards")
    common: dict[str, Any] = {"data_root": coco, "weights": "random", "device": "cpu", "batch_size": 2}
    alone = [
        evaluation.evaluate(f"tiny-{x}", "coco-val", models_dirs=[cards], runs=tmp_path / "one", **common) for x in "ab"
    ]
    done = torchrun(
        "-m", "hmrbench", "eval", "tiny-[ab]", "-d", "coco-val", "--data-root", coco, "--models-dir", cards,
        "--runs", tmp_path / "two", "--weights", "random", "--device", "cpu", "--batch-size", 2, "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)  # one document: only the first process prints
    for row, expected in zip(rows, alone, strict=True):
        assert row["metrics"] == json.loads(files.to_json(expected.metrics))
        assert row["per_joint"] == json.loads(files.to_json(expected.per_joint))
        assert row["samples"] == expected.samples == 17
    runs, single = results.load_runs(tmp_path / "two"), results.load_runs(tmp_path / "one")
    assert len(runs) == 2
    for a, b in zip(runs, single, strict=True):
        assert {k: v.tolist() for k, v in a.arrays().items()} == {k: v.tolist() for k, v in b.arrays().items()}
    assert not list((tmp_path / "two" / ".partial").glob("*"))


SCRIPT = """
import json, sys
from pathlib import Path
import small_training
from conftest import prepare_job, prepare_training
from hmrbench import distributed, evaluation, files, zoo
from hmrbench.results import runs as results
from hmrbench.training import train
from hmrbench.errors import DataError, HmrbenchError

root = Path(sys.argv[1])
distributed.start()
rank = distributed.rank()
assert distributed.size() == 2
assert distributed.gather_bytes(bytes([rank]) * (1 + 3 * rank)) == [b"\\0", b"\\1" * 4]
assert distributed.gather_bytes(b"") == [b"", b""]
assert distributed.from_first(f"I am {rank}") == "I am 0"
assert distributed.highest(5 - rank) == 5

# meshes, where the first process was stopped before and kept some people
common = dict(data_root=root, datasets_file=root / "sets.yaml", device="cpu", weights="random", batch_size=2)
job = prepare_job("tiny-mesh", "people-3d", models_dirs=[root / "cards"], **common)
net, _ = zoo.load_weights(job.card, None)
store = results.PartialRun.of(root / "runs", job.key)
if rank == 0:
    for index, kept in evaluation.predict(net, job, [0, 1]):
        store.add(index, kept)
mesh = evaluation.run(job, runs=root / "runs", resume=True)
(root / f"mesh-{rank}.json").write_text(files.to_json(mesh.metrics))
again = evaluation.run(job, runs=root / "runs", resume=True)
assert again.metrics == json.loads(files.to_json(mesh.metrics))

# an error of one process is everybody's
try:
    with distributed.together():
        if rank == 1:
            raise DataError("picture 7 is corrupt")
except HmrbenchError as e:
    (root / f"error-{rank}.txt").write_text(f"{type(e).__name__}: {e}")

settings = small_training.write_settings(root) if rank == 0 else None
distributed.from_first("written")
settings = dict(
    recipe=root / "short.yaml", data_root=root, datasets_file=root / "sets.yaml",
    models_dirs=[root / "cards"], device="cpu", batch_size=2,
)
def training():
    return prepare_training("plain", "people-2d", val_dataset="people-2d", **settings)
train.run(training(), root / "two")
stopped = train.run(training(), root / "parts", minutes=0)
assert not stopped.finished
train.run(training(), root / "parts", resume=True)
prior = dict(recipe=root / "prior.yaml", real_bodies=root / "bodies.npz")
train.run(prepare_training("tiny-mesh", "people-3d", **{**settings, **prior}), root / "mesh-two")
"""


@pytest.mark.thorough
def test_two_processes_train_and_measure_as_one(tmp_path: Path) -> None:
    small_training.write_flat(tmp_path, 10)
    small_training.write_solid(tmp_path, 7)
    settings = small_training.write_settings(tmp_path)
    weights = "loss: {keypoints_3d: 1, adversarial: 0.01}"
    prior = {"recipe": tmp_path / "prior.yaml", "real_bodies": tmp_path / "bodies.npz"}
    prior["recipe"].write_text(small_training.RECIPE.replace("task: hpe", "task: hmr") + weights)
    np.savez(prior["real_bodies"], body_pose=np.full((9, 72), 0.1), betas=np.arange(90.0).reshape(9, 10) / 90)
    (tmp_path / "script.py").write_text(SCRIPT)
    done = torchrun(tmp_path / "script.py", tmp_path)
    assert done.returncode == 0, done.stderr

    mesh = evaluation.evaluate(
        "tiny-mesh", "people-3d", data_root=tmp_path, datasets_file=tmp_path / "sets.yaml", device="cpu",
        weights="random", batch_size=2, models_dirs=[tmp_path / "cards"],
    )  # fmt: skip
    for rank in range(2):
        assert json.loads((tmp_path / f"mesh-{rank}.json").read_text()) == mesh.metrics
    assert len(results.load_runs(tmp_path / "runs")) == 1
    assert (tmp_path / "error-0.txt").read_text() == "DataError: process 1: picture 7 is corrupt"
    assert (tmp_path / "error-1.txt").read_text() == "DataError: picture 7 is corrupt"

    train.run(prepare_training("plain", "people-2d", val_dataset="people-2d", **settings), tmp_path / "one")
    train.run(prepare_training("tiny-mesh", "people-3d", **{**settings, **prior}), tmp_path / "mesh-one")

    def numbers(run: str, *more: str) -> np.ndarray:
        rows = read_table(tmp_path / run / "log.csv")
        return np.array([[float(row[k]) for k in ("step", "loss", "grad_norm", *more)] for row in rows])

    np.testing.assert_allclose(numbers("two"), numbers("one"), rtol=1e-4)  # four people a step, in two halves
    assert np.array_equal(numbers("two"), numbers("parts"))
    judged = ("adversarial", "discriminator")
    np.testing.assert_allclose(numbers("mesh-two", *judged), numbers("mesh-one", *judged), rtol=1e-4)
    scores = [read_table(tmp_path / name / "validation.csv") for name in ("two", "parts")]
    assert scores[0] == scores[1]


@pytest.mark.thorough
def test_a_network_that_fails_in_one_process_fails_in_all(tmp_path: Path) -> None:
    """The second person of a batch is not finite; only the first process has a batch of two."""
    coco, cards = make_coco(tmp_path / "coco", (1, 2)), write_cards(tmp_path / "cards")
    with pytest.raises(HmrbenchError, match="not finite"):
        evaluation.evaluate(
            "tiny-nan",
            "coco-val",
            data_root=coco,
            models_dirs=[cards],
            weights="random",
            device="cpu",
            boxes="gt",
        )
    done = torchrun(
        "-m", "hmrbench", "eval", "tiny-nan", "tiny-b", "-d", "coco-val", "--boxes", "gt",
        "--data-root", coco, "--models-dir", cards, "--runs", tmp_path / "r", "--weights", "random",
        "--device", "cpu", "--batch-size", 2, "--json",
    )  # fmt: skip
    assert done.returncode == 1
    assert [row["model"] for row in json.loads(done.stdout)] == ["tiny-b"]
    assert "not finite" in done.stderr
