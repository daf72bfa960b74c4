"""A packed network gives the pictures of the eager one; what can't be packed is served as it is."""

import logging

import pytest
import torch
from torch import Tensor, nn

from app.worker import packing
from models.dcgan import DCGANGenerator
from models.gan import ConvGenerator
from models.vae import ConvVAE

ROWS = 6
NETWORKS = {
    "dcgan grey": lambda: DCGANGenerator(latent_dim=8, channels=(16, 8), base_size=7, image_channels=1),
    "dcgan colour": lambda: DCGANGenerator(latent_dim=8, channels=(16, 8)),
    "conv-gan": lambda: ConvGenerator(latent_dim=8, channels=(16, 8), num_classes=3),
    "conv-vae": lambda: ConvVAE(latent_dim=8, channels=(8, 16), num_classes=3),
}


class Net(nn.Module):
    """A latent model around whatever layers a test wants."""

    latent_shape, num_classes = (4,), 0

    def __init__(self, *layers: nn.Module, decode=None):
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self._decode = decode

    def decode(self, latents: Tensor, labels: Tensor, /) -> Tensor:
        x = latents[:, :, None, None]
        return self._decode(self, x) if self._decode else self.layers(x)


def trained(network: nn.Module) -> nn.Module:
    """Evaluation mode, with statistics and affine parameters as if something had been learnt."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.weight, 1, 0.2)
            nn.init.normal_(module.bias, 0, 0.2)
    return network.eval().requires_grad_(False)


def rows(network, count=ROWS):
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(count) % max(network.num_classes, 1)
    return torch.randn(count, *network.latent_shape, generator=generator), labels


def prepare(network, dtype):
    latents, labels = rows(network)
    return packing.prepare(network, dtype, latents, labels)


def plain_layers(network):
    return [m for m in network.modules() if type(m) in (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.Linear)]


@pytest.mark.parametrize("count", [1, 3, 17])
@pytest.mark.parametrize("name", NETWORKS)
def test_packed_network_gives_the_same_pictures_at_any_batch_size(name, count):
    network = trained(NETWORKS[name]())
    packed, dtype = prepare(network, torch.float32)
    assert dtype == torch.float32
    latents, labels = rows(network, count)
    torch.testing.assert_close(packed.decode(latents, labels), network.decode(latents, labels), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_bf16_stays_within_its_rounding(name):
    network = trained(NETWORKS[name]())
    packed, dtype = prepare(network, torch.bfloat16)
    assert dtype == torch.bfloat16
    latents, labels = rows(network)
    out = packed.decode(latents.bfloat16(), labels)
    assert out.dtype == torch.bfloat16
    assert (out.float() - network.decode(latents, labels)).abs().mean() < 0.01


@pytest.mark.parametrize("name", ["dcgan grey", "dcgan colour", "conv-gan"])
def test_nothing_plain_is_left_and_the_original_is_untouched(name):
    network = trained(NETWORKS[name]())
    before = {key: value.clone() for key, value in network.state_dict().items()}
    packed, _ = prepare(network, torch.bfloat16)
    assert plain_layers(packed) == []
    assert network.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_what_is_not_plain_stays_as_it_is():
    reflecting = nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect")
    same = nn.Conv2d(8, 1, 3, padding="same")
    network = trained(Net(nn.ConvTranspose2d(4, 8, 4), nn.GELU(), reflecting, same, nn.Tanh()))
    packed, _ = prepare(network, torch.float32)
    assert len(plain_layers(packed)) == 2
    latents, labels = rows(network)
    torch.testing.assert_close(packed.decode(latents, labels), network.decode(latents, labels))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_linear_layers_and_their_activations(dtype):
    layers = (nn.Flatten(), nn.Linear(4, 32), nn.LeakyReLU(0.2), nn.Linear(32, 48, bias=False), nn.Tanh())
    network = trained(Net(*layers, nn.Unflatten(1, (3, 4, 4))))
    packed, used = prepare(network, dtype)
    assert used == dtype
    assert plain_layers(packed) == []
    assert not any(isinstance(m, nn.LeakyReLU | nn.Tanh) for m in packed.modules())
    latents, labels = rows(network)
    torch.testing.assert_close(
        packed.decode(latents.to(dtype), labels).float(), network.decode(latents, labels), atol=0.02, rtol=0.01
    )


def test_a_linear_layer_over_positions_stays_as_it_is():
    network = trained(Net(nn.ConvTranspose2d(4, 1, 4), nn.Linear(4, 4), nn.Tanh()))
    packed, _ = prepare(network, torch.float32)
    assert [type(m) for m in plain_layers(packed)] == [nn.Linear]
    latents, labels = rows(network)
    torch.testing.assert_close(packed.decode(latents, labels), network.decode(latents, labels))


def test_layers_called_twice_stay_as_they_are():
    twice = nn.Conv2d(8, 8, 3, padding=1)
    network = trained(Net(nn.ConvTranspose2d(4, 8, 4), twice, nn.ReLU(), twice, nn.Tanh()))
    packed, _ = prepare(network, torch.float32)
    assert len(plain_layers(packed)) == 1
    latents, labels = rows(network)
    torch.testing.assert_close(packed.decode(latents, labels), network.decode(latents, labels))


def test_a_batch_norm_that_is_called_by_hand_is_not_folded():
    def skip(net, x):
        x = net.layers[0](x)
        return torch.tanh(net.layers[1](x) + x)  # folded, the skip connection would be wrong

    network = trained(Net(nn.ConvTranspose2d(4, 3, 4), nn.BatchNorm2d(3), decode=skip))
    packed, _ = prepare(network, torch.float32)
    latents, labels = rows(network)
    torch.testing.assert_close(packed.decode(latents, labels), network.decode(latents, labels))


def test_a_network_that_looks_into_its_layers_is_served_eagerly(caplog):
    def inward(net, x):
        net.layers[0](x)
        return torch.tanh(nn.functional.conv_transpose2d(x, net.layers[0].weight))

    network = trained(Net(nn.ConvTranspose2d(4, 1, 4, bias=False), decode=inward))
    with caplog.at_level(logging.INFO):
        out, dtype = prepare(network, torch.bfloat16)
    assert dtype == torch.bfloat16
    assert len(plain_layers(out)) == 1
    assert "pack in torch.bfloat16 does not work" in caplog.text


def test_a_network_that_needs_fp32_keeps_it(caplog):
    def exact(net, x):
        return torch.sin(net.layers[0](x) * 1e4)  # bf16's rounding becomes visible

    network = trained(Net(nn.ConvTranspose2d(4, 1, 4, bias=False), decode=exact))
    with caplog.at_level(logging.INFO):
        _, dtype = prepare(network, torch.bfloat16)
    assert dtype == torch.float32
    assert "in torch.bfloat16 is off by" in caplog.text


def test_a_network_that_gives_nan_comes_back_for_the_runner_to_refuse():
    network = trained(Net(nn.ConvTranspose2d(4, 1, 4), decode=lambda net, x: net.layers(x) * float("nan")))
    out, dtype = prepare(network, torch.bfloat16)
    assert (out, dtype) == (network, torch.float32)


def test_fast_bf16_is_asked_of_the_cpu(monkeypatch):
    for capabilities, fast in (({"avx512_bf16": True}, True), ({"amx_bf16": True}, True), ({"avx2": True}, False)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has=capabilities: has)
        assert packing.has_fast_bf16() is fast
