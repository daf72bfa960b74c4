"""Counts as torch's own counter does, without importing its compiler."""

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from app.worker.flops import FlopCounter
from models.dcgan import DCGANGenerator
from models.gan import ConvGenerator

W = torch.ones(5, 5)
NETWORKS = {
    "dcgan": lambda: (
        DCGANGenerator(latent_dim=8, channels=(16, 8)).decode,
        (torch.randn(2, 8), torch.zeros(2).long()),
    ),
    "conv-gan": lambda: (ConvGenerator(latent_dim=8, channels=(16, 8)).decode, (torch.randn(2, 8), torch.arange(2))),
    "attention": lambda: (lambda q: torch.softmax(nn.functional.linear(q @ q.mT, W), -1) @ q, (torch.randn(2, 5, 16),)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_as_many_as_torch_counts(name):
    call, inputs = NETWORKS[name]()
    with torch.inference_mode(), FlopCounterMode(display=False) as known:
        expected = call(*inputs)
    with torch.inference_mode(), FlopCounter() as counter:
        found = call(*inputs)
    assert counter.total == known.get_total_flops() > 0
    torch.testing.assert_close(found, expected)


def test_the_compiler_stays_out():
    code = (
        "import sys, torch; from app.worker.flops import FlopCounter; from torch import nn\n"
        "with torch.inference_mode(), FlopCounter() as c: nn.Linear(2, 3)(torch.ones(1, 2))\n"
        "print(c.total, 'torch._dynamo' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).split() == ["12", "False"]
