"""From a folder to warmed lanes, or to one clear refusal."""

import dataclasses
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from app.dtypes import Dtypes, parse
from app.engine.jobs import LatentJob, SequenceJob, WorkerConfig
from app.worker import dynamic, folders, memory, packing, registry, runner, threads
from app.worker.dispatch import unmarked
from app.worker.faults import RegistryError
from app.worker.folders import find_folders
from app.worker.sequences import state_bytes
from models import checkpoint
from models.config import read_config, with_card, write_config
from models.files import TOKENIZER_FILE
from models.gpt import GPT
from tests import fake_sequences, fakes

CPU = torch.device("cpu")
SIZES = {"vocab_size": 288, "max_length": 64, "width": 64, "layers": 4, "heads": 2}


@pytest.fixture
def config(tmp_path):
    fakes.write(tmp_path / "weights", "beta")
    fakes.write(tmp_path / "weights", "alpha", "small-batches-differ", image_channels=3)
    return WorkerConfig(str(tmp_path / "weights"), device="cpu", max_batch=8)


def with_(config, **changes):
    return dataclasses.replace(config, **changes)


def folder(config, name):
    return Path(config.weights) / name


def test_precision_is_half_where_the_cpu_has_it(config, monkeypatch):
    for fast, dtype, size in ((True, "bfloat16", 8 + 16), (False, "float32", 16 + 16)):
        monkeypatch.setattr(packing, "has_fast_bf16", lambda fast=fast: fast)
        alpha, _ = registry.load(config).models
        assert (alpha.dtype, alpha.memory_bytes) == (dtype, size)
    assert registry.load(with_(config, dtype="bf16")).models[0].dtype == "bfloat16"


def test_precision_by_name(config):
    loaded = registry.load(with_(config, dtype="bf16,alpha=fp32"))
    assert [model.dtype for model in loaded.models] == ["float32", "bfloat16"]


@pytest.mark.parametrize(
    ("dtype", "said"),
    [
        ("fp16", "'fp16' is neither a precision"),
        ("auto,gamma=int4", r"dtype: no model gamma is served \(served: alpha, beta\)"),
        ("auto,beta=int4", "beta: makes pictures, which int4 is not for"),
    ],
)
def test_wrong_precisions_are_refused_even_where_broken_models_are_skipped(config, dtype, said):
    with pytest.raises(RegistryError, match=said):
        registry.load(with_(config, dtype=dtype, skip_broken=True))


def test_few_bits_for_all_are_for_text_alone(config, monkeypatch):
    monkeypatch.setattr(packing, "has_fast_bf16", lambda: False)
    assert [model.dtype for model in registry.load(with_(config, dtype="int4")).models] == ["float32"] * 2


@pytest.fixture
def texts(tmp_path):
    """A folder with a tiny language model, "writer", and a fake one that can't be packed, "echo"."""
    folder = tmp_path / "texts"
    fake_sequences.write(folder, "echo", "echo-text")
    file = folder / "echo" / TOKENIZER_FILE
    torch.manual_seed(0)
    checkpoint.save(
        folder / "writer",
        gpt(),
        architecture="gpt",
        config=SIZES,
        tokenizer=file.read_bytes(),
        eos_token_id=fake_sequences.EOS,
    )
    return WorkerConfig(str(folder), device="cpu", max_slots=4, threads=1)


@pytest.mark.parametrize(
    ("dtype", "name"), [("fp32", "float32"), ("bf16", "bfloat16"), ("int8", "int8"), ("int4", "int4")]
)
def test_a_language_model_is_packed(texts, dtype, name):
    loaded = registry.load(with_(texts, models=("writer",), dtype=dtype))
    (writer,) = loaded.models
    assert (writer.dtype, writer.parameters) == (name, sum(p.numel() for p in gpt().parameters()))
    assert (writer.stop_tokens, writer.start_tokens, writer.chat_template) == ((fake_sequences.EOS,), (), "")
    lane = loaded.lanes["writer"]
    lane.submit(1, SequenceJob("writer", (72, 105), max_tokens=3, seed=1))
    chunks = [chunk for _ in range(8) if lane.waiting for chunk in lane.tick().chunks]
    assert sum(len(chunk.tokens) for chunk in chunks) == 3


def gpt():
    return GPT(**SIZES)


def test_memory_of_a_language_model_is_what_its_precision_takes(texts):
    sizes = [
        registry.load(with_(texts, models=("writer",), dtype=dtype)).models[0].memory_bytes
        for dtype in ("fp32", "bf16", "int8", "int4")
    ]
    assert sizes == sorted(sizes, reverse=True)
    for dtype, size in zip(("fp32", "bf16", "int8", "int4"), sizes, strict=True):
        found = find_folders(Path(texts.weights), ("writer",))
        needed = dict(memory.needed_by(found, parse(dtype), CPU))
        slots = gpt().to(torch.float32 if dtype == "fp32" else torch.bfloat16).init_state(4)
        assert size - state_bytes(slots) <= needed["writer"]


