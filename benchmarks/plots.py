"""Draws what a comparison found: throughput against clients, and p99 against the rate offered.

    python -m benchmarks.plots [results/compare.json] [--out plots]

The only program here that needs matplotlib.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks import report
from benchmarks.generators import ROOT

mpl.use("Agg")
HERE = ROOT / "benchmarks"
COLOURS = {"genserve": "#d62728", "mosec": "#1f77b4", "litserve": "#2ca02c", "fastapi": "#7f7f7f", "bentoml": "#9467bd"}
NAMES = {"genserve": "Genserve", "litserve": "LitServe", "fastapi": "plain FastAPI", "bentoml": "BentoML"}
SIZE = (7.5, 4.5)  # inches
DPI = 120


def throughput(axes: Axes, run: Mapping[str, Any]) -> None:
    """Requests/s by clients in closed loop, median and range of the rounds, and the limit."""
    for name, server in run["servers"].items():
        counts = [int(count) for count in server["closed"]]
        rounds = [load["throughput"] for load in server["closed"].values()]
        middles = [report.middle(load, "throughput") for load in server["closed"].values()]
        around = [[m - min(r) for m, r in zip(middles, rounds, strict=True)],
                  [max(r) - m for m, r in zip(middles, rounds, strict=True)]]  # fmt: skip
        axes.errorbar(counts, middles, around, marker="o", capsize=3, color=COLOURS[name], label=NAMES.get(name, name))
    if run.get("limit"):
        axes.axhline(run["limit"]["throughput"], color="black", linestyle="--", linewidth=1, label="composed limit")
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("clients, closed loop")
    axes.set_ylabel("requests answered a second")


def latency(axes: Axes, run: Mapping[str, Any]) -> None:
    """p99 by offered rate in open loop; a cross where more than 1 % was not answered."""
    for name, server in run["servers"].items():
        points = [point for point in server["open"] if point["p99"] is not None]
        rates, took = [p["offered"] for p in points], [p["p99"] * 1000 for p in points]
        axes.plot(rates, took, marker=".", color=COLOURS[name], label=NAMES.get(name, name))
        lossy = [p for p in points if p["failed"] + p["refused"] > 0.01 * (p["answered"] + p["failed"] + p["refused"])]
        rates, took = [p["offered"] for p in lossy], [p["p99"] * 1000 for p in lossy]
        axes.plot(rates, took, "x", markersize=10, color=COLOURS[name])
    axes.set_yscale("log")
    axes.set_xlim(left=0)
    axes.set_xlabel("requests offered a second, open loop")
    axes.set_ylabel("p99, ms")


def draw(path: Path, title: str, fill: Any, run: Mapping[str, Any]) -> None:
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots()
    fill(axes, run)
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)
    print(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figures", nargs="?", type=Path, default=HERE / "results/compare.json")
    parser.add_argument("--out", type=Path, default=HERE / "plots")
    options = parser.parse_args()
    run = json.loads(options.figures.read_text())
    for name, found in run["generators"].items():
        story = f"{name}, {found['dtype']}, {run['machine']['cores']} cores ({run['date'][:10]}, {run['describe']})"
        draw(options.out / f"{name}-throughput.png", story, throughput, found)
        if any(server["open"] for server in found["servers"].values()):
            draw(options.out / f"{name}-latency.png", story, latency, found)


if __name__ == "__main__":
    main()
