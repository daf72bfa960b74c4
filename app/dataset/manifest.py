"""`manifest.json`: what a set is, so that it can be gone on with, checked, and made again.

Nothing in it depends on when or how often the set's making was cut short.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from app.dataset.errors import WrongFolder
from app.dataset.plan import Plan

NAME = "manifest.json"
DECIDING = ("model", "digest", "runtime", "parameters", "image", "labels")  # the pictures, and where they lie


@dataclass(frozen=True)
class Sums:
    """Sha256 of what lies in a finished folder.

    Attributes:
        classes: of each class: layout `png`, of its files' bytes one after the other (`cat DIR/CLASS/*.png |
            sha256sum`); layout `idx`, of its pictures' bytes.
        files: of the files beside the manifest, by name.
    """

    classes: Sequence[str]
    files: Mapping[str, str] = field(default_factory=dict)


def begun(plan: Plan) -> dict[str, Any]:
    """The manifest of a set of which nothing is promised yet."""
    height, width, channels = plan.shape
    return {
        "complete": False,
        "genserve": version("genserve"),
        "model": plan.identity,
        "digest": plan.digest,
        "runtime": plan.runtime,
        "parameters": {
            "per_class": plan.per_class,
            "seed": plan.seed,
            "truncation": plan.truncation,
            "format": plan.layout,
        },
        "image": {"height": height, "width": width, "channels": channels},
        "labels": list(plan.labels),
        "classes": [_category(plan, index) for index in range(len(plan.labels))],
        "files": {},
    }


def _category(plan: Plan, index: int) -> dict[str, Any]:
    seeds = plan.seeds(index)
    return {
        "label": plan.labels[index],
        **({"folder": plan.folder(index)} if plan.layout == "png" else {}),
        "parameters": plan.parameters(index),
        "seeds": {"first": seeds[0], "last": seeds[-1]},
        "count": len(seeds),
        "sha256": None,
    }


def completed(manifest: Mapping[str, Any], sums: Sums) -> dict[str, Any]:
    """The manifest of the finished set."""
    classes = [{**one, "sha256": found} for one, found in zip(manifest["classes"], sums.classes, strict=True)]
    return {**manifest, "complete": True, "classes": classes, "files": dict(sums.files)}


def to_bytes(manifest: Mapping[str, Any]) -> bytes:
    """The file."""
    return json.dumps(manifest, indent=1, ensure_ascii=False).encode() + b"\n"


def read(content: bytes, plan: Plan, place: str) -> dict[str, Any]:
    """The manifest that lies in a folder, if it is one of this plan.

    Raises:
        WrongFolder: it is none, or one of another set; the message says in what they differ.
    """
    wanted = begun(plan)
    try:
        found = dict(json.loads(content))
        differing = [key for key in DECIDING if found[key] != wanted[key]]
        bare = {**found, "complete": False, "genserve": wanted["genserve"], "files": {}}
        bare["classes"] = [{**one, "sha256": None} for one in found["classes"]]
        known = bare == wanted and isinstance(found["files"], dict)
    except (ValueError, KeyError, TypeError):
        known, differing = False, []
    if differing:
        key = differing[0]
        said = f"{key} {_shown(found[key])}, now asked for: {_shown(wanted[key])}"
        raise WrongFolder(f"{place}: of another set: {said}; take another --out")
    if not known:
        raise WrongFolder(f"{place}: not a manifest that genserve dataset wrote")
    return found


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
