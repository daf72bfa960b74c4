"""Each latent model gets the lanes that it can have; real networks give each row the bits that it has alone."""

import dataclasses
from functools import partial

import numpy as np
import pytest
import torch

import tests.fake_refiners as fake_refiners
from app import latents
from app.engine.jobs import ModelInfo, RefineJob, WorkerConfig
from app.worker import registry
from app.worker.dispatch import unmarked
from app.worker.faults import RegistryError
from app.worker.inpainting import InpaintingRunner
from app.worker.langevin import LangevinRunner
from app.worker.refiners import refining_lanes
from app.worker.refining import RefiningBatcher
from app.worker.runner import LatentRunner, ModelFault
from models.critic import Critic, langevin_step
from models.gan import ConvDiscriminator, ConvGenerator
from models.mlp_gan import MLPGenerator
from models.style_gan import StyleGenerator
from models.vae import ConvVAE
from tests import fakes

CPU = torch.device("cpu")
SMALL = {"num_classes": 3, "embedding_dim": 4, "channels": (16, 8), "base_size": 4}


def frozen(network):
    return network.eval().requires_grad_(False)


def tiny_gan():
    torch.manual_seed(0)
    return frozen(ConvGenerator(latent_dim=6, **SMALL))


def tiny_critic():
    torch.manual_seed(1)
    return Critic(frozen(ConvDiscriminator(num_classes=3, channels=(8, 16), image_size=8)), scale=5.0, step_size=0.05)


def run(runner, jobs):
    """The latents of all jobs, run together."""
    lane = RefiningBatcher(runner)
    for number, job in enumerate(jobs):
        lane.submit(number, job)
    made = {}
    while lane.waiting:
        result = lane.begin()(unmarked)
        assert all(part.error is None for part in result.parts)
        made |= {(part.job, part.offset): row for part, row in zip(result.parts, result.made, strict=True)}
    return [np.stack([made[number, i] for i in range(job.rows)]) for number, job in enumerate(jobs)]


def sampling(seeds, steps=3, shape=(6,), classes=3):
    drawn = [latents.from_seed(seed, shape, classes) for seed in seeds]
    z, labels = np.stack([z for z, _ in drawn]), np.array([label for _, label in drawn])
    return RefineJob("m/mcmc", z, labels, steps=steps, seeds=np.array(seeds))


