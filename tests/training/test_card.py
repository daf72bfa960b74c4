import re
import subprocess

import pytest
import torch

from models.config import ModelConfig
from training import card as cards
from training import quality

CARD = {
    "description": "Halves.",
    "license": "Apache-2.0",
    "training_data": {"name": "halves", "license": "MIT", "sha256": {"train.gz": "ab" * 32}},
    "recipe": "tiny.toml",
    "commit": None,
    "steps": 1234,
    "seconds": 600,
    "machine": "abacus",
    "gates": {"fd_clf": {"max": 25.0}, "class_accuracy": {"min": 0.85}},
    "metrics": {"fd_clf": 12.345, "class_accuracy": 0.9},
    "evaluation": {"count": 10000, "seed": 0, "judge": "0123456789abcdef"},
}


def config(card):
    return ModelConfig("conv-gan", {}, "cd" * 32, 100, ("left", "right"), card)


def test_every_metric_is_explained():
    measured = {name for names in quality.METRICS.values() for name in names}
    assert cards.MEANINGS.keys() == measured | {"fid_inception"}  # which takes a network of the user's


def test_the_readme_names_all_that_a_card_must():
    text = cards.render("tiny", config(CARD))
    for part in (
        "# tiny",
        "Halves.",
        "| fd_clf | 12.35 | max 25 |",
        "| class_accuracy | 0.9 | min 0.85 |",
        "10,000 unpicked",
        "0123456789abcdef",
        "1,234",
        "10 min",
        "abacus",
        "ab" * 32,
        "cd" * 32,
        "tiny.toml",
        "not committed at the time",
        "left, right",
        "Apache-2.0",
        "MIT",
        "## Intended use and limits",
    ):
        assert part in text, part


def test_the_standard_fid_is_told_apart():
    assert "fid_inception" not in cards.render("tiny", config(CARD))
    how = {**CARD["evaluation"], "inception": "feedbeef"}
    text = cards.render("tiny", config({**CARD, "evaluation": how}))
    assert "fid_inception is on the features of the TorchScript file of sha256 `feedbeef...`" in text
    assert "10,000 pictures against the test split; papers mostly take 50,000" in text


def test_a_guide_is_not_hidden():
    assert "guide" not in cards.render("tiny", config(CARD))
    assert "| guide | `fedcba`" in cards.render("tiny", config({**CARD, "guide": "fedcba"}))


def test_the_readme_of_a_classifier_shows_no_samples():
    card = {**CARD, "metrics": {"accuracy": 0.93}, "gates": {}, "evaluation": {"count": 10000}}
    text = cards.render("judge", config(card))
    assert "samples" not in text
    assert "| accuracy | 0.93 |" in text


@pytest.mark.parametrize(
    ("metrics", "missed"),
    [
        ({"fd_clf": 25.0, "class_accuracy": 0.85}, []),
        ({"fd_clf": 25.1, "class_accuracy": 0.85}, ["fd_clf is 25.1, max 25 wanted"]),
        ({"fd_clf": float("nan"), "class_accuracy": 0.9}, ["fd_clf is nan, max 25 wanted"]),
        ({"class_accuracy": 0.5}, ["fd_clf is not measured, max 25 wanted", "class_accuracy is 0.5, min 0.85 wanted"]),
    ],
)
def test_missed_gates(metrics, missed):
    assert cards.missed_gates({**CARD, "metrics": metrics}) == missed


def test_a_card_without_gates_misses_none():
    assert cards.missed_gates({"metrics": {}}) == []


def test_the_table_has_a_line_a_metric():
    lines = cards.table("tiny", CARD).splitlines()
    assert lines[0] == "tiny"
    assert [line.split()[:4] for line in lines[1:]] == [
        ["fd_clf", "12.35", "max", "25"],
        ["class_accuracy", "0.9", "min", "0.85"],
    ]


def test_rounding_keeps_five_digits():
    assert cards.rounded({"a": 0.123456789, "b": 12345.678}) == {"a": 0.12346, "b": 12346.0}


def git(*arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *identity, *arguments], check=True, capture_output=True)


def test_the_commit_is_that_of_the_code(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert cards.commit() is None
    git("init", "-q")
    assert cards.commit() is None  # nothing committed yet
    (tmp_path / "training").mkdir()
    code = tmp_path / "training" / "train.py"
    code.write_text("1")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    head = cards.commit()
    assert re.fullmatch(r"[0-9a-f]{40}", head)
    (tmp_path / "notes.txt").write_text("not code")
    assert cards.commit() == head
    code.write_text("2")
    assert cards.commit() == f"{head}-dirty"
    monkeypatch.setenv("PATH", "")
    assert cards.commit() is None


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (None, "| commit | not committed at the time |"),
        ("ab12", "| commit | `ab12` |"),
        ("ab12-dirty", "| commit | `ab12`, with changes that were not committed at the time |"),
    ],
)
def test_the_readme_says_how_far_the_commit_holds(found, said):
    assert said in cards.render("tiny", config({**CARD, "commit": found}))


def test_the_machine_is_named():
    said = cards.machine(torch.device("cpu"), 2)
    assert "2 threads" in said
    assert torch.__version__ in said
    assert "1 thread," in cards.machine(torch.device("cpu"), 1)
