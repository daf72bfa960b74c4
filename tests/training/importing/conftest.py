import json

import pytest
import torch

from models import checkpoint
from training.importing import command
from training.tokenizer import SMALLEST, train_tokenizer

VOCAB = SMALLEST + 8


@pytest.fixture(scope="session")
def tokenizer():
    """Bytes and a few merges, as the content of a tokenizer.json."""
    return train_tokenizer(["the theory of the thing then that thing"] * 50, VOCAB).to_str().encode()


@pytest.fixture
def run(tmp_path, capsys):
    """Import a source; the loaded checkpoint, or the one line of a refusal with its exit status."""

    def run(source, *flags):
        status = command.main([str(source), "--name", "small", "--out", str(tmp_path / "weights"), *flags])
        said = capsys.readouterr()
        if status:
            assert said.err.startswith("error: ")
            assert said.err.count("\n") == 1, "one line"
            assert not list((tmp_path / "weights").glob("*")), "nothing is left"
            return status, said.err
        assert "wrote" in said.out
        return checkpoint.load(tmp_path / "weights" / "small")

    return run


@torch.inference_mode()
def compare(checkpoint, reference, tolerance=1e-4, length=24):
    """The imported network, whole and with its cache, is the reference: logits of random texts."""
    model = checkpoint.model
    texts = torch.randint(model.vocab_size, (2, length), generator=torch.Generator().manual_seed(3))
    wanted = reference.eval().float()(texts).logits
    assert wanted.std() > 0.3, "a flat output would hide everything"
    torch.testing.assert_close(model(texts), wanted, rtol=tolerance, atol=tolerance)
    state, rows = model.init_state(3), [2, 0]
    got = [model.prefill(texts[:, :5], [0, 0], [5, 5], rows, state)]
    got.append(model.prefill(texts[:, 5:12], [5, 5], [7, 7], rows, state))
    for place in range(12, length):
        tokens = torch.stack([texts[1, place], torch.tensor(0), texts[0, place]])
        positions = torch.tensor([place, 0, place])
        got.append(model.step(tokens, positions, length, state)[[2, 0]])
    places = [4, 11, *range(12, length)]
    torch.testing.assert_close(torch.stack(got, 1), wanted[:, places], rtol=tolerance, atol=tolerance)


def edit(path, **changes):
    """Change fields of a JSON file; None takes one away."""
    fields = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in fields.items() if value is not None}))