def test_a_large_language_model_takes_all_threads(texts, monkeypatch):
    assert [threads.sequence_threads(size, 4) for size in (5_000_000, 33_000_000, 34_000_000)] == [3, 3, 4]
    assert [threads.sequence_threads(size, 1) for size in (0, 1 << 30)] == [1, 1]
    assert registry.load(with_(texts, models=("writer",), threads=2)).models[0].threads == 1
    monkeypatch.setattr(threads, "ALL_THREADS_PARAMETERS", 1)
    assert registry.load(with_(texts, models=("writer",), threads=2)).models[0].threads == 2


def test_what_can_not_be_packed_is_served_as_it_is(texts):
    for dtype, name in (("auto", "float32"), ("int4", "float32"), ("bf16", "bfloat16")):
        assert registry.load(with_(texts, models=("echo",), dtype=dtype)).models[0].dtype == name
    with pytest.raises(RegistryError, match="echo: Echo has no embedding and head to pack"):
        registry.load(with_(texts, dtype="auto,echo=int4"))


def test_a_precision_that_costs_too_much_by_the_card_is_refused(texts, caplog):
    place = folder(texts, "writer")
    assert registry.load(with_(texts, models=("writer",), dtype="int4")).models[0].dtype == "int4"
    assert caplog.text.count("writer: its card does not say what int4 costs") == 1
    card = {
        "precision": {"precisions": {"int4": {"served": False, "ratio": 1.2}, "int8": {"served": True, "ratio": 1}}}
    }
    write_config(place, with_card(read_config(place), card))
    assert registry.load(with_(texts, models=("writer",), dtype="int8")).models[0].dtype == "int8"
    with pytest.raises(RegistryError, match="writer: by its card int4 costs too much perplexity"):
        registry.load(with_(texts, dtype="int4", skip_broken=True))


def test_slots_are_as_many_as_fit(texts, monkeypatch, caplog):
    slot = state_bytes(gpt().init_state(1))
    monkeypatch.setattr(memory, "needed_by", lambda *_: [])
    (writer,) = registry.load(with_(texts, models=("writer",), dtype="fp32", memory_limit=3 * slot)).models
    assert writer.slots == 3
    assert "writer: 3 slots of 0 MiB fit, not 4" in caplog.text
    with pytest.raises(RegistryError, match="writer, one slot"):
        registry.load(with_(texts, models=("writer",), dtype="fp32", memory_limit=slot - 1))


def test_all_models_are_loaded_warmed_and_described(config):
    loaded = registry.load(with_(config, dtype="fp32"))
    assert list(loaded.lanes) == ["alpha", "alpha/inpaint", "beta", "beta/inpaint"]
    alpha, beta = loaded.models
    assert (alpha.name, alpha.architecture, alpha.kind) == ("alpha", "small-batches-differ", "latent")
    assert (alpha.buckets, beta.buckets) == ((4, 8), (1, 2, 4, 8))
    assert (alpha.image_shape, alpha.latent_shape, alpha.num_classes) == ((4, 4, 3), (4,), 10)
    assert (alpha.parameters, alpha.memory_bytes, alpha.dtype) == (4, 2 * 16, "float32")
    assert alpha.labels == fakes.LABELS
    assert alpha.card == {"license": "none"}
    assert len(alpha.digest) == 64
    assert alpha.created == int((folder(config, "alpha") / "model.safetensors").stat().st_mtime)
    assert alpha.error is None
    assert loaded.runtime.device == "cpu"
    assert loaded.runtime.torch == torch.__version__
    assert loaded.threads == len(os.sched_getaffinity(0))


def test_lanes_make_pictures(config):
    lane = registry.load(config).lanes["beta"]
    latents = np.array([[0.5, -0.5, 0, 1]], np.float32)
    lane.submit(1, LatentJob("beta", latents, np.array([3])))
    np.testing.assert_array_equal(lane.begin()(unmarked).made, fakes.echo(latents, np.array([3])))


def test_names_choose(config):
    assert list(registry.load(with_(config, models=("beta",))).lanes) == ["beta", "beta/inpaint"]
    with pytest.raises(RegistryError, match=r"no weights folder gamma, delta \(found: alpha, beta\)"):
        registry.load(with_(config, models=("gamma", "beta", "delta")))


def test_files_and_other_folders_are_no_models(config):
    (folder(config, "README.md")).write_text("hello")
    (folder(config, "notes")).mkdir()
    assert list(registry.load(config).lanes) == ["alpha", "alpha/inpaint", "beta", "beta/inpaint"]


