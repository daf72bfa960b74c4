import argparse
import subprocess
import sys

import pytest

from training.errors import TrainingError
from training.wanted import Wanted, add_flags, read


def parse(*arguments):
    parser = argparse.ArgumentParser()
    add_flags(parser)
    return read(parser.parse_args(arguments))


def test_nothing_is_wanted_unless_said():
    assert parse() == Wanted()


def test_the_figures_lie_beside_the_page(tmp_path):
    page = tmp_path / "page.html"
    assert parse("--report", str(page)).json == tmp_path / "page.json"
    assert parse("--report", str(page), "--json", str(tmp_path / "other.json")).json == tmp_path / "other.json"


def test_truncations_are_sorted_and_each_comes_once():
    assert parse("--truncations", "1, 0.4,0.4,0.75").truncations == (0.4, 0.75, 1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--truncations", "0.4,high"), "--truncations 0.4,high: numbers"),
        (("--truncations", "0"), "above 0 and up to 1"),
        (("--truncations", "0.5,1.5"), "above 0 and up to 1"),
        (("--truncations", "nan"), "above 0 and up to 1"),
        (("--truncations", ",".join(f"0.{i:02d}" for i in range(1, 30))), "at most 20"),
        (("--report", "/nowhere/page.html"), "--report '/nowhere/page.html': not a file"),
        (("--report", "/tmp"), "--report '/tmp': not a file"),
        (("--json", ""), "--json '': not a file"),
        (("--report", "/tmp/page.json"), "the same name"),
    ],
)
def test_what_is_wrong_is_named(arguments, message):
    with pytest.raises(TrainingError, match=message):
        parse(*arguments)


@pytest.mark.parametrize("module", ["training.wanted", "training.served"])
def test_flags_need_no_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
