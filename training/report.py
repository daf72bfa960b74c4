"""An evaluation as one HTML page that needs nothing else, and as JSON.

Knows what is to be shown; measures nothing. Nothing in either file varies between two measurements of the same thing:
no date, no machine. Pictures are data URIs, charts inline SVG, and there is no script.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from torch import Tensor

from models.files import write_atomically
from training import svg
from training.card import MEANINGS
from training.history import History
from training.measurement import Measurement
from training.pictures import grid_png
from training.wanted import Wanted

COLUMNS = 10  # of the grid of samples
PAIRS = 10  # columns of the grid of nearest neighbours: five pairs
TRADES = (
    ("diversity", "fd_clf"),
    ("diversity", "class_accuracy"),
    ("diversity", "precision"),
    ("recall", "precision"),
)  # what the truncation curve shows, against each other
STYLE = """
:root{color-scheme:light dark;--one:#2563eb;--two:#d97706;--line:#8886}
body{font:15px/1.5 system-ui,sans-serif;max-width:66rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse}
td,th{padding:.15rem .8rem .15rem 0;text-align:left;border-bottom:1px solid var(--line);vertical-align:top}
td:nth-child(3){white-space:nowrap}
td.n{text-align:right;font-variant-numeric:tabular-nums}
.missed{color:#dc2626;font-weight:600}
.row{display:flex;flex-wrap:wrap;gap:1rem 2rem;align-items:flex-start}
img{image-rendering:pixelated;max-width:100%}
figure{margin:0}figcaption,.how{font-size:.85em;opacity:.75}
pre{white-space:pre-wrap;border-left:3px solid var(--line);padding-left:1rem}
svg text{font-size:10px;fill:currentColor}svg text.name{font-size:12px;font-weight:600}
svg text.one,rect.one,circle.one{fill:var(--one)}svg text.two{fill:var(--two)}
.line{fill:none;stroke-width:1.6}.line.one{stroke:var(--one)}.line.two{stroke:var(--two)}
.axis{fill:none;stroke:currentColor}.grid{stroke:var(--line)}
"""


@dataclass(frozen=True)
class Report:
    """What a report shows; what is empty or None is left out.

    Attributes:
        how: how the metrics were taken.
        gates: metric name -> {"min" or "max": value}.
        samples: unpicked pictures, a class a row, [classes * COLUMNS, C, H, W].
        texts: unpicked texts.
        curve: metrics at each truncation.
        history: curves of the training.
    """

    name: str
    description: str
    how: Mapping[str, Any]
    metrics: Mapping[str, float]
    gates: Mapping[str, Mapping[str, float]]
    labels: Sequence[str]
    samples: Tensor | None
    texts: Sequence[str]
    measurement: Measurement | None
    curve: Sequence[Mapping[str, float]]
    history: History


def write_report(report: Report, wanted: Wanted) -> None:
    """Write the files that were asked for, each whole or not at all."""
    if wanted.report is not None:
        write_atomically(wanted.report, render(report).encode())
    if wanted.json is not None:
        write_atomically(wanted.json, (json.dumps(figures(report), indent=2) + "\n").encode())


def figures(report: Report) -> dict[str, Any]:
    """Every figure of the report as JSON values."""
    found = report.measurement
    return {
        "name": report.name,
        "evaluation": dict(report.how),
        "metrics": dict(report.metrics),
        "gates": {name: dict(gate) for name, gate in report.gates.items()},
        "class_accuracies": _by_class(report),
        "copy_distances": _deciles(found.distances) if found else [],
        "copy_distances_test": _deciles(found.distances_test) if found else [],
        "truncation_curve": [dict(point) for point in report.curve],
    }


def render(report: Report) -> str:
    """The page."""
    found = report.measurement
    sections = [
        _section("Measured", _table(report) + _how(report)),
        _section("Class accuracy", svg.bars(_by_class(report))) if found else "",
        _section("Unpicked samples", _grid(report)) if report.samples is not None else "",
        _section("Nearest training pictures", _neighbours(found)) if found else "",
        _section("Quality against diversity", _trades(report.curve)) if report.curve else "",
        _section("Training", _history(report.history)) if report.history else "",
        _section("Unpicked texts", "".join(f"<pre>{escape(text)}</pre>" for text in report.texts))
        if report.texts
        else "",
    ]
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(report.name)}: evaluation</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>\n'
        f"<h1>{escape(report.name)}</h1><p>{escape(report.description)}</p>\n" + "\n".join(filter(None, sections))
    ) + "\n</body></html>\n"


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>"


def _table(report: Report) -> str:
    rows = "".join(
        f'<tr><td>{escape(name)}</td><td class="n">{value:.4g}</td>'
        f"<td>{_gate(report.gates.get(name, {}), value)}</td><td>{escape(MEANINGS.get(name, ''))}</td></tr>"
        for name, value in report.metrics.items()
    )
    return f"<table><tr><th>metric</th><th>value</th><th>gate</th><th>meaning</th></tr>{rows}</table>"


def _gate(gate: Mapping[str, float], value: float) -> str:
    """A gate's bound, marked when it is missed."""
    said = " ".join(f"{bound} {limit:g}" for bound, limit in gate.items())
    passed = all(value >= limit if bound == "min" else value <= limit for bound, limit in gate.items())
    return said if passed else f'<span class="missed">{said}: missed</span>'


def _how(report: Report) -> str:
    said = "; ".join(f"{name} {value}" for name, value in report.how.items() if value not in ("", None))
    return f'<p class="how">{escape(said)}</p>'


def _by_class(report: Report) -> dict[str, float]:
    if report.measurement is None:
        return {}
    accuracies = report.measurement.by_class
    names = report.labels or [str(i) for i in range(len(accuracies))]
    return {name: float(f"{value:.5g}") for name, value in zip(names, accuracies, strict=True)}


def _grid(report: Report) -> str:
    assert report.samples is not None
    rows = f"Rows: {', '.join(report.labels)}. " if report.labels else ""
    return _image(report.samples, COLUMNS, f"{rows}The columns are the first draws, none left out.")


def _image(samples: Tensor, columns: int, caption: str) -> str:
    data = base64.b64encode(grid_png(samples, columns)).decode()
    width = samples.shape[3] * columns * 2
    image = f'<img alt="{escape(caption)}" width="{width}" src="data:image/png;base64,{data}">'
    return f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>"


def _neighbours(found: Measurement) -> str:
    series = {"generated": found.distances.tolist(), "held out": found.distances_test.tolist()}
    chart = svg.histogram(series, "pixel distance to the nearest training picture")
    pairs = len(found.closest) // 2 * 2 // PAIRS * PAIRS  # whole rows
    caption = "The nearest of all: each generated picture, then the training picture nearest to it."
    return f'<div class="row">{chart}{_image(found.closest[:pairs], PAIRS, caption) if pairs else ""}</div>'


def _trades(curve: Sequence[Mapping[str, float]]) -> str:
    marks = [f"{point['truncation']:g}" for point in curve]
    charts = [svg.curve([(point[x], point[y]) for point in curve], x, y, marks) for x, y in TRADES]
    head = "".join(f"<th>{escape(name)}</th>" for name in curve[0])
    rows = "".join(
        "<tr>" + "".join(f'<td class="n">{value:.4g}</td>' for value in point.values()) + "</tr>" for point in curve
    )
    return f'<div class="row">{"".join(charts)}</div><table><tr>{head}</tr>{rows}</table>'


def _history(history: History) -> str:
    charts = [svg.curve(points, "step", name) for name, points in history.items()]
    return f'<div class="row">{"".join(charts)}</div>'


def _deciles(distances: Tensor) -> list[float]:
    """The smallest distance, the nine deciles and the largest."""
    ordered = sorted(distances.tolist())
    return [float(f"{ordered[round(i * (len(ordered) - 1) / 10)]:.5g}") for i in range(11)]
