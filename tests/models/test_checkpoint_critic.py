"""A critic is data beside the weights: verified like them, no larger than its file, and no part of the digest."""

import json
import struct

import pytest
import torch

from models import checkpoint
from models.config import read_config, with_card, write_config
from models.errors import CheckpointError
from models.files import CONFIG_FILE, CRITIC_FILE
from models.gan import ConvDiscriminator, ConvGenerator
from models.gpt import GPT

CONFIG = {"num_classes": 3, "channels": [4, 8], "image_size": 8}
GENERATOR = {"latent_dim": 4, "num_classes": 3, "embedding_dim": 2, "channels": (8, 8), "base_size": 4}
CARD = {"nll": 0.5}


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    folder = tmp_path / "gan"
    checkpoint.save(folder, ConvGenerator(**GENERATOR), architecture="conv-gan", config=GENERATOR)
    return folder


def critic():
    torch.manual_seed(1)
    return ConvDiscriminator(**CONFIG)


def put(folder, network=None, **fields):
    given = {"architecture": "conv", "config": CONFIG, "scale": 2.0, "step_size": 0.02, "card": CARD, **fields}
    return checkpoint.write_critic(folder, network or critic(), **given)


def load(folder):
    return checkpoint.load_critic(folder, read_config(folder))


def change(folder, **fields):
    """Write other values into the critic's entry."""
    path = folder / CONFIG_FILE
    raw = json.loads(path.read_text())
    raw["critic"] |= fields
    path.write_text(json.dumps(raw))


def test_a_critic_comes_back_and_the_digest_stays(folder):
    before = checkpoint.load(folder)
    assert load(folder) is None
    written = put(folder)
    assert written.digest == before.config.digest == read_config(folder).digest
    assert written.critic.card == CARD
    found = load(folder)
    assert (found.scale, found.step_size) == (2.0, 0.02)
    assert not found.network.training
    assert not any(parameter.requires_grad for parameter in found.network.parameters())
    for name, tensor in critic().state_dict().items():
        torch.testing.assert_close(found.network.state_dict()[name], tensor.half().float())
    samples, labels = torch.randn(2, 1, 8, 8), torch.tensor([0, 2])
    torch.testing.assert_close(found.log_ratio(samples, labels), 2.0 * found.network(samples, labels))


def test_a_new_card_keeps_the_critic(folder):
    config = put(folder)
    write_config(folder, with_card(config, {"metrics": {}}))
    assert read_config(folder).critic == config.critic


def test_files_that_are_not_what_they_should_be_are_refused(folder):
    put(folder)
    path = folder / CRITIC_FILE
    good = path.read_bytes()
    for content, message in (
        (good[:-1], "truncated or replaced"),
        (good[:-1] + bytes([good[-1] ^ 1]), "tampered with"),
        (b"", "truncated or replaced"),
    ):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=message):
            load(folder)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"critic\.safetensors: missing"):
        load(folder)


def replace(folder, content):
    """Another file, with a configuration that vouches for it."""
    import hashlib

    (folder / CRITIC_FILE).write_bytes(content)
    change(folder, sha256=hashlib.sha256(content).hexdigest(), size=len(content))


def test_hostile_files_are_refused_before_they_are_parsed(folder):
    put(folder)
    replace(folder, struct.pack("<Q", 1 << 40) + b"{}")
    with pytest.raises(CheckpointError, match="header does not fit"):
        load(folder)
    twice = (
        b'{"a":{"dtype":"F16","shape":[1],"data_offsets":[0,2]},"a":{"dtype":"F16","shape":[1],"data_offsets":[0,2]}}'
    )
    replace(folder, struct.pack("<Q", len(twice)) + twice + b"\0\0")
    with pytest.raises(CheckpointError, match="twice"):
        load(folder)
    replace(folder, b"not a safetensors file at all")
    with pytest.raises(CheckpointError, match="header does not fit"):
        load(folder)


def test_a_critic_that_asks_for_more_than_its_file_holds_is_not_built(folder):
    put(folder)
    change(folder, config={**CONFIG, "channels": [1 << 12, 1 << 13, 1 << 14]})
    with pytest.raises(CheckpointError, match="more parameters than the weights file can hold"):
        load(folder)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"architecture": "pickle"}, "unknown architecture 'pickle'"),
        ({"architecture": "conv-gan"}, "unknown architecture 'conv-gan'"),
        ({"config": {"depth": 3}}, "conv refuses its config"),
        ({"config": {**CONFIG, "num_classes": 4}}, "does not fit the architecture"),
        ({"scale": 0}, "wrong type for critic.scale"),
        ({"scale": None}, "wrong type for critic.scale"),
        ({"step_size": 3}, "wrong type for critic.step_size"),
        ({"code": "import os"}, "missing or malformed field"),
        ({"card": {"a": 1 << 70}}, "critic.card"),
    ],
)
def test_configurations_that_make_no_sense_are_refused(folder, fields, message):
    put(folder)
    change(folder, **fields)
    with pytest.raises(CheckpointError, match=message):
        load(folder)


def test_weights_that_are_not_finite_are_refused(folder):
    network = critic()
    with torch.no_grad():
        network.score.bias.fill_(float("nan"))
    with pytest.raises(CheckpointError, match=r"critic.safetensors: tensor score.bias holds non-finite"):
        put(folder, network)
    assert read_config(folder).critic is None


def test_what_can_t_be_read_is_not_written(folder):
    with pytest.raises(CheckpointError, match="scale out of range"):
        put(folder, scale=float("inf"))
    assert not (folder / CRITIC_FILE).exists()


def test_a_critic_belongs_to_a_latent_model(tmp_path):
    config = {"vocab_size": 8, "max_length": 8, "width": 8, "layers": 1, "heads": 1}
    checkpoint.save(tmp_path / "gpt", GPT(**config), architecture="gpt", config=config)
    put(tmp_path / "gpt")
    with pytest.raises(CheckpointError, match="critic: belongs to latent models"):
        read_config(tmp_path / "gpt")
