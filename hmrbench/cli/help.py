"""What `--help` shows beside a command's own words: flags in panels, and examples below them."""

from __future__ import annotations

import shutil
from typing import Any

import typer
from typer.core import TyperCommand

NARROW = 60  # columns; with fewer, boxes would cut flags off
MANY = 10  # with more flags than that, a command's are grouped

# The flags of all commands, by the name of their parameter; those of no panel are "Options".
PANELS = {
    "Data": (
        "dataset", "data_root", "datasets_file", "boxes", "limit", "val_dataset", "val_limit", "cache", "box_score",
    ),
    "Network": ("weights", "flip", "codec", "body", "mesh_assets", "protocol", "models_dir", "init"),
    "Recipe": ("recipe", "epochs", "steps", "lr", "seed", "real_bodies"),
    "What is drawn": (
        "task", "x", "y", "size", "with_published", "untrained", "front", "labels", "y_min", "y_max", "pictures", "by",
    ),
    "In 8 bits": ("calibrate", "calibration_crops", "max_drop"),
    "The picture": ("width", "height", "dpi", "title", "side_view", "keypoint_score", "save_mesh"),
    "What is timed": ("every", "scope", "repeats", "seconds", "by_module", "unstable"),
    "What is held": ("baseline", "update", "costs", "interval", "tolerance", "resamples", "confidence"),
    "Device and speed": (
        "device", "dtype", "runtime", "batch_size", "workers", "threads", "fuse", "compile", "channels_last",
        "cuda_graph", "no_cuda_graph",
    ),
    "What is written": (
        "runs", "output", "out", "save_predictions", "json", "resume", "minutes", "half", "format", "digits", "metric",
        "junit", "summary", "against", "offline",
    ),
}  # fmt: skip

EXAMPLES = {
    "models": ("hmrbench models 'gmf*-s3'",),
    "show": ("hmrbench show swinpose-s-s3",),
    "eval": (
        "hmrbench eval vmpose-t-s2 --dataset demo-pose",
        "hmrbench eval 'swinhmr2-s-*' -d 3dpw-test -d h36m-val-p2 --data-root data",
        "hmrbench eval vitpose-b -d coco-val --boxes gt --weights w.pth --resume",
    ),
    "score": ("hmrbench score predictions.json --dataset coco-val --data-root data",),
    "predict": (
        "hmrbench predict vmpose-t-s2 photo.jpg --boxes full --weights demo",
        "hmrbench predict hmr2-h photo.jpg --side-view --save-mesh obj",
    ),
    "export": (
        "hmrbench export vmpose-t-s2 --runtime onnx --weights demo -o vmpose.onnx",
        "hmrbench export vmpose-t-s2 --runtime openvino --dtype int8 --calibrate demo-pose-train -o v.xml",
    ),
    "table": (
        "hmrbench table --task hmr",
        "hmrbench table --against S4 --with-published -f latex -o table.tex",
    ),
    "profile": (
        "hmrbench profile 'swinpose-t-*' --batch-size 1,8 --device cpu",
        "hmrbench profile --all --task hmr --repeats 0",
        "hmrbench profile hmr2-h --by-module --dtype fp16 --device cuda",
    ),
    "plot": (
        "hmrbench plot --x macs --with-published -o plot.pdf",
        "hmrbench plot 'gmf*' --y coco-val:AP --x rate --device H100 --batch-size 1",
    ),
    "report": ("hmrbench report --with-published -o report.html",),
    "compare": ("hmrbench compare runs/A.json runs/B.json",),
    "check": (
        "hmrbench check --baseline baselines/my.json --update",
        "hmrbench check --baseline baselines/my.json --junit gate.xml",
        "hmrbench check --baseline baselines/costs.json --costs",
    ),
    "reproduce": (
        "hmrbench reproduce --dataset coco-val --data-root data",
        "hmrbench reproduce 'rtmpose-*' -d coco-val -o rtmpose.html",
    ),
    "train": (
        "hmrbench train vmpose-t-s2 -d demo-pose-train --recipe demo-pose-small --data-root data",
        "hmrbench train vmpose-t-s2 -d demo-pose-train --resume --minutes 30",
        "hmrbench train swinhmr2-t-s3 -d demo-mesh-train --init pose/weights.safetensors --steps 500",
    ),
    "demo": ("hmrbench demo", "hmrbench demo --limit 8 -o quick"),
    "datasets fetch": ("hmrbench datasets fetch coco-val --data-root data",),
    "weights fetch": ("hmrbench weights fetch 'vitpose-*'",),
}


class Command(TyperCommand):
    """A command whose help groups many flags in panels and ends with examples, each on lines of its own."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        options = [p for p in self.params if p.param_type_name == "option"]
        panels = {name: panel for panel, names in PANELS.items() for name in names}
        for option in options if len(options) > MANY else ():
            option.rich_help_panel = panels.get(option.name or "")  # type: ignore[attr-defined]

    def format_help(self, ctx: typer.Context, formatter: Any) -> None:  # type: ignore[override]
        """The help as typer draws it, where flags fit into its boxes, and the examples as they are typed."""
        columns = shutil.get_terminal_size().columns
        mode, width = self.rich_markup_mode, formatter.width
        if columns < NARROW:
            self.rich_markup_mode, formatter.width = None, columns - 3
        super().format_help(ctx, formatter)
        self.rich_markup_mode, formatter.width = mode, width
        name = ctx.command_path.partition(" ")[2]
        if lines := EXAMPLES.get(name):
            formatter.write("\n".join(["", " Examples:", *(f"   {line}" for line in lines), ""]))
