"""From a request to latents and labels, without engine or HTTP."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import latents
from app.engine.jobs import ModelInfo
from app.errors import InvalidField
from app.plan import digest, plan_images, require_label, resolve_label
from app.schemas.images import ImageRequest

INFO = ModelInfo("m", digest="0" * 64, latent_shape=(2, 3), num_classes=4, labels=("a", "b", "c", "d"))
STYLED = ModelInfo("s", digest="2" * 64, latent_shape=(5, 8), styles=5, num_classes=4)
PLAIN = ModelInfo("p", digest="1" * 64, latent_shape=(2,))


def plan(info=INFO, **fields):
    return plan_images(ImageRequest(**fields), info)


def test_image_j_uses_seed_plus_j():
    together = plan(seed=5, n=3)
    assert together.seeds == (5, 6, 7)
    for j in range(3):
        alone = plan(seed=5 + j)
        np.testing.assert_array_equal(together.job.inputs[j], alone.job.inputs[0])
        assert together.job.labels[j] == alone.job.labels[0]
        assert together.provenance(j) == alone.provenance(0)


def test_a_drawn_seed_is_told_and_leaves_room_for_the_largest_n():
    seeds = {plan(n=64).seed for _ in range(20)}
    assert len(seeds) == 20
    assert all(0 <= seed <= latents.MAX_SEED - 63 for seed in seeds)


def test_truncation_scales_the_latents():
    np.testing.assert_array_equal(plan(seed=1, truncation=0.5).job.inputs, plan(seed=1).job.inputs * np.float32(0.5))


def test_jobs_hold_what_travels():
    job = plan(seed=1, n=2, label="c").job
    assert (job.model, job.rows, job.inputs.dtype, job.labels.dtype) == ("m", 2, np.float32, np.int64)
    assert job.labels.tolist() == [2, 2]
    assert plan(PLAIN, seed=1).job.labels.tolist() == [0]
    assert plan(PLAIN, seed=1).labels == (None,)


def test_a_sheet_tells_only_what_all_its_pictures_share():
    """A label that was drawn for the first picture alone would make another sheet."""
    drawn = plan(seed=0, n=16)
    assert len(set(drawn.labels)) > 1
    assert drawn.sheet_provenance().parameters == {"seed": 0, "grid": 16}
    assert plan(seed=0, n=2, label=3).sheet_provenance().parameters == {"seed": 0, "label": 3, "grid": 2}
    assert plan(seed=0).sheet_provenance() == plan(seed=0).provenance(0)


@pytest.mark.parametrize(("label", "index"), [(None, None), (0, 0), (3, 3), ("a", 0), ("d", 3)])
def test_labels(label, index):
    assert resolve_label(label, INFO) == index


@pytest.mark.parametrize(("label", "info"), [(4, INFO), ("A", INFO), ("", INFO), (0, PLAIN), ("a", PLAIN)])
def test_labels_that_there_are_not(label, info):
    with pytest.raises(InvalidField) as caught:
        resolve_label(label, info)
    assert caught.value.field == "label"


def test_one_latent_or_a_list_of_them():
    one = [[1, 2, 3], [4, 5, 6]]
    assert plan(latents=one).job.inputs.shape == (1, 2, 3)
    assert plan(latents=[one, one], n=2).job.inputs.shape == (2, 2, 3)


@pytest.mark.parametrize("largest", [1e6, -1e6, 10**6])
def test_numbers_that_a_network_bears_are_taken(largest):
    (row,) = plan(PLAIN, latents=[largest, 0]).job.inputs
    assert row[0] == np.float32(largest)


@pytest.mark.parametrize("larger", [1_000_001, -1.1e6, 3.4e38, 2**63, 2**64, 10**30, 10**400])
def test_larger_ones_are_the_client_s_fault(larger):
    assert "at most 1e+06 either way" in refused("latents", PLAIN, latents=[larger, 0])


def test_a_fixed_label_for_a_walk_whose_ends_have_others():
    walk = plan(interpolate={"from_seed": 1, "to_seed": 2, "steps": 4}, label=1)
    assert walk.labels == (1, 1, 1, 1)
    own = plan(interpolate={"from_seed": 1, "to_seed": 2, "steps": 4})
    assert set(own.labels) == {latents.from_seed(1, (2, 3), 4)[1]}


def refused(field, info=INFO, **fields):
    with pytest.raises(InvalidField, match=f"^{field}:") as caught:
        plan(info, **fields)
    assert caught.value.field == field
    return caught.value.detail


def test_a_picture_that_is_there_already_needs_a_label():
    assert require_label("b", INFO) == 1
    assert require_label(None, PLAIN) is None
    for label, info, words in ((None, INFO, "a, b, c, d"), (None, STYLED, "an index below 4"), (0, PLAIN, "p")):
        with pytest.raises(InvalidField, match=words) as caught:
            require_label(label, info)
        assert caught.value.field == "label"


def test_a_mix_is_the_mean_by_weights():
    ones, twos = [[1.0] * 3] * 2, [[2.0] * 3] * 2
    parts = [{"latents": ones, "weight": 1.0}, {"latents": twos, "weight": 3.0}]
    np.testing.assert_array_equal(plan(mix=parts).job.inputs, np.full((1, 2, 3), 1.75, np.float32))
    beyond = [{"latents": ones, "weight": -1.0}, {"latents": twos, "weight": 2.0}]
    np.testing.assert_array_equal(plan(mix=beyond).job.inputs, np.full((1, 2, 3), 3.0, np.float32))
    shorter = plan(mix=parts, truncation=0.5)
    np.testing.assert_array_equal(shorter.job.inputs, np.full((1, 2, 3), 0.875, np.float32))


def test_a_mix_of_seeds_and_latents():
    (z, label), twos = latents.from_seed(7, (2, 3), 4), [[2.0] * 3] * 2
    mixed = plan(mix=[{"seed": 7}, {"latents": twos}])
    np.testing.assert_allclose(mixed.job.inputs[0], (z + 2) / 2, rtol=1e-6)
    assert mixed.labels == (label,), "of the first, when none is given"
    assert plan(mix=[{"latents": twos}, {"seed": 7}]).labels == (0,)
    assert plan(mix=[{"latents": twos}, {"seed": 7}], label="c").labels == (2,)
    assert (mixed.seed, mixed.seeds) == (None, (None,))
    sha = hashlib.sha256(np.array(twos, np.float32).tobytes()).hexdigest()
    parts = [{"seed": 7, "weight": 1.0}, {"latents_sha256": sha, "weight": 1.0}]
    assert mixed.parameters == ({"mix": parts, "label": label},)


@given(st.lists(st.tuples(st.integers(0, 99), st.floats(-1000, 1000)), min_size=2, max_size=16))
def test_any_weights_give_finite_latents_or_a_refusal(parts):
    mix = [{"seed": seed, "weight": weight} for seed, weight in parts]
    if abs(sum(weight for _, weight in parts)) <= 0.01 * sum(abs(weight) for _, weight in parts):
        refused("mix", mix=mix)
    else:
        assert np.isfinite(plan(mix=mix).job.inputs).all()


def test_mixes_that_can_t_be():
    one, two = {"seed": 1}, {"seed": 2}
    assert "add up to 0" in refused("mix", mix=[{"seed": 1, "weight": 0.0}] * 2)
    assert "add up to 0" in refused("mix", mix=[one, {"seed": 2, "weight": -1.0}])
    refused("mix.1", mix=[one, {}])
    refused("mix.0", mix=[{"seed": 2, "latents": [[0.0] * 3] * 2}, one])
    for wrong in ([0.0] * 3, [[0.0] * 3], [[[0.0] * 3] * 2], [[0.0] * 3] * 300, [["1"] * 3] * 2, [[1e39] * 3] * 2, []):
        refused("mix.1.latents", mix=[one, {"latents": wrong}])
    large = [[9e5] * 3] * 2
    refused("mix", mix=[{"latents": large, "weight": 2.0}, {"latents": [[-9e5] * 3] * 2, "weight": -1.0}])
    for field, beside in (("n", {"n": 2}), ("seed", {"seed": 1})):
        refused(field, mix=[one, two], **beside)
    refused("mix", mix=[one, two], latents=[[0.0] * 3] * 2)
    refused("mix", mix=[one, two], interpolate={"from_seed": 1, "to_seed": 2})


def rows_of(seed):
    return latents.styled_from_seed(seed, (5, 8), 4)[0]


def test_a_seed_of_a_styled_model_gives_each_style_the_same_row():
    found = plan(STYLED, seed=3, n=2)
    np.testing.assert_array_equal(found.job.inputs, [rows_of(3), rows_of(4)])
    np.testing.assert_allclose(np.sqrt((found.job.inputs**2).mean(2)), 1.0, rtol=1e-6)
    half = plan(STYLED, seed=3, truncation=0.5)
    np.testing.assert_array_equal(half.job.inputs[0], rows_of(3) * np.float32(0.5))
    assert found.labels[0] == latents.from_seed(3, (8,), 4)[1]


@pytest.mark.parametrize(("given", "first"), [({}, 3), ({"style_from": 1}, 1), ({"style_from": 4}, 4)])
def test_the_finer_styles_of_another_seed(given, first):
    found = plan(STYLED, seed=3, n=2, style_seed=9, **given)
    for j in range(2):
        np.testing.assert_array_equal(found.job.inputs[j, :first], rows_of(3 + j)[:first])
        np.testing.assert_array_equal(found.job.inputs[j, first:], rows_of(9)[first:])
        alone = plan(STYLED, seed=3 + j, style_seed=9, **given)
        assert alone.provenance(0) == found.provenance(j)
    assert found.labels == plan(STYLED, seed=3, n=2).labels, "those of seed"
    assert found.parameters[0] == {"seed": 3, "style_seed": 9, "style_from": first, "label": found.labels[0]}


def test_a_walk_of_a_styled_model_stays_on_the_sphere():
    walk = {"from_seed": 1, "to_seed": 2, "steps": 5}
    found = plan(STYLED, interpolate=walk)
    np.testing.assert_allclose(np.sqrt((found.job.inputs**2).mean(2)), 1.0, rtol=1e-6)
    for end, seed in ((0, 1), (-1, 2)):
        np.testing.assert_allclose(found.job.inputs[end], rows_of(seed), atol=1e-6)
    assert (found.job.inputs == found.job.inputs[:, :1]).all()
    styled = plan(STYLED, interpolate=walk, style_seed=9, style_from=2)
    np.testing.assert_array_equal(styled.job.inputs[:, :2], found.job.inputs[:, :2])
    np.testing.assert_array_equal(styled.job.inputs[2, 2:], rows_of(9)[2:])


def test_styles_that_can_t_be():
    assert "m has no styles" in refused("style_seed", style_seed=1)
    assert "m has no styles" in refused("style_from", style_from=1)
    assert "without style_seed" in refused("style_from", STYLED, style_from=1)
    assert "styles 0 to 4" in refused("style_from", STYLED, style_seed=1, style_from=5)
    refused("style_seed", STYLED, style_seed=1, latents=[[0.0] * 8] * 5)
    refused("style_seed", STYLED, style_seed=1, mix=[{"seed": 1}, {"seed": 2}])


def test_explicit_latents_of_a_styled_model_have_all_rows():
    z = np.random.default_rng(0).standard_normal((5, 8), np.float32)
    found = plan(STYLED, latents=z.tolist())
    np.testing.assert_array_equal(found.job.inputs[0], z)
    assert found.parameters == ({"latents_sha256": digest(z), "label": 0},)
    refused("latents", STYLED, latents=z[0].tolist())
