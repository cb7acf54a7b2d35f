"""What a training run leaves to read: `log.csv`, `validation.csv`, and TensorBoard's files where it is
installed."""

from __future__ import annotations

import csv
import importlib.util
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hmrbench.errors import DataError, said
from hmrbench.files import read_bytes, write_atomic

_MAX_LOG = 256 << 20  # bytes


class Meter:
    """Means of named numbers over the steps since the last `reset`; they stay on their device until asked
    for."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.count = 0
        self.sums: dict[str, Tensor] = {}

    def add(self, numbers: Mapping[str, Tensor]) -> None:
        """Take in one step's numbers."""
        self.count += 1
        for name, value in numbers.items():
            value = value.detach().float()
            self.sums[name] = self.sums[name] + value if name in self.sums else value

    def means(self) -> tuple[list[str], Tensor]:
        """Names and means, (names,)."""
        return list(self.sums), torch.stack(list(self.sums.values())) / max(self.count, 1)

    def reset(self) -> None:
        """Begin anew."""
        self.count, self.sums = 0, {}

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"count": self.count, "sums": dict(self.sums)}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Put back what `state` gave."""
        self.count = int(state["count"])
        self.sums = {k: v.to(self.device) for k, v in state["sums"].items()}


class Table:
    """A CSV file to which rows are added; a resumed run first loses the rows after its checkpoint."""

    def __init__(self, path: Path, resumed_at: int | None) -> None:
        self.path = path
        rows = [r for r in read_table(path) if resumed_at is not None and int(r["step"]) <= resumed_at]
        if rows:
            text = io.StringIO()
            writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
            write_atomic(path, text.getvalue().encode())
        else:
            path.unlink(missing_ok=True)

    def add(self, row: Mapping[str, Any]) -> None:
        """Append one row; the first one sets the columns."""
        new = not self.path.exists()
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, list(row), lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerow(row)


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a log; empty where there is none. A row that was cut off is left out."""
    if not os.path.lexists(path):
        return []
    text = read_bytes(path, "log", _MAX_LOG).decode(errors="replace")
    try:
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
        return [r for r in rows if None not in r.values() and r["step"].isdecimal() and len(r["step"]) < 19]
    except (KeyError, AttributeError, csv.Error) as e:
        raise DataError(f"{path}: not a log of hmrbench train ({said(e)}); move it away") from e


class Log:
    """The logs of the process that writes."""

    def __init__(self, folder: Path, resumed_at: int | None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.training = Table(folder / "log.csv", resumed_at)
        self.validation = Table(folder / "validation.csv", resumed_at)
        self.board: Any = None
        if importlib.util.find_spec("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter

            purge = None if resumed_at is None else resumed_at + 1
            self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=purge)

    def add(self, kind: str, row: Mapping[str, Any]) -> None:
        """A row of `train` or `val`."""
        (self.training if kind == "train" else self.validation).add(row)
        if self.board is not None:
            for name, value in row.items():
                if name != "step":
                    self.board.add_scalar(f"{kind}/{name}", value, row["step"])

    def close(self) -> None:
        """Finish the files."""
        if self.board is not None:
            self.board.close()
