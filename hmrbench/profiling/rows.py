"""What a network costs -> one ProfileResult per batch size, kept as soon as it is there."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import nn

from hmrbench.cards import load_card
from hmrbench.errors import UsageError
from hmrbench.profiling import counts
from hmrbench.profiling.session import Session
from hmrbench.profiling.settings import ProfileSettings, check_settings
from hmrbench.records import ProfileResult
from hmrbench.results import runs as results
from hmrbench.schema import ModelCard
from hmrbench.zoo import parts

_LONGER = 3  # times as long may a row take that was not stable before


def profile_model(
    model: str | ModelCard | nn.Module,
    *,
    batch_size: int = 1,
    input_size: tuple[int, int] = (256, 192),
    device: str = "auto",
    dtype: str = "fp32",
    repeats: int | None = None,
    seconds: float = 10.0,
    scope: str = "model",
    runtime: str | Path | None = None,
    compile: bool = False,
    channels_last: bool = False,
    cuda_graph: bool = False,
    threads: int | None = None,
    weights: str | Path | None = None,
    fused: bool = True,
    by_module: bool = False,
    models_dirs: Sequence[str | Path] = (),
    runs: str | Path | None = None,
    resume: bool = False,
) -> ProfileResult:
    """What one network costs at one batch size, as `hmrbench profile` measures it.

    A network that fails gives a result too: `status` is `failed` or `out of memory` and `error` says why. On the CPU
    the process keeps freed memory from then on (`device.keep_freed_memory`).

    Args:
        model: a name, a card, or a network that maps (B, 3, H, W) to a tensor or several; it is left on the
            device that it was measured on.
        batch_size: pictures at once.
        input_size: H and W in pixels, for a network; a card has its own.
        device: `auto`, `cpu`, `cuda`, `cuda:1`.
        dtype: fp32, tf32, or for autocast fp16, bf16.
        repeats: number of timed forwards; 0 counts only; None samples until the median is known to 1 %.
        seconds: time for warm-up and sampling, where `repeats` is None.
        scope: `model` times the network alone, `end2end` also reading a JPEG, crop and decoding the output.
        runtime: what runs the network, by name or import path, or the file to run; None for PyTorch, which alone takes
            the next three.
        compile: run through torch.compile.
        channels_last: use that memory format for weights and input.
        cuda_graph: replay a CUDA graph.
        threads: of PyTorch on the CPU; None leaves its own choice.
        weights: `random`, `demo`, a file, or a source; None for untrained ones, which cost the same.
        fused: let the network take its short cuts; MACs are those of the plain network anyway.
        by_module: the row also says how parameters and MACs spread over all modules.
        models_dirs: folders of further model cards.
        runs: the folder for the row and its samples; None writes nothing.
        resume: take a finished row from there.

    Returns:
        The row: counts of one picture, times, memory, energy, and everything needed to obtain them again.

    Raises:
        UsageError: unknown name, or invalid settings.
        NotWrittenError: the row could not be written into `runs`; it holds the row.
    """
    settings = ProfileSettings(
        device=device,
        dtype=dtype,
        repeats=repeats,
        seconds=seconds,
        scope=scope,
        runtime=None if runtime is None else str(runtime),
        compile=compile,
        channels_last=channels_last,
        cuda_graph=cuda_graph,
        threads=threads,
        weights=weights,
        fused=fused,
        by_module=by_module,
    )
    check_settings(settings)
    if isinstance(batch_size, bool) or batch_size < 1:
        raise UsageError(f"batch size must be above 0, not {batch_size}")
    if isinstance(model, str):
        model = load_card(model, [Path(folder) for folder in models_dirs])
    if isinstance(model, nn.Module) and scope == "end2end":
        raise UsageError("end2end needs a model card, which knows crop and codec")
    card, net = (model, None) if isinstance(model, ModelCard) else (None, model.eval())
    session = Session(card, net, input_size if card is None else card.input, settings)
    return next(_rows(session, (batch_size,), None if runs is None else Path(runs), resume))


def profile_card(
    card: ModelCard,
    settings: ProfileSettings,
    batch_sizes: Sequence[int] = (1,),
    *,
    runs: Path | None = None,
    resume: bool = False,
    unstable: bool = False,
) -> Iterator[ProfileResult]:
    """A row for each batch size, written as soon as it is measured; the network is built once, then freed.

    Args:
        resume: take finished rows from `runs`.
        unstable: of these, measure those that are not stable again, with more time, and keep the better row.

    Raises:
        UsageError: invalid settings.
    """
    return _rows(Session(card, None, card.input, settings), batch_sizes, runs, resume, unstable)


def by_size(cards: Sequence[ModelCard]) -> list[ModelCard]:
    """Cards by their number of parameters, so that a table that is stopped early holds something of every family.

    Those whose networks do not tell it come last, in the order given.
    """
    return sorted(cards, key=_params)


def _params(card: ModelCard) -> float:
    try:
        found = (counts.find(card) if counts.are_of_this_package(card) else None) or parts.count_parameters(card)
    except Exception:  # whatever is wrong comes up again in the card's own row
        found = {}
    return found.get("params") or math.inf


def _better(new: ProfileResult, old: ProfileResult) -> bool:
    """Whether a row measured again takes the place of one that is not stable."""
    a, b = new.row(), old.row()
    return new.status == "ok" and (bool(a["stable"]) or (a["spread"] or math.inf) < (b["spread"] or math.inf))


def _rows(
    session: Session, batch_sizes: Sequence[int], runs: Path | None, resume: bool, unstable: bool = False
) -> Iterator[ProfileResult]:
    """Rows of one network, each saved before the next is measured; one that failed before is tried again."""
    try:
        for batch_size in batch_sizes:
            key = results.run_key(session.identity(batch_size))
            done = results.finished(runs, "profile", key) if runs is not None and resume else None
            before = None if done is None or done.row["status"] == "failed" else ProfileResult.from_row(done.row)
            again = before is not None and unstable and before.row().get("stable") is False
            if before is not None and not again:
                yield before
                continue
            result, samples = session.measure(batch_size, _LONGER if again else 1)
            if before is not None and not _better(result, before):
                yield before
                continue
            if runs is not None:
                arrays = None if samples is None else {"samples_ms": samples}
                try:
                    results.save(runs, "profile", result.row(), key, arrays)
                except OSError as e:
                    raise results.NotWrittenError(
                        f"{runs}: the row could not be written ({e.strerror or e})", result
                    ) from e
            yield result
    finally:
        session.close()
