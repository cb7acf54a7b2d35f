"""The table of docs/runtimes.md: how far each network is off PyTorch on other runtimes, and what it costs on each.

    python docs/runtimes_table.py                # every network, small ones first; hours
    python docs/runtimes_table.py 'swin*-s3'     # some
    python docs/runtimes_table.py --kept         # the table alone, from the rows that are there

Each row is kept in the folder of runs as soon as it is measured, and one that is there for this commit is not measured
again, so it can be stopped at any time. A network that fails is in the table with its reason, and stops nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PAGE = Path(__file__).with_name("runtimes.md")
BEGIN, END = "<!-- the table of docs/runtimes_table.py -->\n", "<!-- its end -->\n"
NAMES = {"pytorch": "PyTorch", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}

Rows = Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]  # by model and runtime, oldest first


def main() -> None:
    """Measure what was asked for, and write the table of all rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["*"], help="names or globs; all if none")
    parser.add_argument("--runs", type=Path, default=Path("build/runtimes"), help="where rows are kept")
    parser.add_argument("--seconds", type=float, default=10, help="for each latency")
    parser.add_argument("--kept", action="store_true", help="measure nothing")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page to write the table into")
    args = parser.parse_args()
    if not args.kept:
        measure(args.models, args.runs, args.seconds)
    text = args.page.read_text()
    head, _, rest = text.partition(BEGIN)
    tail = rest.partition(END)[2]
    args.page.write_text(f"{head}{BEGIN}\n{table(kept(args.runs))}\n{END}{tail}")


def measure(models: Sequence[str], runs: Path, seconds: float) -> None:
    """Rows of the networks on each runtime, on the CPU in fp32, at one picture at once."""
    from hmrbench import profiling
    from hmrbench.cards import find_cards, load_cards

    for card in profiling.by_size(find_cards(models, load_cards())):
        for runtime in NAMES:
            settings = profiling.ProfileSettings(device="cpu", runtime=runtime, seconds=seconds)
            for row in (r.row() for r in profiling.profile_card(card, settings, runs=runs, resume=True)):
                print(row["model"], runtime, row["status"], row["error"] or f"{row['latency_ms']:.1f} ms", flush=True)


def kept(runs: Path) -> Rows:
    """The rows of a folder that belong into the table."""
    from hmrbench.results.runs import load_runs

    found: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
    for row in (run.row for run in load_runs(runs, "profile")):
        if row["runtime"] in NAMES and (row["dtype"], row["batch_size"], row["scope"]) == ("fp32", 1, "model"):
            found.setdefault(row["model"], {}).setdefault(row["runtime"], []).append(row)
    return found


def table(rows: Rows) -> str:
    """The table as Markdown, of every network that this package has, and a line of what holds for all."""
    from hmrbench.cards import load_cards
    from hmrbench.profiling import by_size

    heads = ["network", "input", *(f"{name}, ms" for name in NAMES.values())]
    heads += [f"{name}, off by" for key, name in NAMES.items() if key != "pytorch"]
    lines = [_line(heads), "|---|---|" + "--:|" * (len(heads) - 2)]
    for card in by_size(list(load_cards().values())):
        own = rows.get(card.name, {})
        cells = [f"`{card.name}`", card.input_text, *(_latency(own.get(key, ())) for key in NAMES)]
        lines.append(_line([*cells, *(_off(own.get(key, ())) for key in NAMES if key != "pytorch")]))
    timed = [row for own in rows.values() for all_rows in own.values() if (row := _timed(all_rows))]
    places = dict.fromkeys(f"{r['device']}, {r['threads']} threads, {r['runtime_version']}" for r in timed)
    said = "; ".join(places) or "not measured yet"
    return "\n".join([*lines, "", f"Latency: {said}. One with ~ varied too much to be known to 1 %.", ""])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _timed(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The newest row whose latency is known to 1 %, else the newest of three forwards or more."""
    measured = [row for row in rows if row["status"] == "ok" and (row["samples"] or 0) >= 3]
    settled = [row for row in measured if row["stable"]]
    return (settled or measured or [None])[-1]


def _latency(rows: Sequence[Mapping[str, Any]]) -> str:
    row = _timed(rows)
    return "" if row is None else f"{'' if row['stable'] else '~'}{row['latency_ms']:.1f}"


def _off(rows: Sequence[Mapping[str, Any]]) -> str:
    """The largest difference to PyTorch in standard deviations of its output, or why there is none."""
    if not rows:
        return "not measured"
    newest = rows[-1]
    return f"{newest['error_std']:.1e}" if newest["status"] == "ok" else f"{newest['status']}: {newest['error'][:80]}"


if __name__ == "__main__":
    main()
