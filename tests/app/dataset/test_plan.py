"""Which picture comes from which seed."""

import json
from pathlib import Path

import pytest

from app.bench.errors import BadFlag, Unusable
from app.dataset.options import MAX_SEED, Options
from app.dataset.plan import EVERYTHING, Part, make_plan
from tests.app.dataset.told import CARD


def plan(card=CARD, **changes):
    fields = {"url": "u", "model": "told", "per_class": 70, "out": Path("set"), "seed": 5, "truncation": None,
              "concurrency": 4, "layout": "png"}  # fmt: skip
    return make_plan(Options(**{**fields, **changes}), "0123456789abcdef", "cpu; told", card)


def test_every_seed_is_asked_for_once():
    made = plan()
    rounds = list(made.rounds())
    assert [[part.count for part in parts] for parts in rounds] == [[64] * 3, [6] * 3]
    asked = [(part.category, seed) for parts in rounds for part in parts for seed in part.seeds]
    assert sorted(asked) == [(c, seed) for c in range(3) for seed in made.seeds(c)]
    assert sorted(seed for _, seed in asked) == list(range(5, 5 + made.total))


def test_a_request_names_all_that_decides():
    assert json.loads(plan().body(Part(2, 145, 64))) == {"model": "told", "seed": 145, "n": 64, "label": 2}
    assert json.loads(plan(truncation=0.5).body(Part(0, 5, 1)))["truncation"] == 0.5


def test_folders_sort_as_classes_do_and_hold_no_slash():
    assert [plan().folder(c) for c in range(3)] == ["0-left_right", "1-up", "2-down"]
    many = plan({**CARD, "num_classes": 11, "labels": [f"../{i}" for i in range(11)]})
    folders = [many.folder(c) for c in range(11)]
    assert folders == sorted(folders)
    assert not any("/" in folder for folder in folders)


def test_files_sort_as_seeds_do():
    made = plan(seed=95, per_class=10)
    names = [made.file(seed) for seed in made.seeds(0)]
    assert names == sorted(names)
    assert names[0] == "095.png"


def test_without_classes_there_is_one():
    made = plan({**CARD, "num_classes": 0, "labels": []})
    assert (made.labels, made.folder(0), made.total) == ((EVERYTHING,), EVERYTHING, 70)
    assert "label" not in json.loads(made.body(Part(0, 5, 1)))


def test_classes_without_names_go_by_number():
    assert plan({**CARD, "labels": []}).labels == ("0", "1", "2")


@pytest.mark.parametrize(
    "change", [{"num_classes": None}, {"labels": 3}, {"image": {}}, {"image": None}, {"num_classes": -1},
               {"num_classes": 10**9}]
)  # fmt: skip
def test_a_card_that_says_too_little(change):
    with pytest.raises(Unusable, match="told: "):
        plan({**CARD, **change})


def test_the_last_seed_is_the_service_s():
    assert plan(seed=MAX_SEED - 209).seeds(2)[-1] == MAX_SEED
    with pytest.raises(BadFlag, match=r"--seed .*: 210 pictures need seeds above"):
        plan(seed=MAX_SEED - 208)


def test_what_idx_can_t_hold():
    with pytest.raises(BadFlag, match=r"--format idx: .* 3 channels"):
        plan({**CARD, "image": {"height": 4, "width": 4, "channels": 3}}, layout="idx")
    with pytest.raises(BadFlag, match=r"--format idx: .* 257"):
        plan({**CARD, "num_classes": 257, "labels": []}, layout="idx")
