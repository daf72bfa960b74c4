import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch

from training.measurement import Measurement
from training.report import Report, figures, render, write_report
from training.wanted import Wanted

LABELS = ("left", "<right>", "bottom")
MEASUREMENT = Measurement(
    {"fd_clf": 12.5, "class_accuracy": 0.8},
    (0.9, 0.8, 0.7),
    torch.linspace(1, 2, 50),
    torch.linspace(2, 3, 40),
    torch.zeros(40, 1, 8, 8),
)
REPORT = Report(
    name="tiny",
    description="Halves & more.",
    how={"count": 48, "judge": "abc"},
    metrics=MEASUREMENT.metrics,
    gates={"fd_clf": {"max": 10.0}, "class_accuracy": {"min": 0.7}},
    labels=LABELS,
    samples=torch.zeros(30, 1, 8, 8),
    texts=(),
    measurement=MEASUREMENT,
    curve=[
        {"truncation": t, "fd_clf": 20 - t, "precision": 1 - t / 2, "class_accuracy": 0.9, "recall": t, "diversity": t}
        for t in (0.5, 1.0)
    ],
    history={"g_loss": [(0, 1.0), (10, 0.5)]},
)
VOID = {"meta", "img"}


class Tags(HTMLParser):
    """Fails on a tag that is never closed; collects every address that the page would fetch."""

    def __init__(self):
        super().__init__()
        self.open, self.addresses, self.seen = [], [], set()

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def read(page):
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    return tags


def test_the_page_needs_nothing_else():
    page = render(REPORT)
    tags = read(page)
    assert len(tags.addresses) == 2  # samples and pairs
    assert all(address.startswith("data:image/png;base64,") for address in tags.addresses)
    assert not tags.seen & {"script", "link", "iframe", "object"}
    assert "url(" not in page
    assert "@import" not in page


def test_everything_is_shown():
    page = render(REPORT)
    for part in ("<h1>tiny</h1>", "Halves &amp; more.", "count 48; judge abc", "&lt;right&gt;", "g_loss", "0.800"):
        assert part in page, part
    titles = re.findall("<h2>(.*?)</h2>", page)
    assert titles == [
        "Measured", "Class accuracy", "Unpicked samples", "Nearest training pictures", "Quality against diversity",
        "Training",
    ]  # fmt: skip


def test_a_missed_gate_is_marked():
    page = render(REPORT)
    assert '<span class="missed">max 10: missed</span>' in page
    assert "<td>min 0.7</td>" in page


def test_what_is_not_there_is_left_out():
    page = render(replace(REPORT, samples=None, measurement=None, curve=(), history={}, texts=("to <be>", "or not")))
    assert re.findall("<h2>(.*?)</h2>", page) == ["Measured", "Unpicked texts"]
    assert "<pre>to &lt;be&gt;</pre>" in page
    assert read(page).addresses == []


def test_few_pictures_make_no_pairs():
    page = render(replace(REPORT, measurement=replace(MEASUREMENT, closest=torch.zeros(6, 1, 8, 8))))
    assert len(read(page).addresses) == 1


def test_the_figures_are_those_of_the_page():
    found = figures(REPORT)
    assert found["metrics"] == dict(REPORT.metrics)
    assert found["class_accuracies"] == {"left": 0.9, "<right>": 0.8, "bottom": 0.7}
    assert len(found["copy_distances"]) == 11
    assert (found["copy_distances"][0], found["copy_distances_test"][-1]) == (1.0, 3.0)
    assert found["truncation_curve"] == REPORT.curve
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize("wanted", [("page.html", None), (None, "page.json"), ("page.html", "page.json")])
def test_only_what_is_wanted_is_written(tmp_path, wanted):
    page, data = (tmp_path / name if name else None for name in wanted)
    write_report(REPORT, Wanted(report=page, json=data))
    assert {path.name for path in tmp_path.iterdir()} == set(filter(None, wanted))
    if page:
        assert page.read_text() == render(REPORT)
    if data:
        assert json.loads(data.read_text()) == figures(REPORT)
