"""Which precision each kind of model gets on each kind of device."""

import pytest
import torch
from torch import nn

from app.dtypes import parse
from app.worker import packing, precisions
from models.gpt import GPT
from models.precision import PrecisionError

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
NETWORK = GPT(vocab_size=32, max_length=8, width=32, layers=1, heads=2)


@pytest.fixture(params=[True, False])
def fast(request, monkeypatch):
    """Whether the CPU multiplies bf16."""
    monkeypatch.setattr(packing, "has_fast_bf16", lambda: request.param)
    return request.param


def test_auto(fast):
    there = "bf16" if fast else "fp32"
    assert precisions.resolve("auto", CPU) == there
    assert precisions.resolve("auto", CUDA) == "fp32"
    assert precisions.for_pictures(parse("auto"), "a", CPU) == there
    assert precisions.for_text(parse("auto"), "a", NETWORK, CPU) == there
    assert precisions.for_text(parse("auto"), "a", nn.Linear(1, 1), CPU) == "fp32"


def test_few_bits(fast):
    for dtype in ("int8", "int4"):
        assert precisions.for_text(parse(dtype), "a", NETWORK, CPU) == dtype
        assert precisions.for_pictures(parse(dtype), "a", CPU) == ("bf16" if fast else "fp32")
        assert precisions.for_text(parse(dtype), "a", nn.Linear(1, 1), CPU) == "fp32"
        with pytest.raises(PrecisionError, match=f"a: {dtype} is for CPUs; on cuda give fp32 or bf16"):
            precisions.for_text(parse(dtype), "a", NETWORK, CUDA)
        with pytest.raises(PrecisionError, match=f"a: makes pictures, which {dtype} is not for"):
            precisions.for_pictures(parse(f"a={dtype}"), "a", CPU)
        with pytest.raises(PrecisionError, match="a: Linear has no embedding and head to pack"):
            precisions.for_text(parse(f"a={dtype}"), "a", nn.Linear(1, 1), CPU)


def test_names_that_are_not_served():
    precisions.check_names(parse("int8,a=fp32"), ["a", "b"])
    with pytest.raises(PrecisionError, match=r"dtype: no model c, d is served \(served: a, b\)"):
        precisions.check_names(parse("c=fp32,a=bf16,d=int8"), ["a", "b"])


def card(dtype, **said):
    return {"precision": {"precisions": {dtype: said}}}


def test_a_card_s_word_on_a_precision(caplog):
    too_much = card("int4", served=False, ratio=1.0412)
    refusal = r"^a: by its card int4 costs too much perplexity \(1\.0412 times as much\): give it another precision$"
    with pytest.raises(PrecisionError, match=refusal):
        precisions.check_card("a", "int4", too_much)
    with pytest.raises(PrecisionError, match="too much"):
        precisions.check_card("a", "bf16", card("bf16", served=False))
    precisions.check_card("a", "bf16", too_much)
    precisions.check_card("a", "int4", card("int4", served=True, ratio=1.0299))
    assert not caplog.records


def test_few_bits_of_unknown_cost_are_said_once(caplog):
    silent = ({}, {"precision": "low"}, {"precision": {"precisions": []}}, card("int4"), card("int8", served=True))
    for said in silent:
        caplog.clear()
        precisions.check_card("a", "int4", said)
        assert [record.getMessage() for record in caplog.records] == [
            "a: its card does not say what int4 costs; training.perplexity measures it"
        ]
        precisions.check_card("a", "bf16", said)
        precisions.check_card("a", "fp32", said)
        assert len(caplog.records) == 1
