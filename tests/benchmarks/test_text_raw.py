import json

import pytest
import torch

from benchmarks import text_raw
from benchmarks.generators import ROOT
from models.llama import Llama

FOLDER = ROOT / "weights/shakespeare-gpt"
SMALL = {"vocab_size": 50, "max_length": 64, "width": 32, "layers": 2, "heads": 4, "key_heads": 2, "head_dim": 8}


@torch.inference_mode()
def test_tokens_are_the_likeliest_of_the_network_without_a_cache():
    torch.manual_seed(0)
    network = Llama(**SMALL, feed_width=48, tied=True).eval()
    prompts = torch.randint(50, (3, 9))
    found = text_raw.generate(network, prompts, 40, network.init_state(3))  # over an edge of the span
    whole = torch.cat([prompts, found], dim=1)
    assert torch.equal(network(whole)[:, 8:-1].argmax(-1), found)


def test_the_program_measures_a_weights_folder(capsys, monkeypatch):
    arguments = ["text_raw", str(FOLDER), "--dtype", "fp32", "--rows", "1", "2", "--each", "2", "--json"]
    monkeypatch.setattr("sys.argv", [*arguments, "--prompt", "8", "--tokens", "4", "--threads", "1"])
    text_raw.main()
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["1", "2"]
    assert min(found.values()) > 0


def test_a_precision_that_is_none_is_refused(capsys):
    with pytest.raises(SystemExit):
        text_raw.parse([str(FOLDER), "--dtype", "int2"])
    assert "invalid choice: 'int2'" in capsys.readouterr().err
