import math

import pytest

from models import controls

GOOD = {"index": 3, "min": -2.0, "max": 2}


def test_a_control_gets_a_description_and_keeps_the_rest():
    assert controls.checked({"code_0": GOOD}) == {"code_0": GOOD | {"description": ""}}
    told = GOOD | {"description": "dark to light"}
    assert controls.checked({"code_0": told}) == {"code_0": told}
    assert controls.checked({}) == {}


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ([], "an object of at most 64"),
        ({f"c{i}": GOOD | {"index": i} for i in range(65)}, "an object of at most 64"),
        ({"Code 0": GOOD}, "the name 'Code 0' does not match"),
        ({"": GOOD}, "the name '' does not match"),
        ({"a": 3}, r"controls\.a: index, min and max expected"),
        ({"a": {"index": 3, "min": 0}}, r"controls\.a: index, min and max expected"),
        ({"a": GOOD | {"step": 1}}, r"controls\.a: .* and nothing else"),
        ({"a": GOOD | {"index": -1}}, r"controls\.a: index must be a whole number"),
        ({"a": GOOD | {"index": 1.0}}, r"controls\.a: index must be a whole number"),
        ({"a": GOOD | {"index": True}}, r"controls\.a: index must be a whole number"),
        ({"a": GOOD | {"min": 2.0}}, r"controls\.a: min must be below max"),
        ({"a": GOOD | {"min": math.nan}}, r"controls\.a: min must be below max"),
        ({"a": GOOD | {"max": math.inf}}, r"controls\.a: min must be below max"),
        ({"a": GOOD | {"max": "2"}}, r"controls\.a: min must be below max"),
        ({"a": GOOD | {"description": 1}}, r"controls\.a: description must be a text"),
        ({"a": GOOD | {"description": "x" * 501}}, r"controls\.a: description must be a text"),
        ({"a": GOOD, "b": GOOD}, "two of them have the same index"),
    ],
)
def test_what_can_not_be_served_is_refused_by_name(raw, message):
    with pytest.raises(ValueError, match=message):
        controls.checked(raw)


@pytest.mark.parametrize(("shape", "fits"), [((4,), True), ((3,), False), ((4, 4), False), ((), False)])
def test_a_control_is_of_a_number_that_the_latent_has(shape, fits):
    if fits:
        controls.check_latent({"a": GOOD}, shape)
    else:
        with pytest.raises(ValueError, match=r"controls\.a: index 3 of a latent of shape"):
            controls.check_latent({"a": GOOD}, shape)
    controls.check_latent({}, shape)


def test_a_description_changes_no_output():
    one = controls.checked({"a": GOOD})
    assert controls.vouched(one) == controls.vouched(controls.checked({"a": GOOD | {"description": "x"}}))
    for other in ({"b": GOOD}, {"a": GOOD | {"index": 2}}, {"a": GOOD | {"max": 3}}):
        assert controls.vouched(controls.checked(other)) != controls.vouched(one)
