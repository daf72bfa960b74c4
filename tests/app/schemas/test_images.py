"""What a request for pictures may hold; the HTTP face of these faults is tested with the routes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from app.latents import MAX_SEED
from app.schemas.images import ImageRequest

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


def test_everything_may_be_left_out():
    request = ImageRequest.model_validate_json("{}")
    assert request.model_dump(exclude={"scale"}) == dict.fromkeys(set(ImageRequest.model_fields) - {"scale"})
    assert request.scale == 1


@pytest.mark.parametrize("example", ImageRequest.model_config["json_schema_extra"]["examples"])
def test_documented_examples_are_valid(example):
    ImageRequest.model_validate(example)


@pytest.mark.parametrize(
    "body",
    [
        '{"n": 0}',
        '{"n": 65}',
        '{"n": "2"}',
        '{"n": true}',
        '{"n": 1.5}',
        '{"seed": -1}',
        f'{{"seed": {MAX_SEED + 1}}}',
        '{"label": -1}',
        '{"label": 1.0}',
        '{"label": false}',
        '{"label": ["Bag"]}',
        '{"truncation": 0}',
        '{"truncation": 1.01}',
        '{"truncation": NaN}',
        '{"truncation": true}',
        '{"latents": "abc"}',
        '{"interpolate": {"from_seed": 1}}',
        '{"interpolate": {"from_seed": 1, "to_seed": 2, "steps": 1}}',
        '{"interpolate": {"from_seed": 1, "to_seed": 2, "steps": 65}}',
        '{"interpolate": {"from_seed": 1, "to_seed": 2, "speed": 3}}',
        '{"scale": 0}',
        '{"scale": 65}',
        '{"format": "gif"}',
        '{"model": ""}',
        '{"caption": "a cat"}',
    ],
)
def test_wrong_bodies_are_refused(body):
    with pytest.raises(ValidationError):
        ImageRequest.model_validate_json(body)


@pytest.mark.parametrize(
    "body",
    [
        '{"n": 64, "seed": 9007199254740991, "label": 0, "truncation": 1}',
        '{"label": "Bag", "scale": 64, "format": "webp", "truncation": 0.001}',
        '{"interpolate": {"from_seed": 0, "to_seed": 1}}',
        '{"latents": [1, 2.5, -3e-7]}',
    ],
)
def test_limits_themselves_are_allowed(body):
    ImageRequest.model_validate_json(body)


@given(st.dictionaries(st.sampled_from(sorted(ImageRequest.model_fields)) | st.text(), JSON))
def test_nothing_but_a_validation_error_comes_out(body):
    try:
        request = ImageRequest.model_validate(body)
    except ValidationError:
        return
    assert set(body) <= set(ImageRequest.model_fields)
    assert request.n is None or 1 <= request.n <= 64
