"""Weights folders: what was saved comes back, and whatever is wrong becomes one clear `CheckpointError`."""

import dataclasses
import hashlib
import json
import re
import struct

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from models import checkpoint
from models.config import ModelConfig, read_config, with_card
from models.errors import CheckpointError
from models.gan import ConvGenerator
from models.tensors import tensor_bytes

SMALL = {"latent_dim": 2, "num_classes": 2, "embedding_dim": 2, "channels": [8], "base_size": 2}


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    folder = tmp_path / "small"
    checkpoint.save(
        folder, ConvGenerator(**SMALL), architecture="conv-gan", config=SMALL, labels=("a", "b"), card={"license": "x"}
    )
    return folder


def rewrite_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def rewrite_weights(folder, data):
    """Replace the weights and declare the new digest: what whoever made the folder can always do."""
    (folder / "model.safetensors").write_bytes(data)
    rewrite_config(folder, weights={"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)})


def tensors_of(folder):
    return safetensors.torch.load_file(folder / "model.safetensors")


def test_what_was_saved_comes_back_in_half_precision(folder):
    torch.manual_seed(0)
    original = ConvGenerator(**SMALL)
    loaded = checkpoint.load(folder)
    assert loaded.name == "small"
    assert not loaded.model.training
    assert loaded.config.labels == ("a", "b")
    assert loaded.config.kind == "latent"
    assert loaded.parameters == sum(p.numel() for p in original.parameters())
    assert tensor_bytes(loaded.model) == 4 * loaded.parameters
    for name, tensor in loaded.model.state_dict().items():
        assert tensor.dtype == torch.float32
        assert not tensor.requires_grad
        torch.testing.assert_close(tensor, original.state_dict()[name].half().float(), rtol=0, atol=0)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"], "nothing temporary"


def test_loading_twice_gives_the_same_digest_and_saving_is_reproducible(folder, tmp_path):
    loaded = checkpoint.load(folder)
    again = checkpoint.save(tmp_path / "again", loaded.model, architecture="conv-gan", config=SMALL)
    assert again.sha256 == loaded.config.sha256
    assert again.digest == loaded.config.digest


def test_digest_covers_all_that_decides_the_output(folder):
    config = read_config(folder)
    assert with_card(config, {"license": "y"}).digest == config.digest
    changed = [{"architecture": "conv-vae"}, {"config": {**SMALL, "base_size": 3}}, {"sha256": "0" * 64}]
    digests = {dataclasses.replace(config, **change).digest for change in changed}
    assert len(digests | {config.digest}) == 4


def test_controls_are_kept_and_all_but_their_descriptions_is_vouched_for(folder, tmp_path):
    model, control = checkpoint.load(folder).model, {"index": 1, "min": -2.0, "max": 2.0, "description": "thickness"}
    plain = read_config(folder)
    saved = checkpoint.save(tmp_path / "b", model, architecture="conv-gan", config=SMALL, named={"code_0": control})
    assert checkpoint.load(tmp_path / "b").config == saved
    assert saved.controls == {"code_0": control}
    other = [{"code_1": control}, {"code_0": control | {"index": 2}}, {"code_0": control | {"description": "x"}}]
    digests = [dataclasses.replace(saved, controls=controls).digest for controls in other]
    assert len({*digests, saved.digest, plain.digest}) == 4
    assert digests[2] == saved.digest
    with pytest.raises(ValueError, match=r"controls\.code_0: min must be below max"):
        checkpoint.save(
            tmp_path / "c", model, architecture="conv-gan", config=SMALL, named={"code_0": control | {"min": 2}}
        )


def test_controls_of_a_model_without_latents_are_refused(folder):
    rewrite_config(folder, architecture="gpt", controls={"code_0": {"index": 0, "min": 0, "max": 1}})
    with pytest.raises(CheckpointError, match="controls: belong to latent models, which gpt is not"):
        read_config(folder)


def test_shared_parameters_are_counted_once():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(3, 3, bias=False)
            self.b = self.a

    config = ModelConfig("tied", {}, "", 0)
    assert checkpoint.Checkpoint("tied", config, Tied()).parameters == 9


def test_other_networks_can_be_given_by_the_caller(folder):
    """The judge that measures generators is loaded like this, without being servable."""
    with pytest.raises(CheckpointError, match="unknown architecture 'conv-gan'"):
        checkpoint.load(folder, {"judge": ConvGenerator})
    rewrite_config(folder, architecture="judge")
    assert checkpoint.load(folder, {"judge": ConvGenerator}).config.architecture == "judge"
    with pytest.raises(CheckpointError, match="unknown architecture 'judge'"):
        checkpoint.load(folder)


@pytest.mark.parametrize(
    ("fault", "file", "cause"),
    [
        (lambda f: (f / "config.json").unlink(), "config.json", "missing"),
        (lambda f: (f / "config.json").write_text("{"), "config.json", "unreadable"),
        (lambda f: (f / "config.json").write_bytes(b"\xff\xfe"), "config.json", "unreadable"),
        (lambda f: (f / "config.json").write_text("[" * 100_000), "config.json", "unreadable"),
        (lambda f: (f / "config.json").write_text(" " * (1 << 20) + "{}"), "config.json", "larger than"),
        (lambda f: (f / "config.json").write_text("[]"), "config.json", "not a Genserve configuration"),
        (lambda f: rewrite_config(f, format=2), "config.json", "not a Genserve configuration"),
        (lambda f: rewrite_config(f, weights={}), "config.json", "missing or malformed"),
        (lambda f: rewrite_config(f, weights=None), "config.json", "missing or malformed"),
        (lambda f: rewrite_config(f, labels=3), "config.json", "missing or malformed"),
        (lambda f: rewrite_config(f, labels=[3]), "config.json", "wrong type for labels"),
        (lambda f: rewrite_config(f, card=[]), "config.json", "wrong type for card"),
        (lambda f: rewrite_config(f, controls=[]), "config.json", "controls: an object of at most 64 entries"),
        (lambda f: rewrite_config(f, controls={"a": {}}), "config.json", "controls.a: index, min and max expected"),
        (lambda f: rewrite_config(f, architecture=["conv-gan"]), "config.json", "wrong type for architecture"),
        (lambda f: rewrite_config(f, architecture="os.system"), "config.json", "unknown architecture 'os.system'"),
        (lambda f: rewrite_config(f, config={**SMALL, "colour": 1}), "config.json", "refuses its config"),
        (lambda f: rewrite_config(f, config={**SMALL, "channels": [7]}), "config.json", "refuses its config"),
        (lambda f: rewrite_config(f, config={**SMALL, "base_size": 3}), "model.safetensors", "does not fit"),
        (lambda f: (f / "model.safetensors").unlink(), "model.safetensors", "missing"),
        (lambda f: (f / "model.safetensors").write_bytes(b""), "model.safetensors", "truncated or replaced"),
    ],
)
def test_faults_name_file_and_cause(folder, fault, file, cause):
    fault(folder)
    with pytest.raises(CheckpointError, match=re.escape(cause)) as caught:
        checkpoint.load(folder)
    assert str(folder / file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_truncated(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: \d+ bytes where config.json says \d+: truncated"):
        checkpoint.load(folder)


def test_tampered(folder):
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: sha256 .* tampered with"):
        checkpoint.load(folder)


def test_unreadable_file(folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").mkdir()
    with pytest.raises(CheckpointError, match=r"model\.safetensors: unreadable"):
        checkpoint.load(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_weights_with_a_correct_digest(folder, value):
    tensors = tensors_of(folder)
    tensors["project.weight"][0, 0] = value
    rewrite_weights(folder, safetensors.torch.save(tensors))
    with pytest.raises(CheckpointError, match=r"model\.safetensors: tensor project\.weight holds non-finite values"):
        checkpoint.load(folder)


def test_weights_that_overflow_float32_are_non_finite(folder):
    """1e300 is finite in the file and infinite where it is used."""
    tensors = tensors_of(folder)
    tensors["project.weight"] = torch.full_like(tensors["project.weight"], 1e300, dtype=torch.float64)
    rewrite_weights(folder, safetensors.torch.save(tensors))
    with pytest.raises(CheckpointError, match="non-finite"):
        checkpoint.load(folder)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int64, torch.bool])
def test_weights_of_another_kind_of_number(folder, dtype):
    tensors = tensors_of(folder)
    tensors["project.weight"] = tensors["project.weight"].to(dtype)
    rewrite_weights(folder, safetensors.torch.save(tensors))
    with pytest.raises(CheckpointError, match=r"project\.weight"):
        checkpoint.load(folder)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e4m3fn])
def test_any_float_is_read(folder, dtype):
    tensors = {name: tensor.to(dtype) for name, tensor in tensors_of(folder).items()}
    rewrite_weights(folder, safetensors.torch.save(tensors))
    assert checkpoint.load(folder).model.project.weight.dtype == torch.float32


def test_names_and_shapes_must_match(folder):
    tensors = tensors_of(folder)
    tensors["extra"] = tensors.pop("project.bias")
    tensors["project.weight"] = tensors["project.weight"][:1].contiguous()
    rewrite_weights(folder, safetensors.torch.save(tensors))
    with pytest.raises(CheckpointError, match=r"project.bias is missing; extra is unexpected; project.weight is"):
        checkpoint.load(folder)
    rewrite_weights(folder, safetensors.torch.save({f"x{i}": torch.zeros(1) for i in range(9)}))
    with pytest.raises(CheckpointError, match=r"and \d+ more"):
        checkpoint.load(folder)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 4,
        struct.pack("<Q", 1 << 62) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 2) + b"{}",
        struct.pack("<Q", 100) + b"{}",
    ],
)
def test_files_that_are_not_safetensors(folder, data):
    """A huge header length must not even reach the parser, which would allocate for it."""
    rewrite_weights(folder, data)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        checkpoint.load(folder)


