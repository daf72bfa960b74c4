"""The networks that can be served, and the discriminators beside them, by architecture name. Dicts, nothing else."""

from torch import nn

from models.dcgan import DCGANGenerator
from models.gan import ConvDiscriminator, ConvGenerator
from models.gpt import GPT
from models.gpt2 import GPT2
from models.gru import GRU
from models.info_gan import InfoGenerator
from models.llama import Llama
from models.mlp_gan import MLPDiscriminator, MLPGenerator
from models.style_gan import StyleGenerator
from models.text_to_image import TextToImage
from models.vae import ConvVAE
from models.vq import VQVAE
from models.wavenet import WaveNet

LATENT_MODELS: dict[str, type[nn.Module]] = {
    "conv-gan": ConvGenerator,
    "conv-vae": ConvVAE,
    "dcgan": DCGANGenerator,
    "info-gan": InfoGenerator,
    "mlp-gan": MLPGenerator,
    "style-gan": StyleGenerator,
    "vq-vae": VQVAE,
}
SEQUENCE_MODELS: dict[str, type[nn.Module]] = {
    "gpt": GPT,
    "gpt2": GPT2,
    "gru": GRU,
    "llama": Llama,
    "text-to-image": TextToImage,
    "wavenet": WaveNet,
}
CRITICS: dict[str, type[nn.Module]] = {
    "conv": ConvDiscriminator,
    "mlp": MLPDiscriminator,
}
