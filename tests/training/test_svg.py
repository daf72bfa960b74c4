import xml.etree.ElementTree as ET

import pytest

from training import svg
from training.svg import BINS, BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH


def parse(chart):
    """The chart as XML; what is not well formed fails here."""
    return ET.fromstring(chart)


def texts(chart):
    return [node.text for node in parse(chart).iter("text")]


def places(chart, index=0):
    line = list(parse(chart).iter("polyline"))[index]
    return [tuple(float(part) for part in place.split(",")) for place in line.get("points").split()]


def test_a_curve_fills_its_frame():
    chart = svg.curve([(0, 1.0), (5, 3.0), (10, 2.0)], "step", "loss")
    left, right, bottom = LEFT, WIDTH - RIGHT, HEIGHT - BOTTOM
    assert places(chart) == [(left, bottom), ((left + right) / 2, TOP), (right, (TOP + bottom) / 2)]
    assert {"step", "loss", "0", "10", "1", "2", "3"} <= set(texts(chart))


def test_marks_stand_at_their_points():
    chart = svg.curve([(0, 0), (1, 1)], "x", "y", ["0.5", "1.0"])
    assert {"0.5", "1.0"} <= set(texts(chart))
    assert len(list(parse(chart).iter("circle"))) == 2


@pytest.mark.parametrize("points", [[(3, 2.0), (4, 2.0)], [(1, -5e-9), (2, 4e-9)], [(0, 1e12), (1, 2e12)], [(7, 7)]])
def test_flat_tiny_and_huge_values_are_drawn(points):
    for x, y in places(svg.curve(points, "x", "y")):
        assert LEFT <= x <= WIDTH - RIGHT
        assert TOP <= y <= HEIGHT - BOTTOM


def test_names_are_escaped():
    chart = svg.bars({"<T-shirt & top>": 0.5})
    assert "<T-shirt & top>" in texts(chart)


def test_bars_are_as_long_as_their_shares():
    widths = [float(bar.get("width")) for bar in parse(svg.bars({"a": 0.25, "b": 1.0, "c": 0.0})).iter("rect")]
    assert widths[0] == pytest.approx(widths[1] / 4, abs=0.1)
    assert widths[2] == 0


def test_a_histogram_counts_every_value_once():
    chart = svg.histogram({"one": [0.0] * 3 + [10.0], "two": [5.0]}, "distance")
    outline = places(chart)
    assert len(outline) == 2 * BINS + 2
    full, base = places(chart, 1), HEIGHT - BOTTOM
    assert min(y for _, y in full) == TOP  # all of the second series lies in one bin
    heights = [base - outline[i][1] for i in (1, -2)]
    assert heights[0] == pytest.approx(3 * heights[1], abs=0.5)
    assert {"one", "two", "distance"} <= set(texts(chart))


def test_ticks_are_round_and_inside():
    assert svg._ticks(0, 10) == [0, 2, 4, 6, 8, 10]
    assert svg._ticks(-1, 1) == [-1, -0.5, 0, 0.5, 1]
    assert svg._ticks(0.831, 0.879) == [0.84, 0.85, 0.86, 0.87]
