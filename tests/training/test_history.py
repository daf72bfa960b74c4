import json

import pytest

from training import history
from training.errors import TrainingError
from training.history import MAX_POINTS, read_history


def write(folder, *lines):
    (folder / "metrics.jsonl").write_text("\n".join(lines))
    return read_history(folder)


def test_each_metric_has_its_own_points(tmp_path):
    found = write(
        tmp_path,
        '{"step": 10, "seconds": 1.5, "loss": 2.0}',
        '{"step": 20, "seconds": 3.0, "loss": 1.0, "accuracy": 0.5}',
        '{"step": 40, "seconds": 6.0, "accuracy": 0.75}',
    )
    assert found == {"loss": [(10, 2.0), (20, 1.0)], "accuracy": [(20, 0.5), (40, 0.75)]}


def test_no_run_has_no_curves(tmp_path):
    assert read_history(tmp_path / "nowhere") == {}
    assert write(tmp_path, "") == {}


def test_a_line_that_is_cut_off_ends_the_reading(tmp_path):
    assert write(tmp_path, '{"step": 1, "a": 1}', '{"step": 2, "a": 2}', '{"step": 3, "a"') == {"a": [(1, 1), (2, 2)]}


def test_what_is_no_number_makes_no_point(tmp_path):
    found = write(tmp_path, '{"step": 1, "a": 1, "b": "x"}', '{"step": 2, "a": NaN}', '{"step": 3, "a": 3}')
    assert found == {"a": [(1, 1), (3, 3)]}


def test_long_curves_are_thinned(tmp_path):
    found = write(tmp_path, *(json.dumps({"step": i, "a": i}) for i in range(5000)))
    assert len(found["a"]) == MAX_POINTS
    assert found["a"][0] == (0, 0)
    assert found["a"][-1] == (4999, 4999)


def test_a_huge_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(history, "MAX_BYTES", 8)
    with pytest.raises(TrainingError, match=r"metrics\.jsonl: larger than"):
        write(tmp_path, '{"step": 1, "a": 1}')
