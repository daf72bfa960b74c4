import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from training.snapshot import load_snapshot
from training.train import main

ROOT = Path(__file__).parents[2]


def command(*arguments):
    return [sys.executable, "-m", "training.train", *map(str, arguments)]


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def trained_steps(folder):
    path = folder / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.mark.parametrize("kind", ["classifier", "gan", "vae", "language", "vq"])
def test_sigterm_saves_and_the_resumed_run_is_bit_exact(recipe_file, tmp_path, kind):
    path = recipe_file(kind, steps=100_000, every={"log": 1, "evaluate": 100_000, "snapshot": 100_000})
    folder, whole = tmp_path / "stopped", tmp_path / "whole"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command(path, "--out", folder), cwd=ROOT, env=environment, stdout=subprocess.PIPE) as process:
        wait_for(lambda: trained_steps(folder) >= 3 or process.poll() is not None)
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 143
    step = load_snapshot(folder / "snapshot.pt")["progress"]["step"]
    assert f"stopped after step {step} of 100000".encode() in said
    assert step >= 3
    assert trained_steps(folder) == step
    last = str(step + 5)
    assert main([str(path), "--out", str(folder), "--resume", "--stop-at", last]) == 0
    assert main([str(path), "--out", str(whole), "--stop-at", last]) == 0
    resumed, unbroken = (load_snapshot(run / "snapshot.pt") for run in (folder, whole))
    assert resumed["progress"]["step"] == step + 5
    for part in ("networks", "optimizers", "ema", "loader", "random"):
        assert flat(resumed[part]) == flat(unbroken[part]), part


def flat(value):
    """Tensors to lists, so that == compares every number."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {key: flat(item) for key, item in value.items()}
    return [flat(item) for item in value] if isinstance(value, list | tuple) else value


def test_signals_are_given_back(recipe_file, tmp_path):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    main([str(recipe_file("vae")), "--out", str(tmp_path / "run"), "--stop-at", "1"])
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_an_error_is_one_line_and_status_one(recipe_file, tmp_path, capsys):
    assert main([str(tmp_path / "none.toml")]) == 1
    assert main([str(recipe_file("vae", steps="many"))]) == 1
    assert main([str(recipe_file("vae")), "--resume", "--out", str(tmp_path / "none")]) == 1
    architecture = {"architecture": "conv-vae", "config": {"chanels": [8]}}
    assert main([str(recipe_file("vae", model=architecture)), "--out", str(tmp_path / "x")]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 4
    assert all(line.startswith("error: ") for line in errors)
    for line, part in zip(errors, ["no such recipe", "steps must be int", "no snapshot", "chanels"], strict=True):
        assert part in line


def test_a_run_ends_in_a_weights_folder(recipe_file, tmp_path, capsys):
    path = recipe_file("classifier", steps=4, every={"log": 2, "evaluate": 2, "snapshot": 2})
    assert main([str(path), "--out", str(tmp_path / "run")]) == 0
    out = capsys.readouterr().out
    assert "step 2  " in out
    assert "wrote " in out
    card = json.loads((tmp_path / "export" / "tiny-classifier" / "config.json").read_text())["card"]
    assert card["steps"] == 4
    assert main([str(path), "--out", str(tmp_path / "run"), "--resume"]) == 0  # a finished run is published again


def test_the_default_folder_is_named_like_the_run(recipe_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([str(recipe_file("vae")), "--stop-at", "1"]) == 0
    assert (tmp_path / "runs" / "tiny-vae" / "snapshot.pt").is_file()
