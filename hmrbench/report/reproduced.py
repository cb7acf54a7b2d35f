"""What `hmrbench reproduce` found, in one HTML page that loads nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from hmrbench import __version__
from hmrbench.metrics.measures import measure_of


def format_number(metric: str, value: float | None) -> str:
    """A score with the digits of its metric; empty where there is none."""
    return "" if value is None else f"{value:.{measure_of(metric).digits}f}"


def cells(row: Mapping[str, Any]) -> dict[str, str]:
    """One number of a claim in words: what a page and the terminal show."""
    metric = row["metric"]
    number = {key: format_number(metric, row[key]) for key in ("published", "measured", "low", "high")}
    difference = "" if row["difference"] is None else f"{row['difference']:+.{measure_of(metric).digits}f}"
    return {
        "model": row["model"],
        "weights": row["variant"] or "-",
        "metric": metric,
        "published": number["published"],
        "measured": number["measured"],
        "difference": difference,
        "interval": f"{number['low']} to {number['high']}" if number["low"] else "",
        "verdict": row["verdict"],
    }


def page(rows: Sequence[Mapping[str, Any]], title: str) -> str:
    """The page of these rows (`compare.reproduce.Reproduction`, as mappings)."""
    environment = Environment(
        loader=PackageLoader("hmrbench", "report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    counts = Counter(row["verdict"] for row in rows)
    text: str = environment.get_template("reproduced.html.j2").render(
        title=title,
        version=__version__,
        rows=[(cells(row), row) for row in rows],
        counts=counts,
    )
    return text
