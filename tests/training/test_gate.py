import pytest

from training.gate import Gate


@pytest.mark.parametrize(
    ("gate", "measured", "passes"),
    [
        (Gate("max", 25.0), 25.0, True),
        (Gate("max", 25.0), 25.1, False),
        (Gate("min", 0.85), 0.85, True),
        (Gate("min", 0.85), 0.84, False),
        (Gate("min", 0.85), float("nan"), False),
        (Gate("max", 25.0), float("nan"), False),
    ],
)
def test_gate(gate, measured, passes):
    assert gate.passes(measured) is passes
