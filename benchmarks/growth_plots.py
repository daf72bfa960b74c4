"""Draws how cost grows: what requests cost, and what models cost.

    python -m benchmarks.growth_plots [results/growth.json] [--out plots]

Needs matplotlib. A dashed line grows linearly: what is steeper grows worse.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.generators import ROOT
from benchmarks.growth import RESULTS, Row

mpl.use("Agg")
DPI = 110
PANEL = (4.6, 3.7)  # inches
MIB = 1 << 20
RED, BLUE, GREEN, GREY = "#d62728", "#1f77b4", "#2ca02c", "#7f7f7f"
PACKINGS = {"sheet": RED, "zip": BLUE}

Panel = Callable[[Axes, Mapping[str, Sequence[Row]]], None]


def column(rows: Sequence[Row], name: str, factor: float = 1.0) -> list[float]:
    return [row[name] * factor for row in rows]


def _linear(axes: Axes, sizes: Sequence[float], last: float) -> None:
    """A dashed line through the last point, on which cost is proportional to size."""
    axes.plot(sizes, [last * size / sizes[-1] for size in sizes], "--", color=GREY, linewidth=1, label="proportional")


def _label(axes: Axes, title: str, x: str, y: str, ticks: Sequence[float] = ()) -> None:
    axes.set(title=title, xlabel=x, ylabel=y)
    if ticks:
        axes.set_xticks(ticks, [f"{tick:,.0f}" for tick in ticks])
        axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")


def latency(axes: Axes, found: Mapping[str, Sequence[Row]]) -> None:
    for packing, colour in PACKINGS.items():
        rows = [row for row in found["latency"] if row["packing"] == packing]
        counts = column(rows, "n")
        axes.loglog(counts, column(rows, "p50", 1e3), "o-", color=colour, label=f"{packing}, median")
        axes.loglog(counts, column(rows, "p99", 1e3), "^:", color=colour, label=f"{packing}, p99")
    _linear(axes, counts, rows[-1]["p50"] * 1e3)
    _label(axes, "One client", "pictures a request", "latency, ms", counts)


def queue(axes: Axes, found: Mapping[str, Sequence[Row]]) -> None:
    rows = found["queue"]
    depths = column(rows, "depth")
    axes.semilogx(depths, column(rows, "seconds_each", 1e6), "o-", color=RED, label="time until all are answered")
    axes.semilogx(depths, column(rows, "cpu_seconds_each", 1e6), "s-", color=BLUE, label="CPU time of the server")
    axes.set_ylim(bottom=0)
    _label(axes, "Cost a picture by queue depth", "requests in flight at once", "us a picture", depths)


def burst(axes: Axes, found: Mapping[str, Sequence[Row]]) -> None:
    rows = found["queue"]
    depths = column(rows, "depth")
    axes.loglog(depths, column(rows, "all_seconds", 1e3), "o-", color=RED, label="last answer")
    axes.loglog(depths, column(rows, "first_seconds", 1e3), "v-", color=GREEN, label="first answer")
    _linear(axes, depths, rows[-1]["all_seconds"] * 1e3)
    _label(axes, "A burst of requests", "requests in flight at once", "ms after sending", depths)


def departures(axes: Axes, found: Mapping[str, Sequence[Row]]) -> None:
    rows = found["departures"]
    depths = column(rows, "depth")
    axes.semilogx(depths, column(rows, "seconds_each", 1e6), "o-", color=RED, label="to forget one request")
    axes.set_ylim(bottom=0)
    _label(axes, "Clients that leave", "requests that wait", "us of the worker for each", depths)


def workers(axes: Axes, found: Mapping[str, Sequence[Row]]) -> None:
    for row, colour in zip(found["workers"], (BLUE, RED), strict=True):
        counts = [int(name.removeprefix("throughput_")) for name in row if name.startswith("throughput_")]
        rates = [row[f"throughput_{count}"] for count in counts]
        memory = (row["http_rss"] + row["workers_rss"]) / MIB
        label = f"{row['device']}: {memory:,.0f} MiB, up in {row['start_seconds']:.1f} s"
        axes.semilogx(counts, rates, "o-", color=colour, label=label)
    axes.set_ylim(bottom=0)
    _label(axes, "Workers", "clients, closed loop", "requests a second", counts)


def models_start(axes: Axes, found: Mapping[str, Sequence[Row]]) -> None:
    rows = found["models"]
    counts = column(rows, "models")
    axes.plot(counts, column(rows, "start_seconds"), "o-", color=RED, label="launch to first picture")
    axes.set_ylim(bottom=0)
    _label(axes, "Start-up by models", "models (347 thousand parameters each)", "s", counts)


def models_memory(axes: Axes, found: Mapping[str, Sequence[Row]]) -> None:
    rows = found["models"]
    counts = column(rows, "models")
    axes.plot(counts, column(rows, "workers_rss", 1 / MIB), "o-", color=RED, label="worker")
    axes.plot(counts, column(rows, "http_rss", 1 / MIB), "s-", color=BLUE, label="HTTP process")
    axes.set_ylim(bottom=0)
    _label(axes, "Memory by models", "models", "resident, MiB", counts)


def models_speed(axes: Axes, found: Mapping[str, Sequence[Row]]) -> None:
    rows = found["models"]
    counts = column(rows, "models")
    axes.plot(counts, column(rows, "p50", 1e6), "o-", color=RED, label="latency of one model, 1 client, us")
    axes.plot(counts, column(rows, "throughput"), "s-", color=BLUE, label="8 clients over all models, requests/s")
    axes.set_ylim(bottom=0)
    _label(axes, "Speed by models", "models", "us; requests a second", counts)


def sizes_start(axes: Axes, found: Mapping[str, Sequence[Row]]) -> None:
    rows = found["sizes"]
    sizes = column(rows, "parameters", 1e-6)
    axes.loglog(sizes, column(rows, "start_seconds"), "o-", color=RED, label="launch to first picture")
    _linear(axes, sizes, rows[-1]["start_seconds"])
    _label(axes, "Start-up by model size", "million parameters", "s")


def sizes_memory(axes: Axes, found: Mapping[str, Sequence[Row]]) -> None:
    rows = found["sizes"]
    sizes = column(rows, "parameters", 1e-6)
    axes.loglog(sizes, column(rows, "workers_peak", 1 / MIB), "^:", color=RED, label="worker, at most")
    axes.loglog(sizes, column(rows, "workers_rss", 1 / MIB), "o-", color=RED, label="worker")
    axes.loglog(sizes, column(rows, "http_rss", 1 / MIB), "s-", color=BLUE, label="HTTP process")
    _linear(axes, sizes, rows[-1]["workers_peak"] / MIB)
    _label(axes, "Memory by model size", "million parameters", "resident, MiB")


def idle(axes: Axes, found: Mapping[str, Sequence[Row]]) -> None:
    rows = found["idle"]
    names = [f"{row['models']} model{'s' * (row['models'] > 1)},\nafter {row['after']}" for row in rows]
    shares = [row["cpu_seconds"] / row["seconds"] * 100 for row in rows]
    axes.bar(names, shares, color=BLUE, label="both processes")
    axes.tick_params(axis="x", labelsize="small")
    axes.set_ylim(0, max(1.0, *shares))
    _label(axes, "Idle", "", "% of one core")


FIGURES: Mapping[str, Sequence[tuple[str, Panel]]] = {
    "growth-requests": (
        ("latency", latency),
        ("queue", queue),
        ("queue", burst),
        ("departures", departures),
        ("workers", workers),
        ("idle", idle),
    ),
    "growth-models": (
        ("models", models_start),
        ("models", models_memory),
        ("models", models_speed),
        ("sizes", sizes_start),
        ("sizes", sizes_memory),
    ),
}


def draw(path: Path, panels: Sequence[tuple[str, Panel]], run: Mapping[str, Any]) -> None:
    """The panels whose question was answered, three a row."""
    panels = [(question, panel) for question, panel in panels if question in run]
    rows = -(-len(panels) // 3)
    figure = Figure(figsize=(3 * PANEL[0], rows * PANEL[1]), layout="constrained")
    grid = figure.subplots(rows, 3, squeeze=False).ravel()
    found = {name: answer["rows"] for name, answer in run.items()}
    for axes, (_, panel) in zip(grid, panels, strict=False):
        panel(axes, found)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    about = run[panels[0][0]]
    story = f"{about['machine']['cores']} cores of {about['machine']['cpu']}, {about['date'][:10]}, {about['describe']}"
    figure.suptitle(f"genserve serve as shipped, client on the same machine ({story})")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)
    print(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figures", nargs="?", type=Path, default=RESULTS)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/plots")
    options = parser.parse_args()
    run = json.loads(options.figures.read_text())
    for name, panels in FIGURES.items():
        if any(question in run for question, _ in panels):
            draw(options.out / f"{name}.png", panels, run)


if __name__ == "__main__":
    main()
