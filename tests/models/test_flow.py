"""The flow undoes itself, its density is the true one, and it refuses what it can't map."""

import pytest
import torch

from models.flow import CouplingFlow


def make(num_classes=3, dim=6, layers=3):
    """A flow whose couplings do something: fresh ones are zero."""
    torch.manual_seed(0)
    flow = CouplingFlow(dim=dim, layers=layers, width=8, num_classes=num_classes, embedding_dim=4)
    for coupling in flow.couplings:
        torch.nn.init.normal_(coupling.out.weight, std=0.5)
    return flow.requires_grad_(False)


@pytest.mark.parametrize("num_classes", [0, 3])
@pytest.mark.parametrize("layers", [2, 5])
def test_there_and_back(num_classes, layers):
    flow, labels = make(num_classes, layers=layers), torch.tensor([0, 1, 2, 1])
    noise = torch.randn(4, 6)
    vectors = flow(noise, labels)
    assert not torch.allclose(vectors, noise, atol=0.1)
    torch.testing.assert_close(flow.inverse(vectors, labels)[0], noise, atol=1e-4, rtol=1e-4)


def test_the_determinant_is_that_of_the_jacobian():
    flow, labels, vectors = make(), torch.tensor([2]), torch.randn(1, 6)
    jacobian = torch.autograd.functional.jacobian(lambda v: flow.inverse(v[None], labels)[0][0], vectors[0])
    expected = torch.linalg.slogdet(jacobian).logabsdet
    torch.testing.assert_close(flow.inverse(vectors, labels)[1][0], expected, atol=1e-4, rtol=1e-4)


def test_a_fresh_flow_keeps_the_standard_normal():
    flow, noise = CouplingFlow(dim=4, layers=3, width=8, num_classes=2, embedding_dim=4), torch.randn(5, 4)
    latents, log_det = flow.inverse(noise, torch.zeros(5, dtype=torch.int64))
    torch.testing.assert_close(latents.square().sum(1), noise.square().sum(1))
    assert not log_det.any()


def test_labels_matter():
    flow, noise = make(), torch.randn(1, 6)
    assert not torch.allclose(*(flow(noise, torch.tensor([label])) for label in (0, 1)))


def test_a_row_depends_on_itself_alone():
    flow, noise, labels = make(), torch.randn(8, 6), torch.arange(8) % 3
    whole = flow(noise, labels)
    torch.testing.assert_close(whole[4:], flow(noise[4:], labels[4:]))


@pytest.mark.parametrize(
    ("changed", "said"),
    [({"dim": 5}, "even length, got 5"), ({"dim": 0}, "even length"), ({"layers": 1}, "2 layers"), ({"width": 0}, "0")],
)
def test_what_cannot_be_built_is_named(changed, said):
    with pytest.raises(ValueError, match=said):
        CouplingFlow(**{"dim": 4, "layers": 2, "width": 8, "num_classes": 3, "embedding_dim": 4, **changed})
