"""`hmrbench profile`: what networks cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hmrbench.cli.options import (
    Device,
    Dtype,
    Fuse,
    Json,
    ModelsDirs,
    Runs,
    Task,
    Weights,
    _complete_model,
    print_json,
    show_view,
    stderr,
    stdout,
)

if TYPE_CHECKING:
    from rich.tree import Tree

    from hmrbench.report.views import View
    from hmrbench.schema import ModelCard

_SMALL = 0.02  # modules with less of both parameters and MACs share one line of a tree


def profile(
    model: Annotated[
        list[str] | None,
        typer.Argument(help="Names or globs, such as 'gmf*-s3'.", autocompletion=_complete_model),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All models, of both tasks, from small to large.")] = False,
    task: Task = None,
    batch_size: Annotated[
        str,
        typer.Option("--batch-size", envvar="HMRBENCH_BATCH_SIZE", help="One or several, such as 1,8,64."),
    ] = "1",
    dtype: Dtype = "fp32",
    runtime: Annotated[
        list[str] | None,
        typer.Option(
            "--runtime",
            envvar="HMRBENCH_RUNTIME",
            help="pytorch, onnxruntime, openvino, tensorrt, an import path, or a file of `hmrbench export`; may be "
            "repeated. all: every one that is here, in every precision that this machine serves.",
        ),
    ] = None,
    device: Device = "auto",
    scope: Annotated[
        str, typer.Option("--scope", help="model, or end2end: from the JPEG file to keypoints.")
    ] = "model",
    repeats: Annotated[
        int | None,
        typer.Option("--repeats", min=0, help="Timed forwards; 0 only counts; until stable if none."),
    ] = None,
    seconds: Annotated[
        float, typer.Option("--seconds", help="Time to become stable, per row, where --repeats does not say.")
    ] = 10.0,
    compile: Annotated[bool, typer.Option("--compile", help="Run through torch.compile.")] = False,
    channels_last: Annotated[bool, typer.Option("--channels-last", help="Use that memory format.")] = False,
    cuda_graph: Annotated[bool, typer.Option("--cuda-graph", help="Replay a CUDA graph.")] = False,
    fuse: Fuse = True,
    threads: Annotated[
        int | None,
        typer.Option("--threads", min=1, help="PyTorch's threads on the CPU; its own choice if none."),
    ] = None,
    by_module: Annotated[
        bool, typer.Option("--by-module", help="Also show where parameters and MACs are, as a tree.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Keep rows that are there; failed ones run again.")] = False,
    unstable: Annotated[
        bool, typer.Option("--unstable", help="With --resume: rows that are not stable run again, for longer.")
    ] = False,
    weights: Weights = None,
    runs: Runs = Path("runs"),
    models_dir: ModelsDirs = None,
    json: Json = False,
) -> None:
    """Measure what networks cost: parameters, MACs, latency, memory, energy; one row each, kept in `--runs`.

    Weights are random unless `--weights` says otherwise (a network of another backend has its own): the cost does not
    depend on them. MACs are those of one image. A model that fails is a row that says why, and exit code 1 in the
    end. A batch that memory does not hold is a row that says so. Several runtimes are shown from the fastest on.
    """
    from hmrbench import profiling
    from hmrbench.errors import HmrbenchError, UsageError
    from hmrbench.fetch import sources
    from hmrbench.results import runs as results

    if bool(model) == every:
        raise UsageError("give names of models, or --all" + (", not both" if every else ""))
    if unstable and not resume:
        raise UsageError("--unstable says which rows of --resume run again: give both")
    cards = _cards(model or ["*"], models_dir or [], task)
    settings = profiling.ProfileSettings(
        device=device, dtype=dtype, repeats=repeats, seconds=seconds, scope=scope, compile=compile,
        channels_last=channels_last, cuda_graph=cuda_graph, threads=threads, weights=weights, fused=fuse,
        by_module=by_module,
    )  # fmt: skip
    variants = profiling.variants(settings, runtime or [])
    batch_sizes = profiling.pick_batch_sizes(batch_size)
    for card in cards if weights is not None else ():
        sources.resolve_weights(card, weights)
    results.try_writing(runs / "profile.json", runs)
    if every:
        cards = profiling.by_size(cards)
    remark = stderr()
    rows: list[dict[str, Any]] = []
    unwritten: HmrbenchError | None = None
    try:
        for number, (card, variant) in enumerate(((c, v) for c in cards for v in variants), start=1):
            found = profiling.profile_card(card, variant, batch_sizes, runs=runs, resume=resume, unstable=unstable)
            for result in found:
                rows.append(result.row())
                news = f"[{number}/{len(cards) * len(variants)}] {_news(rows[-1], len(variants) > 1)}"
                remark.print(news, markup=False, soft_wrap=True)
    except results.NotWrittenError as e:
        unwritten = e
        rows.append(e.result.row())
    except KeyboardInterrupt:
        remark.print("stopped; --resume keeps the rows that are there", markup=False)
        raise
    if len(variants) > 1:
        place = {card.name: i for i, card in enumerate(cards)}
        rows.sort(key=lambda r: (place[r["model"]], r["batch_size"], r["latency_ms"] is None, r["latency_ms"] or 0))
    if json:
        print_json(rows)
    else:
        _show(rows)
    if unwritten is not None:
        raise unwritten
    if any(row["status"] == "failed" for row in rows):
        raise typer.Exit(1)


def _cards(names: list[str], models_dirs: list[Path], task: str | None) -> list[ModelCard]:
    """The networks of these names that are for a task, or for any."""
    from hmrbench.cards import find_cards, load_cards
    from hmrbench.errors import UsageError

    found = [card for card in find_cards(names, load_cards(models_dirs)) if task in (None, card.task)]
    if not found:
        raise UsageError(f"none of these networks is for {task}")
    return found


def _show(rows: Sequence[Mapping[str, Any]]) -> None:
    show_view(profile_view(rows))
    trees = {row["model"]: row for row in rows if row.get("by_module")}
    for row in trees.values():
        stdout().print(module_tree(row))


def _news(row: Mapping[str, Any], several: bool = False) -> str:
    """One line for a row that has just been measured; it names the runtime where there are several."""
    where = f"{row['model']}, batch size {row['batch_size']}"
    where += f", {row['runtime']} {row['dtype']}" if several else ""
    if row["status"] != "ok":
        return f"{where}: {row['status']}: {row['error']}"
    parts = [] if row["macs"] is None else [f"{row['macs'] / 1e9:.2f} GMACs"]
    if row.get("params_unread"):
        parts.append(
            f"{row['params_unread'] / 1e6:.2f} M of {row['params'] / 1e6:.2f} M parameters are in official files and "
            "published numbers, and no forward reads them"
        )
    if row.get("count_error"):
        parts.append(f"MACs cannot be counted ({row['count_error']})")
    if row.get("not_on_meta"):
        parts.append(f"counted on {row['counted_on']} with data, not on the meta device ({row['not_on_meta']})")
    if row["latency_ms"] is not None:
        parts.append(f"{row['latency_ms']:.2f} ms")
    if row.get("stable") is False:
        parts.append(f"not stable ({row['samples']} samples, spread {100 * row['spread']:.0f} %)")
    if row.get("output_finite") is False:
        parts.append("output not finite")
    parts += [f"counters disagree on {text}" for text in row.get("count_disagreements", ())]
    if row.get("uncounted"):
        parts.append("not counted: " + ", ".join(row["uncounted"]))
    return f"{where}: {', '.join(parts)}"


def profile_view(rows: Sequence[Mapping[str, Any]]) -> View:
    """Rows of `profile`, narrow enough for a terminal; what they share stands below."""
    from hmrbench.report.views import View

    several = len({row["batch_size"] for row in rows}) > 1
    timed = any(row["latency_ms"] is not None for row in rows)
    noted = any(map(_note, rows))
    differ = {k: k for k in ("runtime", "dtype") if len({row.get(k) for row in rows}) > 1}
    differ |= {"instruction_set": "served by"} if differ else {}
    columns = {
        "model": "model",
        **differ,
        "batch_size": "batch",
        "params": "M par.",
        "macs": "GMACs",
        "activations": "M act.",
    }
    columns |= {"latency_ms": "ms", "latency_ms_p90": "p90", "images_per_s": "img/s", "peak_memory_mb": "MB"}
    hidden = {"activations"} if timed else {"latency_ms", "latency_ms_p90", "images_per_s", "peak_memory_mb"}
    shown = [key for key in columns if key not in hidden and (several or key != "batch_size")]
    cells = [[*(_cell(key, row.get(key)) for key in shown), *([_note(row)] if noted else [])] for row in rows]
    return View(
        [*(columns[key] for key in shown), *(["note"] if noted else [])],
        cells,
        _caption(rows[0], several, timed, "runtime" in differ, "dtype" in differ),
    )


def _cell(key: str, value: Any) -> Any:
    """A number in the unit of its column, without decimals from 100 on."""
    scale = {"params": 1e6, "activations": 1e6, "macs": 1e9}.get(key, 1)
    if value is None or isinstance(value, str) or key == "batch_size":
        return value
    return round(value / scale) if value >= 100 * scale else value / scale


def _caption(row: Mapping[str, Any], several: bool, timed: bool, runtimes: bool, dtypes: bool) -> str:
    """What holds for all rows."""
    if not timed:
        return f"weights {row['weights']}; MACs and activations of one image, FLOPs are twice the MACs"
    extras = [name.replace("_", " ") for name in ("compile", "channels_last", "cuda_graph") if row[name]]
    extras += ["not fused"] if row.get("fused") is False else []
    batch = [] if several else [f"batch size {row['batch_size']}"]
    setting = [
        row["device"],
        f"{row['threads']} threads",
        *([] if runtimes or row["runtime"] == "pytorch" else [row["runtime"]]),
        *([] if dtypes else [row["dtype"]]),
        *batch,
        f"scope {row['scope']}",
        *extras,
    ]
    about = "MACs of one image, FLOPs are twice that; ms is the median"
    return f"{', '.join(setting)}, weights {row['weights']}; {about}"


def _note(row: Mapping[str, Any]) -> str:
    """What must not be overlooked about a row."""
    if row["status"] != "ok":
        return "no memory" if row["status"] == "out of memory" else str(row["status"])
    unsure = row.get("uncounted") or row.get("count_disagreements") or row.get("count_error")
    said = {
        "unstable": row.get("stable") is False,
        "not finite": row.get("output_finite") is False,
        "MACs?": unsure,
    }
    return ", ".join(word for word, so in said.items() if so)


def module_tree(row: Mapping[str, Any]) -> Tree:
    """Where a row's parameters and MACs are: equal neighbours as one, what has below 2 % of both together."""
    from rich.tree import Tree

    modules: Mapping[str, Sequence[int]] = row["by_module"]
    children: dict[str, list[str]] = {}
    for name in modules:
        if name:
            children.setdefault(name.rpartition(".")[0], []).append(name)

    def text(name: str, params: int, macs: int, times: int = 1) -> str:
        each = f"  each of {times}:" if times > 1 else ""
        share = 100 * macs / (row["macs"] or 1)
        return f"{name}{each}  {params / 1e6:.2f} M  {macs / 1e9:.3f} G  {share:.1f} %"

    def grow(tree: Tree, parent: str, times: int = 1) -> None:
        rest: list[Sequence[int]] = []
        for (params, macs), equal in groupby(children.get(parent, []), key=lambda name: tuple(modules[name])):
            names = list(equal)
            times_here = times * len(names)
            if times_here * max(params / (row["params"] or 1), macs / (row["macs"] or 1)) < _SMALL:
                rest += [(params, macs)] * len(names)
                continue
            own = [name.rpartition(".")[2] for name in names]
            label = own[0] if len(own) == 1 else f"{own[0]} to {own[-1]}"
            grow(tree.add(text(label, params, macs, len(own))), names[0], times_here)
        if any(map(any, rest)):
            tree.add(text(f"{len(rest)} smaller", sum(p for p, _ in rest), sum(m for _, m in rest)))

    root = Tree(text(row["model"], *modules[""]) + "   (parameters, MACs, share of MACs)")
    grow(root, "")
    return root