def test_no_models(config, tmp_path):
    with pytest.raises(RegistryError, match="can't be read: No such file"):
        registry.load(with_(config, weights=str(tmp_path / "nowhere")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(RegistryError, match="holds no weights folder"):
        registry.load(with_(config, weights=str(tmp_path / "empty")))


def _flip_last_byte(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


FAULTS = {
    "missing": (lambda f: (f / "model.safetensors").unlink(), "model.safetensors: missing"),
    "truncated": (lambda f: (f / "model.safetensors").write_bytes(b"x"), "truncated or replaced"),
    "tampered": (lambda f: _flip_last_byte(f / "model.safetensors"), "tampered with"),
    "config": (lambda f: (f / "config.json").write_text("{"), "config.json: unreadable"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_folder_stops_the_start(config, fault):
    break_it, cause = FAULTS[fault]
    break_it(folder(config, "alpha"))
    with pytest.raises(RegistryError, match=cause) as caught:
        registry.load(config)
    assert str(folder(config, "alpha")) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_folder_is_skipped_on_request(config, fault, caplog):
    break_it, cause = FAULTS[fault]
    break_it(folder(config, "alpha"))
    loaded = registry.load(with_(config, skip_broken=True))
    assert list(loaded.lanes) == ["beta", "beta/inpaint"]
    assert [model.name for model in loaded.models] == ["alpha", "beta"]
    assert cause in loaded.models[0].error
    assert cause in caplog.text


def test_nothing_but_broken_folders_stops_the_start(config):
    shutil.rmtree(folder(config, "beta"))
    (folder(config, "alpha") / "model.safetensors").unlink()
    with pytest.raises(RegistryError, match="no model could be loaded"):
        registry.load(with_(config, skip_broken=True))


@pytest.mark.parametrize(
    ("architecture", "cause"),
    [
        ("wrong-shape", "decode gives"),
        ("not-a-tensor", "gamma: "),
        ("raises-alone", "a lone row"),
        ("raises-in-large-batches", "out of memory"),
        ("never-finite", "non-finite"),
        ("no-protocol", "no-protocol lacks latent_shape"),
        ("echo-tokens", "echo-tokens"),
    ],
)
def test_networks_that_break_their_protocol(config, architecture, cause):
    """An operator's own network must not take the worker down with a traceback."""
    fakes.write(folder(config, ""), "gamma", architecture)
    with pytest.raises(RegistryError, match=cause) as caught:
        registry.load(config)
    assert "gamma" in str(caught.value)
    lanes = registry.load(with_(config, skip_broken=True)).lanes
    assert list(lanes) == ["alpha", "alpha/inpaint", "beta", "beta/inpaint"]


def test_labels_must_fit_the_classes(config):
    """A name beyond them would be an index out of range, which on CUDA takes the whole device down."""
    fakes.write(folder(config, ""), "gamma", labels=(*fakes.LABELS, "one more"))
    with pytest.raises(RegistryError, match="gamma: 11 labels where the network has 10 classes"):
        registry.load(config)


def test_an_encoder_is_a_lane_of_its_own(config):
    plain = registry.load(config).models[1]
    fakes.write(folder(config, ""), "gamma", "echo-encoder")
    loaded = registry.load(config)
    assert list(loaded.lanes)[4:] == ["gamma", "gamma/inpaint", "gamma/encode"]
    gamma = loaded.models[2]
    assert (plain.encodes, gamma.encodes) == (False, True)
    assert gamma.encode_buckets == (1, 2, 4, 8)
    assert len(gamma.encode_seconds) == 4
    assert gamma.as_encoder.dtype == "float32"
    assert gamma.memory_bytes > plain.memory_bytes
    pictures = np.full((2, 4, 4, 1), 51, np.uint8)
    lane = loaded.lanes["gamma/encode"]
    lane.submit(1, LatentJob("gamma/encode", pictures, np.array([0, 3])))
    made = lane.begin()(unmarked).made
    np.testing.assert_allclose(made, fakes.encoded(pictures, np.array([0, 3])), atol=1e-6)


def test_an_encoder_s_memory_is_counted(config):
    fakes.write(folder(config, ""), "gamma", "echo-encoder")
    needed = dict(memory.needed_by(find_folders(folder(config, ""), ()), Dtypes(), CPU))
    assert 2 * needed["gamma"] == 3 * needed["beta"], "to decode, for gradients, and to encode"


def test_styles_are_told(config):
    fakes.write(folder(config, ""), "gamma", "echo-styles", styles=5)
    alpha, _, gamma = registry.load(config).models
    assert (alpha.styles, gamma.styles, gamma.latent_shape) == (0, 5, (5, fakes.LATENT_DIM))


@pytest.mark.parametrize(("index", "fits"), [(3, True), (4, False)])
def test_controls_are_told_and_fit_the_latent(config, index, fits):
    named = {"code_0": {"index": index, "min": -1, "max": 1.0, "description": "x"}}
    place = fakes.write(folder(config, ""), "gamma")
    write_config(place, dataclasses.replace(read_config(place, fakes.LATENT), controls=named))
    if fits:
        assert [model.controls for model in registry.load(config).models] == [{}, {}, named]
    else:
        with pytest.raises(RegistryError, match=r"gamma: controls\.code_0: index 4 of a latent of shape \[4\]"):
            registry.load(config)


@pytest.mark.parametrize(
    ("architecture", "fields", "cause"),
    [
        ("encodes-wrong-shape", {}, r"encode gives \[1, 2\] for one picture"),
        ("cannot-encode", {}, "encode raises on a batch of one"),
        ("echo-styles", {"styles": 1}, r"1 styles with latents of shape \[1, 4\]"),
        ("echo-styles", {"styles": 65}, "65 styles"),
    ],
)
def test_what_contradicts_its_protocol_is_refused(config, architecture, fields, cause):
    fakes.write(folder(config, ""), "gamma", architecture, **fields)
    with pytest.raises(RegistryError, match=f"gamma: {cause}"):
        registry.load(config)


def test_memory_is_refused_with_a_table(config):
    with pytest.raises(RegistryError, match="do not fit on cpu") as caught:
        registry.load(with_(config, memory_limit=1))
    lines = str(caught.value).splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["alpha", "beta", "(while", "needed", "available"]
    assert all(line.endswith("MiB") for line in lines[1:])


def test_threads(config, monkeypatch):
    """A small network's batch is computed by one thread, and as many run at once as there are threads."""
    monkeypatch.setattr(dynamic, "BESIDE_SECONDS", 0.0)
    loaded = registry.load(with_(config, threads=3))
    assert loaded.threads == 3
    assert [model.threads for model in loaded.models] == [1, 1]
    assert all(lane.ready(running=1) for lane in submitted(loaded.lanes, 8))
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda _: {0, 1, 5, 7})
    assert registry.load(config).threads == 4, "one a core"
    assert threads.compute_threads(with_(config, threads=3), torch.device("cuda")) == 1, "a GPU is fed by one"


def test_a_large_network_takes_all_threads(config, monkeypatch):
    """Its batches are shared among them, and run one at a time."""
    monkeypatch.setattr(dynamic, "BESIDE_SECONDS", 0.0)
    monkeypatch.setattr(runner, "SHARED_FLOPS", -1)
    loaded = registry.load(with_(config, threads=2))
    assert [model.threads for model in loaded.models] == [2, 2]
    assert not any(lane.ready(running=1) for lane in submitted(loaded.lanes, 64))


def submitted(lanes, rows):
    """The lanes of pictures, with so many rows waiting in each."""
    own = {name: lane for name, lane in lanes.items() if "/" not in name}
    for name, lane in own.items():
        lane.submit(1, LatentJob(name, np.zeros((rows, fakes.LATENT_DIM), np.float32), np.zeros(rows, np.int64)))
    return own.values()


def test_operator_s_module(config):
    assert registry.load(with_(config, models_module="tests.fakes")).lanes
    with pytest.raises(RegistryError, match="GENSERVE_MODELS_MODULE=no_such_module"):
        registry.load(with_(config, models_module="no_such_module"))


def test_the_first_of_a_kind_is_the_first_by_name_unless_told_otherwise(config):
    fakes.write(folder(config, ""), "gamma")
    order = folder(config, "order.txt")

    def served(**changes):
        return [path.name for path in find_folders(folder(config, ""), changes.get("names", ()))]

    assert served() == ["alpha", "beta", "gamma"]
    assert served(names=("gamma", "alpha")) == ["gamma", "alpha"]
    order.write_text("beta\n\nremoved\nbeta\n")
    assert served() == ["beta", "alpha", "gamma"]
    assert served(names=("gamma", "alpha")) == ["gamma", "alpha"]
    assert [model.name for model in registry.load(config).models] == ["beta", "alpha", "gamma"]


def test_an_order_that_can_not_be_read_is_refused(config):
    order = folder(config, "order.txt")
    order.write_bytes(b"x" * (folders.MAX_ORDER + 1))
    with pytest.raises(RegistryError, match=r"order\.txt: more than 65536 bytes"):
        registry.load(config)
    order.unlink()
    order.mkdir()
    with pytest.raises(RegistryError, match=r"order\.txt: can't be read: Is a directory"):
        registry.load(config)
