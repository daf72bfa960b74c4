"""What figures must say beside themselves: when, of which commit, on which machine."""

import datetime
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

from app.bench import wrk
from benchmarks.generators import ROOT


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def describe() -> dict[str, Any]:
    """Date, commit and machine."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
        "commit": _git("rev-parse", "HEAD"),
        "describe": _git("describe", "--always", "--dirty"),
        "machine": {
            "cpu": _cpu(),
            "cores": len(os.sched_getaffinity(0)),
            "torch": version("torch"),
            "python": platform.python_version(),
            "wrk": wrk.version(),
        },
    }
