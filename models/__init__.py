"""The networks that can be served, by architecture name. Two literal dicts, nothing else."""

from torch import nn

from models.dcgan import DCGANGenerator
from models.gan import ConvGenerator
from models.gpt import GPT
from models.vae import ConvVAE

LATENT_MODELS: dict[str, type[nn.Module]] = {
    "conv-gan": ConvGenerator,
    "conv-vae": ConvVAE,
    "dcgan": DCGANGenerator,
}
SEQUENCE_MODELS: dict[str, type[nn.Module]] = {
    "gpt": GPT,
}
