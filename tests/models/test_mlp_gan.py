import pytest
import torch

from models.mlp_gan import MLPDiscriminator, MLPGenerator
from models.protocols import LatentModel


def test_the_generator_has_the_layers_of_the_textbook():
    model = MLPGenerator()
    assert isinstance(model, LatentModel)
    widths = [tuple(layer.weight.shape[::-1]) for layer in model.layers if isinstance(layer, torch.nn.Linear)]
    assert widths == [(110, 128), (128, 256), (256, 512), (512, 1024), (1024, 784)]
    out = model.decode(torch.randn(3, 100) * 100, torch.tensor([0, 5, 9]))
    assert out.shape == (3, 1, 28, 28)
    assert out.abs().max() <= 1


@pytest.mark.parametrize("classes", [0, 3])
def test_labels_matter_where_there_are_any(classes):
    torch.manual_seed(0)
    generator = MLPGenerator(latent_dim=4, num_classes=classes, widths=[8], image_shape=[1, 4, 4])
    discriminator = MLPDiscriminator(num_classes=classes, widths=[8], image_shape=[1, 4, 4])
    z, labels = torch.randn(1, 4).expand(2, 4), torch.tensor([0, 2])
    first, second = generator(z, labels)
    assert torch.equal(first, second) == (classes == 0)
    scores = discriminator(torch.zeros(2, 1, 4, 4), labels)
    assert scores.shape == (2,)
    assert torch.equal(scores[0], scores[1]) == (classes == 0)
