import math

import pytest
import torch

from models.vq import VQVAE
from tests.training import captions
from training import reconstruction


class Perfect(VQVAE):
    """Gives back whatever it was last asked to encode, a little darker; its codes are those of a rule."""

    def encode(self, samples, labels):
        self._seen = samples
        numbers = torch.arange(len(samples) * 64).view(-1, 8, 8) % 4
        return numbers.float()

    def decode(self, codes, labels):
        return self._seen - 0.2


@pytest.fixture
def model():
    torch.manual_seed(0)
    return VQVAE(**captions.VQ["config"]).eval()


def test_the_ratio_is_that_of_the_signal_s_range_to_the_error(captioned):
    found = reconstruction.measure(Perfect(**captions.VQ["config"]), captioned)
    assert set(found) == set(reconstruction.METRICS) == set(reconstruction.MEANINGS)
    assert found["psnr"] == pytest.approx(10 * math.log10(4 / 0.04), rel=1e-4)
    assert found["psnr_emoji"] == pytest.approx(20.0, rel=1e-4)


def test_the_perplexity_is_the_number_of_codes_that_are_used_equally_often(captioned):
    found = reconstruction.measure(Perfect(**captions.VQ["config"]), captioned)
    assert found["used_codes"] == 4
    assert found["code_perplexity"] == pytest.approx(4.0)


def test_codes_go_both_ways_as_in_the_service(model, captioned):
    samples = captioned.test.batch(torch.arange(3)).samples
    codes = reconstruction.encode(model, samples)
    labels = torch.zeros(3, dtype=torch.long)
    assert torch.equal(codes, model.encode(samples, labels))
    assert torch.equal(reconstruction.decode(model, codes), model.decode(codes, labels))


def test_a_look_spreads_over_the_split(captioned):
    (batch,) = reconstruction.batches(captioned.test, 3)
    wanted = captioned.test.batch(torch.tensor([0, 9, 19]))
    assert torch.equal(batch.samples, wanted.samples)
    assert torch.equal(batch.labels, wanted.labels)
    assert sum(len(batch.labels) for batch in reconstruction.batches(captioned.test)) == len(captioned.test)
