"""Batches are exact or they are not used; what the network makes becomes 8-bit pictures."""

import numpy as np
import pytest
import torch

from app.worker.faults import DeviceLost
from app.worker.runner import LatentRunner, ModelFault, powers_of_two
from tests import fakes

CPU = torch.device("cpu")


def runner_of(network, max_batch=16):
    return LatentRunner(network.eval().requires_grad_(False), CPU, max_batch)


def rows(n, dim=fakes.LATENT_DIM):
    rng = np.random.default_rng(n)
    return rng.standard_normal((n, dim), np.float32), rng.integers(10, size=n)


@pytest.mark.parametrize(
    ("limit", "sizes"), [(1, [1]), (2, [1, 2]), (5, [1, 2, 4, 5]), (8, [1, 2, 4, 8]), (64, [1, 2, 4, 8, 16, 32, 64])]
)
def test_bucket_sizes(limit, sizes):
    assert powers_of_two(limit) == sizes


@pytest.mark.parametrize(
    ("network", "buckets"),
    [
        (fakes.EchoLatents, (1, 2, 4, 8, 16)),
        (fakes.SmallBatchesDiffer, (4, 8, 16)),
        (fakes.PlacesDiffer, (1,)),
        (fakes.PaddingLeaks, (1,)),
    ],
)
def test_only_exact_buckets_are_kept(network, buckets):
    assert runner_of(network()).buckets == buckets


def test_a_largest_batch_that_is_no_power_of_two():
    runner = runner_of(fakes.EchoLatents(), 6)
    assert runner.buckets == (1, 2, 4, 6)
    assert [runner.bucket_for(n) for n in range(1, 7)] == [1, 2, 4, 4, 6, 6]


@pytest.mark.parametrize(("channels", "buckets"), [((16, 8), (1, 2, 4, 8, 16)), ((512, 512), (1, 2, 4))])
def test_a_large_network_is_not_given_large_batches_on_a_cpu(channels, buckets):
    """At 16x16, two layers of 512 channels are more than half a billion operations a row."""
    from models.gan import ConvGenerator

    torch.manual_seed(0)
    assert runner_of(ConvGenerator(latent_dim=8, channels=channels, base_size=4), 16).buckets == buckets


def test_warm_up_measures_every_bucket():
    runner = runner_of(fakes.EchoLatents(side=3, image_channels=3))
    assert len(runner.seconds) == len(runner.buckets)
    assert all(seconds > 0 for seconds in runner.seconds)
    assert runner.image_shape == (3, 3, 3)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("n", [1, 3, 16])
def test_pictures_are_the_network_s_own(channels, n):
    runner = runner_of(fakes.EchoLatents(image_channels=channels))
    latents, labels = rows(n)
    pictures, finite = runner.compute(latents, labels)
    assert pictures.dtype == np.uint8
    assert finite.all()
    np.testing.assert_array_equal(pictures, fakes.echo(latents, labels, channels=channels))


def test_grey_levels():
    """-1 is black, 1 is white, and values in between are rounded, not cut."""
    runner = runner_of(fakes.EchoLatents(num_classes=0))
    pictures, _ = runner.compute(np.array([[-1.0, 0.0, 1.0, 0.999]], np.float32), np.zeros(1, np.int64))
    assert pictures[0, 0, :, 0].tolist() == [0, 128, 255, 255]


def test_bytes_do_not_depend_on_the_batch():
    """Rows of a network with real convolutions, alone and in every batch size, at every place."""
    from models.gan import ConvGenerator

    torch.manual_seed(0)
    runner = runner_of(ConvGenerator(latent_dim=8, channels=(16, 8), base_size=4), 16)
    latents, labels = rows(16, 8)
    alone = [runner.compute(latents[i : i + 1], labels[i : i + 1])[0][0] for i in range(16)]
    for n in range(1, 17):
        for start in {0, 16 - n}:
            pictures, _ = runner.compute(latents[start : start + n], labels[start : start + n])
            for i in range(n):
                np.testing.assert_array_equal(pictures[i], alone[start + i])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_that_is_not_finite_changes_nothing_in_the_others(dtype):
    """In a network with real convolutions, packed for this machine."""
    from models.gan import ConvGenerator

    torch.manual_seed(0)
    network = ConvGenerator(latent_dim=8, channels=(16, 8), base_size=4).eval().requires_grad_(False)
    runner = LatentRunner(network, CPU, 16, dtype)
    latents, labels = rows(16, 8)
    wanted, _ = runner.compute(latents, labels)
    for bad in (0, 7, 15):
        poisoned = latents.copy()
        poisoned[bad] = np.nan
        pictures, finite = runner.compute(poisoned, labels)
        good = np.arange(16) != bad
        np.testing.assert_array_equal(finite, good)
        np.testing.assert_array_equal(pictures[good], wanted[good])


def test_what_failed_on_the_device_is_told_apart():
    runner = runner_of(fakes.EchoLatents())
    latents, labels = rows(3)
    for magic, error in ((fakes.OUT_OF_MEMORY, MemoryError), (fakes.LOST, DeviceLost), (fakes.RAISE, ValueError)):
        latents[1, 0] = magic
        with pytest.raises(error):
            runner.compute(latents, labels)


def test_rows_that_are_not_finite_are_told_apart():
    runner = runner_of(fakes.EchoLatents())
    latents, labels = rows(5)
    latents[3, 0] = fakes.NAN
    pictures, finite = runner.compute(latents, labels)
    assert finite.tolist() == [True, True, True, False, True]
    np.testing.assert_array_equal(pictures[finite], fakes.echo(latents, labels)[finite])


def test_the_caller_s_arrays_are_left_alone():
    runner = runner_of(fakes.EchoLatents())
    latents, labels = rows(3)
    before = latents.copy()
    runner.compute(latents, labels)
    np.testing.assert_array_equal(latents, before)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (fakes.WrongShape, r"\[1, 2, 4, 4\] for one latent"),
        (fakes.RaisesAlone, "raises on a batch of one: a lone row"),
        (fakes.NeverFinite, "non-finite"),
    ],
)
def test_faulty_networks_are_refused(network, message):
    with pytest.raises(ModelFault, match=message):
        runner_of(network())
