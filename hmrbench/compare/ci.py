"""Verdicts of the gate in the forms that continuous integration reads."""

from __future__ import annotations

from collections.abc import Sequence

from hmrbench.compare.gate import Verdict, regressions
from hmrbench.metrics.measures import COUNTS


def junit_xml(verdicts: Sequence[Verdict]) -> bytes:
    """Verdicts as JUnit test cases: those that fail as failures, those of other devices as skipped."""
    from xml.etree import ElementTree

    failed = regressions(verdicts)
    skipped = [v for v in verdicts if v.verdict in ("other device", "no interval")]
    sizes = {
        "tests": str(len(verdicts)),
        "failures": str(len(failed)),
        "skipped": str(len(skipped)),
        "errors": "0",
    }
    root = ElementTree.Element("testsuites", sizes)
    suite = ElementTree.SubElement(root, "testsuite", {"name": "hmrbench check", **sizes})
    for v in verdicts:
        name = f"{v.measure} of {v.model}" + (f" on {v.on}" if v.on else "")
        case = ElementTree.SubElement(suite, "testcase", {"classname": f"hmrbench.{v.kind}", "name": name})
        if v in failed:
            failure = ElementTree.SubElement(case, "failure", {"type": v.verdict, "message": verdict_text(v)})
            failure.text = verdict_text(v)
        elif v in skipped:
            ElementTree.SubElement(case, "skipped", {"message": v.detail})
    ElementTree.indent(root)
    xml: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return xml + b"\n"


def summary_markdown(verdicts: Sequence[Verdict], title: str) -> str:
    """A GitHub step summary: how many numbers were held against the baseline, and those that regressed."""
    failed = regressions(verdicts)
    mark = "❌" if failed else "✅"
    lines = [f"### {mark} hmrbench check: {title}", "", _count(verdicts), ""]
    silent = [v for v in verdicts if v.verdict == "no interval"]
    lines += [f"No interval of {v.measure} of {v.model}: {v.detail}." for v in silent] + [""] * bool(silent)
    if failed:
        lines += ["| model | on | measure | baseline | now | verdict |", "|:--|:--|:--|--:|--:|:--|"]
        for v in failed:
            cells = (
                v.model,
                v.on,
                v.measure,
                format_number(v.measure, v.baseline),
                format_number(v.measure, v.value),
            )
            lines.append("| " + " | ".join((*cells, f"{v.verdict} {v.detail}".strip())).replace("\n", " ") + " |")
        lines.append("")
    return "\n".join(lines)


def _count(verdicts: Sequence[Verdict]) -> str:
    words = [f"{sum(v.verdict == w for v in verdicts)} {w}" for w in dict.fromkeys(v.verdict for v in verdicts)]
    models = len({v.model for v in verdicts})
    return f"{len(verdicts)} numbers of {models} model{'s' if models != 1 else ''}: {', '.join(words)}."


def verdict_text(verdict: Verdict) -> str:
    """A verdict in one line."""
    where = f" on {verdict.on}" if verdict.on else ""
    numbers = " -> ".join(format_number(verdict.measure, v) for v in (verdict.baseline, verdict.value))
    detail = f" ({verdict.detail})" if verdict.detail else ""
    return f"{verdict.model}{where}: {verdict.measure} {numbers}: {verdict.verdict}{detail}"


def format_number(measure: str, value: float | None) -> str:
    """A gated number with the digits that its tolerance needs."""
    if value is None:
        return "-"
    return f"{value:,}" if measure in COUNTS else f"{value:.3f}"
