"""Small charts as inline SVG: curves, bars and histograms; text and numbers in, markup out.

Colours are classes (`one`, `two`, `axis`), so that the page that holds a chart decides them.
"""

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 300, 190
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 32, 36  # margins round the plot
BAR, BAR_LEFT = 20, 110
SERIES = ("one", "two")  # classes of the first and the second series
BINS = 30

Point = tuple[float, float]


class Frame:
    """The plot's rectangle and the scales of its two axes."""

    def __init__(self, points: Sequence[Point]) -> None:
        """Scales that hold all of the points."""
        self.x, self.y = (_range([point[axis] for point in points]) for axis in (0, 1))

    def place(self, point: Point) -> str:
        """Where a point lies, as SVG writes it."""
        x = LEFT + (point[0] - self.x[0]) / (self.x[1] - self.x[0]) * (WIDTH - LEFT - RIGHT)
        y = HEIGHT - BOTTOM - (point[1] - self.y[0]) / (self.y[1] - self.y[0]) * (HEIGHT - TOP - BOTTOM)
        return f"{x:.1f},{y:.1f}"

    def axes(self, x_label: str, y_label: str) -> str:
        """Both axes with a few round numbers."""
        bottom, middle = HEIGHT - BOTTOM, (LEFT + WIDTH - RIGHT) / 2
        parts = [
            f'<path class="axis" d="M{LEFT},{TOP}V{bottom}H{WIDTH - RIGHT}"/>',
            _text(middle, HEIGHT - 4, x_label, "middle"),
            _text(4, 12, y_label, "start", "name"),
        ]
        for value in _ticks(*self.x):
            x = self.place((value, self.y[0])).split(",")[0]
            parts.append(_text(x, bottom + 14, f"{value:g}", "middle"))
        for value in _ticks(*self.y):
            y = self.place((self.x[0], value)).split(",")[1]
            parts.append(f'<path class="grid" d="M{LEFT},{y}H{WIDTH - RIGHT}"/>')
            parts.append(_text(LEFT - 5, float(y) + 3, f"{value:g}", "end"))
        return "".join(parts)


def curve(points: Sequence[Point], x_label: str, y_label: str, marks: Sequence[str] = ()) -> str:
    """One curve; with marks, a dot at each point with its mark beside it."""
    frame = Frame(points)
    parts = [frame.axes(x_label, y_label), _line([frame.place(point) for point in points], SERIES[0])]
    for point, mark in zip(points, marks, strict=False):
        x, y = frame.place(point).split(",")
        parts.append(f'<circle class="one" cx="{x}" cy="{y}" r="3"/>')
        parts.append(_text(x, float(y) - 6, mark, "middle"))
    return _chart(WIDTH, HEIGHT, f"{y_label} by {x_label}", parts)


def histogram(series: Mapping[str, Sequence[float]], x_label: str) -> str:
    """The shares of two series, as outlines over common bins, with a legend."""
    low, high = _range([value for values in series.values() for value in values])
    step = (high - low) / BINS
    outlines = {name: _outline(values, low, step) for name, values in series.items()}
    frame = Frame([point for points in outlines.values() for point in points])
    parts = [frame.axes(x_label, "share")]
    for i, (name, points) in enumerate(outlines.items()):
        parts.append(_line([frame.place(point) for point in points], SERIES[i % 2]))
        parts.append(_text(WIDTH - RIGHT, TOP + 14 * i, name, "end", SERIES[i % 2]))
    return _chart(WIDTH, HEIGHT, x_label, parts)


def bars(values: Mapping[str, float]) -> str:
    """Horizontal bars of shares between 0 and 1, one a line."""
    parts = []
    for i, (name, value) in enumerate(values.items()):
        y, length = i * BAR, max(0.0, min(1.0, value)) * (WIDTH - BAR_LEFT - 44)
        parts.append(_text(BAR_LEFT - 6, y + 14, name, "end"))
        parts.append(f'<rect class="one" x="{BAR_LEFT}" y="{y + 3}" width="{length:.1f}" height="{BAR - 6}"/>')
        parts.append(_text(BAR_LEFT + length + 5, y + 14, f"{value:.3f}", "start"))
    return _chart(WIDTH, BAR * len(values), "shares", parts)


def _outline(values: Sequence[float], low: float, step: float) -> list[Point]:
    """A histogram as the steps of its outline, from zero back to zero."""
    counts = [0] * BINS
    for value in values:
        counts[min(BINS - 1, int((value - low) / step))] += 1
    points = [(low, 0.0)]
    for i, count in enumerate(counts):
        share = count / len(values)
        points += [(low + i * step, share), (low + (i + 1) * step, share)]
    return [*points, (low + BINS * step, 0.0)]


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _ticks(low: float, high: float) -> list[float]:
    """Two to six round numbers of the range, none of them -0."""
    raw = (high - low) / 5
    power = 10 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw)
    first = math.ceil(low / step - 1e-9)
    return [float(f"{i * step:.10g}") + 0.0 for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _line(places: Sequence[str], series: str) -> str:
    return f'<polyline class="line {series}" points="{" ".join(places)}"/>'


def _text(x: float | str, y: float, text: str, anchor: str, look: str = "") -> str:
    return f'<text x="{x}" y="{y:.1f}" text-anchor="{anchor}" class="{look}">{escape(text)}</text>'


def _chart(width: int, height: int, title: str, parts: Sequence[str]) -> str:
    box = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    return f'<svg {box} role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'
