"""Encoding is as exact as decoding: batches that give a picture the latents that it has alone."""

import numpy as np
import pytest
import torch

from app.worker.encoder import EncodingRunner
from app.worker.runner import LatentRunner, ModelFault
from models.vae import ConvVAE
from tests import fakes

CPU = torch.device("cpu")


def runners_of(network, max_batch=16, dtype=torch.float32):
    network = network.eval().requires_grad_(False)
    decoder = LatentRunner(network, CPU, max_batch, dtype)
    return decoder, EncodingRunner(network, decoder, CPU, max_batch)


def pictures(n, side=4, channels=1):
    rng = np.random.default_rng(n)
    return rng.integers(0, 250, (n, side, side, channels), dtype=np.uint8), rng.integers(10, size=n)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("n", [1, 3, 16])
def test_latents_are_the_network_s_own(channels, n):
    _, runner = runners_of(fakes.EchoEncoder(image_channels=channels))
    given, labels = pictures(n, channels=channels)
    latents, finite = runner.compute(given, labels)
    assert latents.dtype == np.float32
    assert finite.all()
    np.testing.assert_allclose(latents, fakes.encoded(given, labels), atol=1e-6)


def tiny_vae():
    torch.manual_seed(0)
    return ConvVAE(latent_dim=8, channels=(16, 8), base_size=4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_latents_do_not_depend_on_the_batch_nor_on_the_decoder_s_precision(dtype):
    """Rows of real convolutions, alone and in every batch size, at every place, to the bit."""
    network = tiny_vae()
    decoder, runner = runners_of(network, 16, dtype)
    given, labels = pictures(16, 8)
    alone = [runner.compute(given[i : i + 1], labels[i : i + 1])[0][0] for i in range(16)]
    for n in range(1, 17):
        for start in {0, 16 - n}:
            latents, _ = runner.compute(given[start : start + n], labels[start : start + n])
            for i in range(n):
                np.testing.assert_array_equal(latents[i], alone[start + i])
    samples = torch.from_numpy(given).permute(0, 3, 1, 2) / 127.5 - 1.0
    with torch.inference_mode():
        wanted = network.encode(samples, torch.from_numpy(labels))
    np.testing.assert_allclose(np.stack(alone), wanted.numpy(), atol=1e-4)
    assert len(runner.seconds) == len(runner.buckets)
    assert decoder.dtype == dtype or dtype == torch.bfloat16


def test_the_model_is_left_as_it_was():
    network = tiny_vae()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    runners_of(network, 4, torch.bfloat16)
    after = network.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_rows_that_are_not_finite_are_told_apart():
    _, runner = runners_of(fakes.EchoEncoder())
    given, labels = pictures(5)
    given[3, 0, 0] = fakes.POISON[fakes.NAN]
    latents, finite = runner.compute(given, labels)
    assert finite.tolist() == [True, True, True, False, True]
    np.testing.assert_allclose(latents[finite], fakes.encoded(given, labels)[finite], atol=1e-6)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (fakes.EncodesWrongShape, r"\[1, 2\] for one picture; \[1, 4\] expected"),
        (fakes.EncodesToNothing, "non-finite"),
        (fakes.CannotEncode, "raises on a batch of one: no encoder after all"),
    ],
)
def test_faulty_encoders_are_refused(network, message):
    with pytest.raises(ModelFault, match=message):
        runners_of(network())
