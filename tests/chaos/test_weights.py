"""Corrupted, truncated and hostile weights: one clear line, or a model that is sound; never a crash, never a hang."""

import hashlib
import json
import os
import struct

import httpx
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models import checkpoint
from models.errors import CheckpointError
from models.gan import ConvGenerator
from tests.chaos import poison
from tests.chaos.server import started
from tests.serving import PATIENCE

SMALL = {"latent_dim": 2, "num_classes": 2, "embedding_dim": 2, "channels": [8], "base_size": 2}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A folder that loads; tests put it back as it was."""
    folder = tmp_path_factory.mktemp("hostile") / "small"
    torch.manual_seed(0)
    checkpoint.save(folder, ConvGenerator(**SMALL), architecture="conv-gan", config=SMALL)
    return folder


def vouch(folder, data):
    """Weights and the digest that vouches for them: whoever makes a folder can do that."""
    (folder / "model.safetensors").write_bytes(data)
    config = json.loads((folder / "config.json").read_text())
    config["weights"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    (folder / "config.json").write_text(json.dumps(config))


def taken_apart(folder):
    """The header's entries and the data of a safetensors file."""
    data = (folder / "model.safetensors").read_bytes()
    (size,) = struct.unpack_from("<Q", data)
    return list(json.loads(data[8 : 8 + size]).items()), data[8 + size :]


def put_together(entries, data, *, length=None):
    """A safetensors file; entries may have the same name, which no dict could hold."""
    header = ("{" + ",".join(f"{json.dumps(name)}:{json.dumps(entry)}" for name, entry in entries) + "}").encode()
    return struct.pack("<Q", len(header) if length is None else length) + header + data


HUGE = (1 << 31, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, 1 << 64, 10**40)
DTYPES = st.sampled_from(["F64", "F32", "BF16", "I64", "U8", "BOOL", "C64", "F8_E4M3", "F4", "", "f16", None, 5, []])
SHAPES = st.sampled_from(
    [[], [0], [-1], [1.5], ["2"], [[2]], None, "8", {}, [1] * 2000, [1 << 31, 1 << 31], [1 << 63, 2], [0, 1 << 62]]
) | st.lists(st.integers(-2, 9) | st.sampled_from(HUGE), max_size=5)
OFFSETS = st.sampled_from([[], [0], [0, 1, 2], None, "01", {}, [0.5, 1]]) | st.lists(
    st.integers(-2, 600) | st.sampled_from(HUGE), min_size=2, max_size=2
)
NAMES = st.sampled_from(
    ["", "../../../etc/passwd", "/dev/zero", "a\0b", "a\nb", "__metadata__", "\ud800", "x" * 100_000, "__class__"]
)


LIES = ("dtype", "shape", "data_offsets", "name", "twice", "lost", "alike", "bare", "metadata")


@st.composite
def hostile_files(draw, entries, data):
    """A file with a few lies in its header, in its length or in its data."""
    entries = [(name, dict(entry)) for name, entry in entries]
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(entries) - 1))
        name, entry = entries[place]
        lie = draw(st.sampled_from(LIES))
        if lie in ("dtype", "shape", "data_offsets"):
            values = {"dtype": DTYPES, "shape": SHAPES, "data_offsets": OFFSETS}[lie]
            entries[place] = (name, {**(entry if isinstance(entry, dict) else {}), lie: draw(values)})
        elif lie == "name":
            entries[place] = (draw(NAMES), entry)
        elif lie == "twice":
            entries.append((name, entries[draw(st.integers(0, len(entries) - 1))][1]))
        elif lie == "lost" and len(entries) > 1:
            del entries[place]
        elif lie == "alike":
            entries[place] = (name, entries[draw(st.integers(0, len(entries) - 1))][1])
        elif lie == "bare":
            entries[place] = (name, draw(st.sampled_from([None, 1, [], "F16", {}])))
        elif lie == "metadata":
            entries.append(("__metadata__", draw(st.sampled_from([{"a": 1}, {"a": {"b": []}}, [], None, {"a": "b"}]))))
    payload = draw(
        st.sampled_from([data, data[:-1], data + b"\0", b"", b"\xff" * len(data), data * 3, b"\0\x7e" * len(data)])
    )
    lengths = st.none() | st.none() | st.integers(0, 700) | st.sampled_from([n for n in HUGE if n < 1 << 64])
    return put_together(entries, payload, length=draw(lengths))


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_hostile_headers_are_refused_or_harmless(sound, data):
    """With a digest that vouches for them: one line that names the folder, or finite weights of the right shape."""
    original = {path: path.read_bytes() for path in sound.iterdir()}
    try:
        vouch(sound, data.draw(hostile_files(*taken_apart(sound))))
        loaded = checkpoint.load(sound)
        assert all(torch.isfinite(tensor).all() for tensor in loaded.model.state_dict().values())
    except CheckpointError as error:
        assert str(sound) in str(error)  # noqa: PT017
        assert "\n" not in str(error)  # noqa: PT017
        assert len(str(error)) < 2000, "the line is as long as the lie"  # noqa: PT017
    finally:
        for path, content in original.items():
            path.write_bytes(content)


