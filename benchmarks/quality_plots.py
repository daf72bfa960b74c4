"""Draws how generators come to their quality, and what truncation trades.

    python -m benchmarks.quality_plots runs RUN... --out plots/losses.png
    python -m benchmarks.quality_plots truncation EVALUATION.json... --out plots/truncation.png

Runs are folders of `training.train`, evaluations what `training.evaluate --json --truncations` wrote.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

mpl.use("Agg")
SIZE = (7.5, 4.5)  # inches
DPI = 120


def runs(axes: Axes, folders: Sequence[Path]) -> None:
    """The rough distance on the steering judge's features by steps, which a busy machine does not stretch."""
    for folder in folders:
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        looks = [line for line in lines if "fd_clf_rough" in line]
        steps, distances = [line["step"] for line in looks], [line["fd_clf_rough"] for line in looks]
        axes.plot(steps, distances, marker=".", label=folder.name)
    axes.set_yscale("log")
    axes.set_xlabel("training steps")
    axes.set_ylabel("Frechet distance, steering judge, 2,000 pictures")


def truncation(axes: Axes, evaluations: Sequence[Path]) -> None:
    """Distance and class accuracy by diversity, a point a truncation."""
    right = axes.twinx()
    for i, path in enumerate(evaluations):
        found: dict[str, Any] = json.loads(path.read_text())
        points = sorted(found["truncation_curve"], key=lambda point: point["diversity"])
        across = [point["diversity"] for point in points]
        axes.plot(across, [p["fd_clf"] for p in points], marker="o", color=f"C{i}", label=f"{found['name']}, FD-clf")
        right.plot(across, [p["class_accuracy"] for p in points], "--", marker=".", color=f"C{i}", alpha=0.6)
        for point in points:
            axes.annotate(f"{point['truncation']:g}", (point["diversity"], point["fd_clf"]), fontsize=8)
    axes.set_xlabel("diversity (mean distance within a class)")
    axes.set_ylabel("FD-clf (lower is better)")
    right.set_ylabel("class accuracy (dashed)")


def draw(path: Path, kind: str, sources: Sequence[Path]) -> None:
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots()
    (runs if kind == "runs" else truncation)(axes, sources)
    axes.grid(alpha=0.3)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)
    print(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["runs", "truncation"])
    parser.add_argument("sources", nargs="+", type=Path)
    parser.add_argument("--out", required=True, type=Path)
    options = parser.parse_args()
    draw(options.out, options.kind, options.sources)


if __name__ == "__main__":
    main()
