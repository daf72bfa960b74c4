"""What a run wrote about itself: curves from its metrics.jsonl."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from training.errors import TrainingError

FILE = "metrics.jsonl"
MAX_BYTES = 64 << 20
MAX_POINTS = 300  # of a curve: more than a chart has pixels

Curve = Sequence[tuple[float, float]]
History = Mapping[str, Curve]


def read_history(folder: Path) -> dict[str, Curve]:
    """Each metric of a run as points (step, value), thinned to `MAX_POINTS`; nothing when the run is not there.

    A line that is cut off, as that of a run under way may be, ends the reading; values that are not finite are left
    out.

    Raises:
        TrainingError: the file is too large to be one of ours.
    """
    path = folder / FILE
    if not path.is_file():
        return {}
    if path.stat().st_size > MAX_BYTES:
        raise TrainingError(f"{path}: larger than {MAX_BYTES >> 20} MiB")
    curves: dict[str, list[tuple[float, float]]] = {}
    for line in path.read_text().splitlines():
        try:
            values = json.loads(line)
            step = float(values["step"])
        except (ValueError, KeyError, TypeError):
            break
        for name, value in values.items():
            if name not in ("step", "seconds") and isinstance(value, int | float) and math.isfinite(value):
                curves.setdefault(name, []).append((step, float(value)))
    return {name: _thinned(points) for name, points in curves.items() if len(points) > 1}


def _thinned(points: Curve) -> Curve:
    """At most `MAX_POINTS` of them, evenly chosen, the last included."""
    if len(points) <= MAX_POINTS:
        return points
    last = len(points) - 1
    return [points[round(i * last / (MAX_POINTS - 1))] for i in range(MAX_POINTS)]
