"""Codes are uniform inside the generator and normal outside; the discriminator reads what it is shown."""

import pytest
import torch

from models.info_gan import (
    GROUP,
    LEAST_LOG_VARIANCE,
    LEAST_VARIANCE,
    MOST_LOG_VARIANCE,
    UNREAD,
    InfoDiscriminator,
    InfoGenerator,
    _variety,
    even,
)
from models.protocols import LatentModel

SMALL = {"codes": 2, "latent_dim": 6, "num_classes": 3, "channels": (16, 8), "base_size": 4}


def test_generator_keeps_its_protocol():
    model = InfoGenerator(**SMALL).eval()
    assert isinstance(model, LatentModel)
    assert (model.latent_shape, model.num_classes, model.codes) == ((6,), 3, 2)
    out = model.decode(torch.randn(5, 6) * 100, torch.tensor([0, 1, 2, 0, 1]))
    assert out.shape == (5, 1, 8, 8)
    assert out.abs().max() <= 1


def test_the_last_entries_are_codes_and_saturate_where_noise_does_not():
    model = InfoGenerator(**SMALL).eval()
    z, labels = torch.zeros(2, 6), torch.zeros(2, dtype=torch.int64)
    for entry in range(6):
        far = z.clone()
        far[:, entry] = torch.tensor([10.0, 20.0])
        ten, twenty = model.decode(far, labels)
        assert not torch.allclose(ten, model.decode(z, labels)[0])
        assert torch.allclose(ten, twenty, atol=1e-6) == (entry >= 4)


def test_normal_numbers_become_even_ones():
    drawn = even(torch.randn(20_000, 2, generator=torch.Generator().manual_seed(0)))
    counts = torch.histc(drawn, bins=10, min=-1, max=1)
    assert counts.sum() == 40_000
    assert (counts / 4000 - 1).abs().max() < 0.05
    assert even(torch.tensor([0.0, 50.0, -50.0])).tolist() == [0, 1, -1]


@pytest.mark.parametrize("codes", [0, 6, -1])
def test_a_latent_has_room_for_its_codes_and_noise(codes):
    with pytest.raises(ValueError, match=f"codes must be at least 1 and below latent_dim, got {codes} of 6"):
        InfoGenerator(**SMALL | {"codes": codes})


def test_discriminator_reads_and_scores_at_once_and_knows_no_labels():
    model = InfoDiscriminator(categories=3, codes=2, hidden=8, channels=(8, 16), image_size=8)
    samples, labels = torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 2, 0])
    logits, reading = model.look(samples)
    assert torch.equal(logits, model(samples, labels))
    assert torch.equal(logits, model(samples, labels + 7))
    assert (reading.categories.shape, reading.means.shape, reading.log_variances.shape) == ((4, 3), (4, 2), (4, 2))


def test_variety_is_seen_within_groups_only():
    """Samples stand beside others of their kind: what the first group holds says nothing of the second."""
    model = InfoDiscriminator(categories=3, codes=2, hidden=8, channels=(8, 16), image_size=8)
    samples, labels = torch.randn(2 * GROUP, 1, 8, 8), torch.zeros(2 * GROUP, dtype=torch.int64)
    alike = samples.clone()
    alike[1:GROUP] = alike[:1]
    logits, changed = model(samples, labels), model(alike, labels)
    assert logits[0] != changed[0], "the same sample among others"
    assert torch.equal(logits[GROUP:], changed[GROUP:])
    several = torch.cat([model(samples[:GROUP], labels[:GROUP]), model(samples[GROUP:], labels[GROUP:])])
    torch.testing.assert_close(logits, several)


def test_variety_is_the_mean_deviation_of_a_channel():
    maps = torch.randn(2 * GROUP, 3, 2, 2)
    found = _variety(maps)
    for first in (0, GROUP):
        deviations = (maps[first : first + GROUP].var(0, correction=0) + LEAST_VARIANCE).sqrt()
        torch.testing.assert_close(found[first : first + GROUP], deviations.mean((1, 2)).expand(GROUP, 3))
    assert _variety(maps[:3]).shape == (3, 3), "what fills no group is one"


def test_what_is_read_has_a_bounded_error_that_begins_as_nothing_read():
    model = InfoDiscriminator(categories=3, codes=2, hidden=8, channels=(8, 16), image_size=8)
    samples = torch.randn(4, 1, 8, 8)
    for bias, expected in ((-1e3, LEAST_LOG_VARIANCE), (0.0, UNREAD), (1e3, MOST_LOG_VARIANCE)):
        with torch.no_grad():
            model.to_reading.weight.zero_()
            model.to_reading.bias.fill_(bias)
        assert model.look(samples)[1].log_variances.flatten().tolist() == pytest.approx([expected] * 8)
