"""The networks that can be served, by architecture name. Two literal dicts, nothing else."""

from torch import nn

from models.dcgan import DCGANGenerator
from models.gan import ConvGenerator
from models.gpt import GPT
from models.gpt2 import GPT2
from models.llama import Llama
from models.mlp_gan import MLPGenerator
from models.style_gan import StyleGenerator
from models.vae import ConvVAE

LATENT_MODELS: dict[str, type[nn.Module]] = {
    "conv-gan": ConvGenerator,
    "conv-vae": ConvVAE,
    "dcgan": DCGANGenerator,
    "mlp-gan": MLPGenerator,
    "style-gan": StyleGenerator,
}
SEQUENCE_MODELS: dict[str, type[nn.Module]] = {
    "gpt": GPT,
    "gpt2": GPT2,
    "llama": Llama,
}
