import pytest

from training.comparison import main, table
from training.publish import publish


@pytest.fixture
def finished(make_run, recipe, monkeypatch):
    """A published run of a tiny GAN."""
    monkeypatch.setattr("training.publish.COUNT", 48)
    run = make_run(recipe("gan", steps=2))
    run.start()
    run.train(lambda: False, lambda *_: None)
    publish(run, "tiny.toml")
    return run


def test_a_line_a_generator_from_weights_and_from_runs(finished, tmp_path):
    head, rule, exported, candidate = table([tmp_path / "export" / "tiny-gan", finished.folder]).splitlines()
    assert head.startswith("| generator | steps | minutes | FD-clf | KID | precision |")
    assert rule.count("---") == head.count("|") - 1
    assert exported == candidate
    assert exported.startswith("| `tiny-gan` | 2 | 0 | ")


def test_what_has_no_metrics_is_refused(judge_folder, tmp_path, capsys):
    assert main([str(judge_folder)]) == 1
    assert "halves: its card holds no metrics of a picture generator" in capsys.readouterr().err
    assert main([str(tmp_path)]) == 1
    assert f"{tmp_path}: neither a weights folder nor a finished run" in capsys.readouterr().err
