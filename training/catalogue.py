"""Every generator of a folder of weights as a line of a table, from its card: paper, size, time, quality, speed.

Knows cards and a file of measured throughput; measures nothing.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models import checkpoint
from models.checkpoint import Checkpoint
from models.config import ModelConfig
from models.files import CONFIG_FILE
from models.protocols import CodeModel
from training.comparison import COLUMNS
from training.errors import TrainingError

ORDER_FILE = "order.txt"  # names that come first, one a line
HEAD = ("generator", "makes", "paper", "parameters", "training, one core", "quality (gate)", "served")

PAPERS: Mapping[str, str] = {
    "conv-gan": "projection GAN ([Miyato & Koyama 2018](https://arxiv.org/abs/1802.05637)) with the loss of R3GAN "
    "([Huang et al. 2024](https://arxiv.org/abs/2501.05441))",
    "conv-vae": "VAE ([Kingma & Welling 2013](https://arxiv.org/abs/1312.6114)) with a Real NVP prior "
    "([Dinh et al. 2017](https://arxiv.org/abs/1605.08803))",
    "dcgan": "DCGAN ([Radford et al. 2016](https://arxiv.org/abs/1511.06434))",
    "info-gan": "InfoGAN ([Chen et al. 2016](https://arxiv.org/abs/1606.03657))",
    "mlp-gan": "GAN ([Goodfellow et al. 2014](https://arxiv.org/abs/1406.2661))",
    "style-gan": "StyleGAN2 ([Karras et al. 2020](https://arxiv.org/abs/1912.04958))",
    "vq-vae": "VQ-VAE ([van den Oord et al. 2017](https://arxiv.org/abs/1711.00937))",
    "text-to-image": "DALL-E ([Ramesh et al. 2021](https://arxiv.org/abs/2102.12092)) with classifier-free guidance "
    "([Ho & Salimans 2022](https://arxiv.org/abs/2207.12598))",
    "gpt": "GPT-2 (Radford et al. 2019) with rotary positions ([Su et al. 2021](https://arxiv.org/abs/2104.09864))",
    "gpt2": "GPT-2 (Radford et al. 2019)",
    "gru": "GRU ([Cho et al. 2014](https://arxiv.org/abs/1406.1078))",
    "llama": "Llama ([Touvron et al. 2023](https://arxiv.org/abs/2302.13971))",
    "wavenet": "WaveNet ([van den Oord et al. 2016](https://arxiv.org/abs/1609.03499))",
}
NAMES: Mapping[str, str] = {
    **COLUMNS,
    "bits_per_byte": "bits a byte",
    "bits_per_sample": "bits a sample",
    "negative_elbo": "-ELBO",
    "psnr": "PSNR",
    "psnr_emoji": "PSNR of emoji",
    "margin": "margin over the peer",
}
BOUNDS: Mapping[str, str] = {"max": "at most", "min": "at least"}


PICTURES, CODES, CAPTIONED = "pictures", "pictures of codes", "pictures of captions"
SPEECH, TEXT = "speech", "text"
OUTPUTS: Mapping[str, str] = {"image": CAPTIONED, "audio": SPEECH}


@dataclass(frozen=True)
class Generator:
    """One weights folder.

    Attributes:
        makes: what comes out, in words; "pictures of codes" by another model's hand alone.
        parameters: shared ones counted once.
    """

    name: str
    config: ModelConfig
    makes: str
    parameters: int

    @property
    def identity(self) -> str:
        """Name and digest, as answers of the service carry them."""
        return f"{self.name}@{self.config.digest[:12]}"


def generators(weights: Path) -> list[Generator]:
    """All that a folder of weights holds, in the order in which they are served.

    Raises:
        TrainingError: it holds none.
        CheckpointError: one can't be loaded.
    """
    found = {path.name: path for path in sorted(weights.glob("*")) if (path / CONFIG_FILE).is_file()}
    if not found:
        raise TrainingError(f"{weights}: holds no weights folder (a folder with a {CONFIG_FILE})")
    order = weights / ORDER_FILE
    first = [name for name in (order.read_text().split() if order.is_file() else []) if name in found]
    return [_read(found[name]) for name in dict.fromkeys([*first, *found])]


def _read(folder: Path) -> Generator:
    loaded = checkpoint.load(folder)
    return Generator(folder.name, loaded.config, _makes(loaded), loaded.parameters)


def _makes(loaded: Checkpoint) -> str:
    if isinstance(loaded.model, CodeModel):
        return CODES
    if loaded.config.output:
        return OUTPUTS[loaded.config.output["kind"]]
    return PICTURES if loaded.config.kind == "latent" else TEXT


def throughput(path: Path) -> dict[str, Any]:
    """What `benchmarks.throughput` has found, by name; nothing when it was never run.

    Raises:
        TrainingError: the file is another one.
    """
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text())
        return {name: {**one, "value": float(one["value"]), "unit": str(one["unit"])} for name, one in found.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TrainingError(f"{path}: not what benchmarks.throughput writes ({error!r})") from None


def table(found: Sequence[Generator], served: Mapping[str, Any], weights: str) -> str:
    """Markdown: a line a generator.

    Args:
        found: the generators.
        served: what `throughput` gives.
        weights: the folder of weights as seen from where the table will stand.

    Raises:
        TrainingError: nobody has said of which paper an architecture is.
    """
    lines = [HEAD, ["---"] * len(HEAD), *(_cells(one, served.get(one.name, {}), weights) for one in found)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _cells(generator: Generator, served: Mapping[str, Any], weights: str) -> list[str]:
    config = generator.config
    if config.architecture not in PAPERS:
        raise TrainingError(f"{generator.name}: no paper is known of the architecture {config.architecture}")
    return [
        f"[`{generator.name}`]({weights}/{generator.name}/README.md)",
        generator.makes,
        PAPERS[config.architecture],
        _short(generator.parameters),
        training(config.card),
        quality(config.card),
        _speed(served, config.digest),
    ]


def _short(count: int) -> str:
    """Three digits of a large number."""
    if count < 1000:
        return str(count)
    return f"{count / 1e6:.3g} million" if count >= 1_000_000 else f"{count / 1e3:.3g} thousand"


def _digits(value: float) -> str:
    """Three digits, or all before the point where these are more."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def training(card: Mapping[str, Any]) -> str:
    """How long it took."""
    if "steps" not in card:
        return ""
    alone = "1 thread," in card.get("machine", "")
    return f"{card['seconds'] / 60:.0f} min, {card['steps']:,} steps" + ("" if alone else f", {card.get('machine')}")


def quality(card: Mapping[str, Any]) -> str:
    """What is gated, with its gates."""
    said = []
    for name, gate in card.get("gates", {}).items():
        value = card.get("metrics", {}).get(name)
        bounds = " and ".join(f"{BOUNDS[bound]} {limit:g}" for bound, limit in gate.items())
        told = "not measured" if value is None else _digits(value)
        said.append(f"{NAMES.get(name, name.replace('_', ' '))} {told} ({bounds})")
    return "; ".join(said)


def _speed(served: Mapping[str, Any], digest: str) -> str:
    """Of the very same weights; "" when others were measured, or none."""
    if served.get("digest") != digest:
        return ""
    value = served["value"]
    return f"{_digits(value)} {served['unit']}"