def filling(seeds, steps=3, *, picture, shape=(6,), classes=3):
    weights = np.zeros(picture.shape[:2], np.float32)
    weights[:, : picture.shape[1] // 2] = 2 / weights.size
    job = sampling(seeds, steps, shape, classes)
    return dataclasses.replace(job, model="m/inpaint", target=picture, weights=weights)


@pytest.fixture(scope="module")
def gan():
    model = tiny_gan()
    return model, LatentRunner(model, CPU, 16)


def test_sampled_latents_are_the_rule_s(gan):
    """Step by step as `langevin_step` has them, with the noise of each seed."""
    model, decoder = gan
    critic = tiny_critic()
    (found,) = run(LangevinRunner(model, critic, decoder, CPU, 16), [sampling([7, 8, 9, 10])])
    job = sampling([7, 8, 9, 10])
    z, labels = torch.from_numpy(job.inputs), torch.from_numpy(job.labels)
    for step in range(3):
        noise = np.stack([latents.step_noise(int(seed), step, (6,)) for seed in job.seeds])
        z = langevin_step(model, critic, z, labels, torch.from_numpy(noise))
    np.testing.assert_allclose(found, z.numpy(), atol=1e-5)
    assert np.abs(found - job.inputs).max() > 0.1


@pytest.mark.parametrize("kind", ["sample", "inpaint"])
def test_a_row_has_its_bits_alone_and_in_any_company(gan, kind):
    """Whoever comes beside it, whenever, and however long they stay."""
    model, decoder = gan
    picture = np.random.default_rng(0).integers(0, 256, (8, 8, 1), dtype=np.uint8)
    if kind == "sample":
        runner, make = LangevinRunner(model, tiny_critic(), decoder, CPU, 16), sampling
    else:
        runner = InpaintingRunner(model, tiny_critic(), decoder, CPU, 16)
        make = partial(filling, picture=picture)
    alone = {seed: run(runner, [make([seed])])[0][0] for seed in range(9)}
    (together,) = run(runner, [make(list(range(9)))])
    crowd = run(runner, [make([100, 101], 7), make([3, 4, 5]), make([200], 1), make([8, 0])])
    for seed in range(9):
        np.testing.assert_array_equal(together[seed], alone[seed])
    for row, seed in zip([*crowd[1], *crowd[3]], [3, 4, 5, 8, 0], strict=True):
        np.testing.assert_array_equal(row, alone[seed])


@pytest.mark.parametrize(
    ("model", "shape", "classes"),
    [
        (lambda: ConvGenerator(latent_dim=6, **SMALL), (6,), 3),
        (lambda: ConvVAE(latent_dim=6, flow_layers=2, flow_width=8, sharpness=0.2, black_level=0.03, **SMALL), (6,), 3),
        (lambda: MLPGenerator(latent_dim=6, num_classes=0, widths=(16,), image_shape=(3, 8, 8)), (6,), 0),
        (lambda: StyleGenerator(latent_dim=6, style_dim=8, **SMALL), (2, 6), 3),
    ],
    ids=["conv-gan", "conv-vae", "mlp-gan", "style-gan"],
)
def test_every_model_comes_closer_to_what_is_known(model, shape, classes):
    torch.manual_seed(0)
    model = frozen(model())
    decoder = LatentRunner(model, CPU, 8)
    goal, label = latents.from_seed(50, shape, classes)
    picture = decoder.compute(goal[None], np.array([label]))[0][0]
    job = filling([1, 2, 3, 4], 60, picture=picture, shape=shape, classes=classes)
    job = dataclasses.replace(job, labels=np.full(4, label))
    (found,) = run(InpaintingRunner(model, None, decoder, CPU, 8), [job])
    assert found.shape == job.inputs.shape

    def distances(z):
        made = decoder.compute(z, job.labels)[0].astype(float)
        return (np.abs(made - picture).mean(3) * job.weights).sum((1, 2))

    assert (distances(found) < 0.8 * distances(job.inputs)).all()


def test_the_critic_moves_pictures_its_way():
    """This one likes them bright."""
    model = frozen(fakes.EchoLatents(num_classes=0))
    decoder = LatentRunner(model, CPU, 8)
    critic = Critic(frozen(fake_refiners.Bright()), scale=8.0, step_size=0.05)
    job = sampling(list(range(8)), 60, (4,), 0)
    (found,) = run(LangevinRunner(model, critic, decoder, CPU, 8), [job])
    before, after = (decoder.compute(z, job.labels)[0].mean() for z in (job.inputs, found))
    assert after > before + 40


def lanes_of(model, critic=None, name="m"):
    model = frozen(model)
    return refining_lanes(model, critic, LatentRunner(model, CPU, 8), ModelInfo(name), 8)


def test_lanes_are_named_measured_and_counted():
    plain, info = lanes_of(tiny_gan())
    assert set(plain) == {"m/inpaint"}
    assert (info.sample_seconds, info.inpaints) == (0.0, True)
    both, more = lanes_of(tiny_gan(), tiny_critic())
    assert set(both) == set(more.step_seconds) == {"m/inpaint", "m/mcmc"}
    assert all(seconds > 0 for seconds in more.step_seconds.values())
    assert more.memory_bytes > info.memory_bytes > 0


@pytest.mark.parametrize("network", [fake_refiners.Rounds, fake_refiners.InPlace])
def test_a_model_without_gradients_is_served_without_a_search(network):
    lanes, info = lanes_of(network())
    assert lanes == {}
    assert not info.inpaints
    assert info.memory_bytes == 0


def test_a_critic_belongs_to_normal_latents():
    with pytest.raises(ModelFault, match="standard normal"):
        lanes_of(StyleGenerator(latent_dim=6, style_dim=8, **SMALL), tiny_critic())


def load(folder, **fields):
    fixed = {"models_module": "tests.fake_refiners", "device": "cpu", "dtype": "fp32", "threads": 1, "max_batch": 8}
    return registry.load(WorkerConfig(weights=str(folder), **{**fixed, **fields}))


def test_the_registry_loads_critics(tmp_path):
    fake_refiners.write(tmp_path, "liked")
    fakes.write(tmp_path, "plain")
    loaded = load(tmp_path)
    assert set(loaded.lanes) == {"liked", "liked/mcmc", "liked/inpaint", "plain", "plain/inpaint"}
    liked, plain = loaded.models
    assert len(liked.critic) == 64
    assert plain.critic == ""
    assert liked.sample_seconds > 0


def test_a_broken_critic_stops_the_start_or_the_model(tmp_path):
    fake_refiners.write(tmp_path, "good", critic="")
    folder = fake_refiners.write(tmp_path, "liked")
    (folder / "critic.safetensors").write_bytes(b"x")
    with pytest.raises(RegistryError, match=r"critic.safetensors: 1 bytes where config.json says"):
        load(tmp_path)
    loaded = load(tmp_path, skip_broken=True)
    assert [info.name for info in loaded.models if info.error] == ["liked"]


def test_a_critic_that_can_t_be_followed_is_refused(tmp_path):
    fake_refiners.write(tmp_path, "liked", critic="undecided")
    with pytest.raises(RegistryError, match=r"liked: .*not finite"):
        load(tmp_path)
