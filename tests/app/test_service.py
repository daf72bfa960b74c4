"""From a request to latents and labels, without engine or HTTP."""

import numpy as np
import pytest

from app import latents
from app.engine.engine import Engine
from app.engine.jobs import ModelInfo, WorkerConfig
from app.errors import InvalidField, ModelNotFound
from app.schemas import ImageRequest
from app.service import Service, plan_images, resolve_label
from app.telemetry import Telemetry

INFO = ModelInfo("m", digest="0" * 64, latent_shape=(2, 3), num_classes=4, labels=("a", "b", "c", "d"))
PLAIN = ModelInfo("p", digest="1" * 64, latent_shape=(2,))


def plan(info=INFO, **fields):
    return plan_images(ImageRequest(**fields), info)


def test_image_j_uses_seed_plus_j():
    together = plan(seed=5, n=3)
    assert together.seeds == (5, 6, 7)
    for j in range(3):
        alone = plan(seed=5 + j)
        np.testing.assert_array_equal(together.job.latents[j], alone.job.latents[0])
        assert together.job.labels[j] == alone.job.labels[0]
        assert together.provenance(j) == alone.provenance(0)


def test_a_drawn_seed_is_told_and_leaves_room_for_the_largest_n():
    seeds = {plan(n=64).seed for _ in range(20)}
    assert len(seeds) == 20
    assert all(0 <= seed <= latents.MAX_SEED - 63 for seed in seeds)


def test_truncation_scales_the_latents():
    np.testing.assert_array_equal(plan(seed=1, truncation=0.5).job.latents, plan(seed=1).job.latents * np.float32(0.5))


def test_jobs_hold_what_travels():
    job = plan(seed=1, n=2, label="c").job
    assert (job.model, job.rows, job.latents.dtype, job.labels.dtype) == ("m", 2, np.float32, np.int64)
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
    assert plan(latents=one).job.latents.shape == (1, 2, 3)
    assert plan(latents=[one, one], n=2).job.latents.shape == (2, 2, 3)


@pytest.mark.parametrize("largest", [3.4e38, -3.4e38, 2**63, 2**64, 10**30])
def test_numbers_that_float32_holds_are_taken(largest):
    (row,) = plan(PLAIN, latents=[largest, 0]).job.latents
    assert row[0] == np.float32(largest)


def test_a_fixed_label_for_a_walk_whose_ends_have_others():
    walk = plan(interpolate={"from_seed": 1, "to_seed": 2, "steps": 4}, label=1)
    assert walk.labels == (1, 1, 1, 1)
    own = plan(interpolate={"from_seed": 1, "to_seed": 2, "steps": 4})
    assert set(own.labels) == {latents.from_seed(1, (2, 3), 4)[1]}


def test_the_first_model_that_makes_pictures(monkeypatch):
    engine = Engine([WorkerConfig("w")], max_queue=64, telemetry=Telemetry(), on_failure=lambda: None)
    monkeypatch.setattr(engine, "check_open", lambda: None)
    service = Service(engine, Telemetry(), 1 << 20)
    with pytest.raises(ModelNotFound):
        service.picture_model(None)
    text = ModelInfo("a-text", kind="sequence")
    engine.models = {"a-broken": ModelInfo("a-broken", error="x"), "a-text": text, "m": INFO}
    assert service.picture_model(None) == INFO
    with pytest.raises(ModelNotFound, match="a-text"):
        service.picture_model("a-text")
    service.close()