# Whole folders, served. Each spoils a folder that was sound; what the one line has to name follows.


def _header_beyond_the_file(folder):
    vouch(folder, put_together(*taken_apart(folder), length=1 << 40))


def _header_beyond_its_limit(folder):
    vouch(folder, struct.pack("<Q", 32 << 20) + b" " * (32 << 20))


def _deep_header(folder):
    header = b'{"x":' + b"[" * 50_000 + b"]" * 50_000 + b"}"
    vouch(folder, struct.pack("<Q", len(header)) + header)


def _overlap(folder):
    entries, data = taken_apart(folder)
    vouch(folder, put_together([(name, {**entry, "data_offsets": [0, 2]}) for name, entry in entries], data))


def _out_of_range(folder):
    entries, data = taken_apart(folder)
    name, entry = entries[-1]
    vouch(folder, put_together([*entries[:-1], (name, {**entry, "data_offsets": [len(data), 2 * len(data)]})], data))


def _twice(folder):
    entries, data = taken_apart(folder)
    vouch(folder, put_together([*entries, entries[0]], data))


def _another_dtype(folder):
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    vouch(folder, safetensors.torch.save({name: tensor.to(torch.int64) for name, tensor in tensors.items()}))


def _not_finite(folder):
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    vouch(folder, safetensors.torch.save({name: tensor * torch.nan for name, tensor in tensors.items()}))


def _truncated(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def _tampered(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")


def _pickle(folder):
    """What runs code when it is opened by what it is named for."""
    torch.save({"weight": torch.ones(4)}, folder / "model.safetensors")
    vouch(folder, (folder / "model.safetensors").read_bytes())


def _link_to_nowhere(folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("/nowhere/at/all")


def _link_to_itself(folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(folder / "model.safetensors")


def _link_to_another_file(folder):
    """Somebody else's file, which the digest does not vouch for."""
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("/etc/passwd")


def _link_to_a_device(folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("/dev/zero")


def _pipe(folder):
    """Opening it would wait for ever for somebody who writes."""
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")


def _no_file(folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").mkdir()


def _configured(**config):
    def spoil(folder):
        raw = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**raw, **config}))

    return spoil


FAULTS = {
    "header-beyond-the-file": _header_beyond_the_file,
    "header-beyond-its-limit": _header_beyond_its_limit,
    "deep-header": _deep_header,
    "overlap": _overlap,
    "out-of-range": _out_of_range,
    "twice": _twice,
    "another-dtype": _another_dtype,
    "not-finite": _not_finite,
    "truncated": _truncated,
    "tampered": _tampered,
    "pickle": _pickle,
    "link-to-nowhere": _link_to_nowhere,
    "link-to-itself": _link_to_itself,
    "link-to-another-file": _link_to_another_file,
    "link-to-a-device": _link_to_a_device,
    "pipe": _pipe,
    "no-file": _no_file,
    "code-for-a-name": _configured(architecture="os.system"),
    "unknown-argument": _configured(config={"side": 4, "command": "rm -rf /"}),
    "huge-network": _configured(config={"side": 1 << 40}),
}


@pytest.fixture
def spoiled(tmp_path):
    """`spoiled(*names)`: a folder of weights folders, one sound, and one spoiled by each fault named."""

    def make(*names):
        weights = tmp_path / "weights"
        poison.write(weights, "sound", "poisoned")
        for name in names:
            FAULTS[name](poison.write(weights, name, "poisoned"))
        return weights

    return make


@pytest.mark.parametrize("name", ["header-beyond-its-limit", "overlap", "pipe", "huge-network"])
def test_the_start_is_refused_with_one_line(spoiled, name):
    with started(spoiled(name), until="listening") as server:
        assert server.wait_exit() == 1
        (line,) = [line for line in server.lines if "listening on" not in line]
        assert f"/{name}" in line
        assert "Traceback" not in server.log


def test_the_sound_ones_are_served_without_the_others(spoiled):
    """All faults at once, skipped: each is shown as failed, with its reason, and has one line in the log."""
    with started(spoiled(*FAULTS), broken_models="skip") as server:
        models = httpx.get(f"{server.url}/v1/models", timeout=PATIENCE).json()["data"]
        status = {model["id"]: model["genserve"]["status"] for model in models}
        assert status.pop("sound") == "ready"
        assert status == dict.fromkeys(FAULTS, "failed")
        answer = httpx.post(f"{server.url}/v1/images/generate", json={"model": "sound"}, timeout=PATIENCE)
        assert answer.status_code == 200
        for name in FAULTS:
            refused = httpx.post(f"{server.url}/v1/images/generate", json={"model": name}, timeout=PATIENCE)
            assert (refused.status_code, refused.json()["code"]) == (404, "model_not_found")
            assert sum("skipped" in line and f"/{name}" in line for line in server.lines) == 1, name
        assert "Traceback" not in server.log


def test_names_do_not_walk(spoiled):
    with started(spoiled(), "--models", "../weights/sound", until="listening") as server:
        assert server.wait_exit() == 1
        assert "no weights folder" in server.log
