"""A training under way: the loop, and everything that changes while it runs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hmrbench import checkpoints, distributed, environment, evaluation, files
from hmrbench.device import Normalize, device_name
from hmrbench.errors import HmrbenchError, Stopped, UsageError, blamed_on
from hmrbench.records import Array
from hmrbench.training import checkpoint, start
from hmrbench.training.engine import caught_signals, make_engine
from hmrbench.training.feed import Feed
from hmrbench.training.job import TrainJob
from hmrbench.training.log import Log, Meter
from hmrbench.training.optim import Average, freeze_stages, lr_factor, make_optimizers, set_lr, set_training
from hmrbench.training.pictures import Pictures
from hmrbench.training.prior import Prior
from hmrbench.zoo import find_encoder

_GO_ON, _SAVE, _STOP = 0, 1, 2


@dataclass(frozen=True)
class Moment:
    """Where a training is: for progress displays."""

    step: int
    steps: int
    loss: float
    people_per_s: float
    seconds_left: float
    validation: Mapping[str, float] | None = None


TrainingProgress = Callable[[Moment], None]


class Trainer:
    """A training under way: everything that changes while it runs."""

    def __init__(self, job: TrainJob, out: Path, progress: TrainingProgress | None, half: bool = False) -> None:
        self.job, self.recipe, self.out, self.progress, self.half = job, job.recipe, out, progress, half
        self.first = distributed.is_first()
        self.fabric = make_engine(job.device, job.recipe.dtype)
        self.optimizers: list[Any]
        self.wrapped: Any
        with blamed_on(job.card.where):
            started = start.start_net(job.card, self.recipe.init, self.recipe.drop_path, job.seed)
            self.net, self.started_from, whole = started
            if job.body is not None and not whole:
                start.set_mean_parameters(self.net, job.mean_params)
            depth = find_encoder(job.card.encoder).family.depth if job.card.encoder else None
            freeze_stages(self.net, self.recipe.frozen_stages, depth)
            optimizers = make_optimizers(self.net, self.recipe.optimizer, depth)
            self.wrapped, *self.optimizers = self.fabric.setup(self.net, *optimizers)
        self.average = Average(self.net, self.recipe.ema) if self.recipe.ema else None
        self.prior = None
        if job.real_bodies is not None:
            self.prior = Prior(job.real_bodies, self.recipe, self.fabric, job.seed)
        torch.manual_seed(job.seed + distributed.rank())
        self.normalize = Normalize(job.card, self.fabric.device)
        self.pictures: Pictures | None = None
        if job.examples.pictures:
            self.pictures = Pictures(job.examples.pictures, self.fabric.device, job.workers)
        self.meter = Meter(self.fabric.device)
        self.log: Log | None = None
        self.step, self.seconds = 0, 0.0
        self.best: dict[str, Any] = {}

    # -- state

    def state(self) -> dict[str, Any]:
        """Everything that decides how the run goes on."""
        return {
            "identity": self.job.identity,
            "step": self.step,
            "seconds": self.seconds,
            "best": self.best,
            "started_from": self.started_from,
            "net": self.net.state_dict(),
            "average": None if self.average is None else self.average.net.state_dict(),
            "optimizers": [o.state_dict() for o in self.optimizers],
            "prior": None if self.prior is None else self.prior.state(),
            "precision": self.fabric.strategy.precision.state_dict(),
            "random": checkpoint.random_state(),
            "meter": self.meter.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Put back what `state` gave."""
        self.step, self.seconds, self.best = state["step"], state["seconds"], dict(state["best"])
        self.started_from = state["started_from"]
        self.net.load_state_dict(state["net"])
        if self.average is not None:
            self.average.net.load_state_dict(state["average"])
        for optimizer, own in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(own)
        if self.prior is not None:
            self.prior.restore(state["prior"])
        self.fabric.strategy.precision.load_state_dict(state["precision"])
        self.meter.set_state(state["meter"])
        checkpoint.set_random_state(state["random"])

    def save(self) -> None:
        """Write `last.ckpt`; all processes take part.

        Raises:
            HmrbenchError: the loss is not finite; what is there is not overwritten.
        """
        sums = self.meter.sums.get("loss")
        if distributed.highest(int(sums is not None and not torch.isfinite(sums))):
            raise self.not_finite()
        state = self.state()
        if self.first:
            checkpoint.write(self.out / "last.ckpt", state)

    def open_log(self) -> None:
        """Begin the logs, or go on with those of the run that is resumed."""
        if self.first:
            self.log = Log(self.out, self.step or None)
            files.write_json(self.out / "run.json", self.description())

    def description(self) -> dict[str, Any]:
        """What a reader must know of the run."""
        return {
            **self.job.identity,
            "started_from": self.started_from,
            "steps": self.job.steps,
            "people_per_step": self.job.people_per_step,
            "device": device_name(self.job.device),
            "environment": environment.current(),
        }

    # -- the loop

    def train(self, minutes: float | None) -> bool:
        """Train to the end, or until time is up (False).

        Raises:
            KeyboardInterrupt: a signal came; the state is saved.
        """
        job, recipe = self.job, self.recipe
        feed = Feed(job.examples, job.seed, recipe.batch_size, job.workers, distributed.rank(), distributed.size())
        began, saved, logged = time.monotonic(), time.monotonic(), time.monotonic()
        before = self.seconds
        set_training(self.net)
        with caught_signals() as interrupted, closing(feed.batches(self.step)) as batches:
            while self.step < job.steps:
                with blamed_on(f"{job.card.where}: step {self.step + 1}"):
                    self.train_step(next(batches))
                self.step += 1
                last = self.step == job.steps
                self.seconds = before + time.monotonic() - began
                if self.step % recipe.log_every == 0 or last:
                    self.write_log(time.monotonic() - logged)
                    logged = time.monotonic()
                if job.validation is not None and (self.step % job.validate_steps == 0 or last):
                    pause = time.monotonic()
                    self.validate(job.validation)
                    logged += time.monotonic() - pause
                timed_out = minutes is not None and time.monotonic() - began > 60 * minutes
                due = time.monotonic() - saved > 60 * recipe.save_minutes
                wish = _STOP if interrupted or timed_out else _SAVE if due or last else _GO_ON
                if (agreed := distributed.highest(wish)) != _GO_ON:
                    pause = saved = time.monotonic()
                    self.save()
                    logged += time.monotonic() - pause
                if agreed == _STOP and not last:
                    if number := distributed.highest(max(interrupted, default=0)):
                        raise Stopped(number)
                    return False
        return True

    def train_step(self, arrays: Mapping[str, Array]) -> None:
        """One step down the gradient."""
        recipe = self.recipe
        factor = lr_factor(self.step, self.job.steps, recipe.schedule)
        set_lr(self.optimizers, recipe.optimizer, factor)
        batch = {name: self.to_device(a) for name, a in arrays.items() if name != "image"}
        if self.pictures is None:
            images = self.normalize(arrays["image"])
        else:
            picture, matrix, colour = (batch.pop(name) for name in ("picture", "matrix", "colour"))
            images = self.normalize(self.pictures.crop(picture, matrix, colour, self.job.card.input))
        output = self.wrapped(images)
        found = self.job.losses(output, batch)
        if self.prior is not None:
            found["adversarial"] = self.prior.penalty(output)
            found["loss"] = found["loss"] + recipe.loss.scale * recipe.loss.adversarial * found["adversarial"]
        self.fabric.backward(found["loss"])
        norm = self.fabric.clip_gradients(
            self.wrapped, self.optimizers[0], max_norm=recipe.clip or float("inf"), error_if_nonfinite=False
        )
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if self.average is not None:
            self.average.update(self.step)
        if self.prior is not None:
            found["discriminator"] = self.prior.learn(output, self.step)
        assert norm is not None
        self.meter.add({**found, "grad_norm": norm})

    def to_device(self, array: Array) -> Tensor:
        tensor = torch.as_tensor(array)
        if self.fabric.device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self.fabric.device, non_blocking=True)

    def write_log(self, seconds: float) -> None:
        """A row of the log: means over the steps since the last one, and over processes."""
        names, means = self.meter.means()
        count = self.meter.count
        reduced = self.fabric.all_reduce(means, reduce_op="mean")
        assert isinstance(reduced, Tensor)
        row = dict(zip(names, reduced.tolist(), strict=True))
        self.meter.reset()
        if not np.isfinite(row["loss"]):
            raise self.not_finite()
        rate = count * self.job.people_per_step / max(seconds, 1e-9)
        if self.log is not None:
            people = self.step * self.job.people_per_step
            lr = self.recipe.optimizer.lr * lr_factor(self.step - 1, self.job.steps, self.recipe.schedule)
            epoch = round(people / self.job.examples.count, 4)
            times = {"people_per_s": round(rate, 2), "seconds": round(self.seconds, 1)}
            self.log.add("train", {"step": self.step, "epoch": epoch, "people": people, "lr": lr, **row, **times})
        self.report(row["loss"], rate, None)

    def not_finite(self) -> HmrbenchError:
        return HmrbenchError(
            f"{self.job.card.name}: the loss is not finite at step {self.step}; the last good state is in "
            f"{self.out}. A lower learning rate, a longer warm-up or bf16 in place of fp16 may help"
        )

    def report(self, loss: float, rate: float, validation: Mapping[str, float] | None) -> None:
        if self.progress is not None:
            left = (self.job.steps - self.step) * self.job.people_per_step / max(rate, 1e-9)
            self.progress(Moment(self.step, self.job.steps, loss, rate, left, validation))

    # -- results

    @property
    def kept(self) -> nn.Module:
        """The network whose weights are measured and kept."""
        return self.net if self.average is None else self.average.net

    def validate(self, job: evaluation.Job) -> None:
        """Measure with the loop of `evaluate`; keep the weights if they are the best so far."""
        predictions = evaluation.predict_all(self.kept, job)
        with distributed.together():
            scores = [s for m in evaluation.measure(predictions, job.spec, job.dataset) for s in m.scores]
        set_training(self.net)
        found = {s.name: s for s in scores}
        if self.recipe.best not in found:
            raise UsageError(f"{job.spec.name} does not measure '{self.recipe.best}', but {', '.join(found)}")
        chosen = found[self.recipe.best]
        sign = 1 if chosen.higher_is_better else -1
        if not self.best or sign * chosen.value > sign * self.best["value"]:
            self.best = {"metric": chosen.name, "value": float(chosen.value), "step": self.step}
            if self.first:
                self.write_weights(self.out / "best.safetensors", self.kept.state_dict())
        values = {name: float(s.value) for name, s in found.items()}
        if self.log is not None:
            self.log.add("val", {"step": self.step, **values})
        self.report(float("nan"), 0.0, values)

    def write_weights(self, path: Path, state: Mapping[str, Tensor]) -> None:
        """Weights as safetensors, with what they are."""
        metadata = {
            "model": self.job.card.name,
            "recipe": self.recipe.name,
            "dataset": self.job.spec.name,
            "annotations_sha256": self.job.annotations_sha256,
            "people": str(self.job.examples.count),
            "started_from": self.started_from,
            "step": str(self.best.get("step", self.step)),
            "people_per_step": str(self.job.people_per_step),
            "seconds": str(round(self.seconds)),
            "seed": str(self.job.seed),
            "commit": str(environment.commit()),
            "best": json.dumps(self.best),
            "settings": self.job.settings.model_dump_json(),
        }
        on_host = {k: v.detach().cpu() for k, v in state.items()}
        if self.half:  # vectors stay: they are small, and a batch norm's variance may be beyond half precision
            on_host = {k: v.half() if v.is_floating_point() and v.ndim > 1 else v for k, v in on_host.items()}
            too_large = [k for k, v in on_host.items() if v.is_floating_point() and not torch.isfinite(v).all()]
            if too_large:
                raise HmrbenchError(f"{too_large[0]}: does not fit half precision")
        path.parent.mkdir(parents=True, exist_ok=True)
        checkpoints.save_state(on_host, path, metadata)
        path.chmod(0o644)

    def export(self) -> Path:
        """Write `weights.safetensors`: the best by validation, else the last."""
        path, best = self.out / "weights.safetensors", self.out / "best.safetensors"
        if self.first:
            state = checkpoints.read_state(best) if self.best else self.kept.state_dict()
            self.write_weights(path, state)
        if self.log is not None:
            self.log.close()
        return path