@pytest.mark.parametrize("name", ["Small", ".small", "a b", "x" * 65])
def test_folder_names_are_model_names(folder, name):
    with pytest.raises(CheckpointError, match="name must match"):
        checkpoint.load(folder.rename(folder.parent / name))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
@given(data=st.data())
def test_mutated_weights_never_raise_anything_else(folder, data):
    """Whatever the bytes, even with a digest that vouches for them: a network with finite weights or a refusal."""
    path = folder / "model.safetensors"
    original, original_config = path.read_bytes(), (folder / "config.json").read_bytes()
    content = bytearray(original)
    header = 8 + struct.unpack_from("<Q", original)[0]
    for _ in range(data.draw(st.integers(1, 4))):
        where = data.draw(st.integers(0, header - 1) | st.integers(0, len(content) - 1))
        content[where] = data.draw(st.integers(0, 255) | st.sampled_from(b'0123456789{}[]",:'))
    content = bytes(content[: data.draw(st.just(len(content)) | st.integers(0, len(content)))])
    if data.draw(st.booleans()):
        rewrite_weights(folder, content)
    else:
        path.write_bytes(content)
    try:
        loaded = checkpoint.load(folder)
        assert all(torch.isfinite(tensor).all() for tensor in loaded.model.state_dict().values())
    except CheckpointError as error:
        assert "\n" not in str(error)  # noqa: PT017
    finally:
        path.write_bytes(original)
        (folder / "config.json").write_bytes(original_config)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=200)
@given(data=st.data())
def test_mutated_configurations_never_raise_anything_else(folder, data):
    path = folder / "config.json"
    original = path.read_bytes()
    content = bytearray(original)
    for _ in range(data.draw(st.integers(1, 3))):
        where = data.draw(st.integers(0, len(content) - 1))
        if not 48 <= content[where] <= 57:  # more digits could name networks of gigabytes
            content[where] = data.draw(st.sampled_from(b'{}[]",: nt-\xff'))
    path.write_bytes(bytes(content))
    try:
        checkpoint.load(folder)
    except CheckpointError as error:
        assert str(folder) in str(error)  # noqa: PT017
    finally:
        path.write_bytes(original)


def test_saving_refuses_what_could_not_be_served(tmp_path):
    model = ConvGenerator(**SMALL)
    with torch.no_grad():
        model.project.bias[0] = 1e6  # infinite in fp16
    with pytest.raises(CheckpointError, match=r"project\.bias"):
        checkpoint.save(tmp_path / "x", model, architecture="conv-gan", config=SMALL)
    assert not (tmp_path / "x").exists()
