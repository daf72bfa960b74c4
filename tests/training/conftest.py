"""A tiny data set on disk, a tiny judge, and recipes for them: everything that a run needs, in milliseconds."""

import copy
import gzip
import json
import struct
import warnings
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from models import checkpoint
from models.vq import VQVAE
from tests.training import captions
from training.captioned import CaptionedDataset, load_captioned
from training.data import FILES, Dataset, load_dataset
from training.data_recipe import CaptionedRecipe
from training.judge import ARCHITECTURE, ConvJudge, Judge, load_judge
from training.recipe import Recipe, parse_recipe
from training.run import Run
from training.speech import SpeechDataset, load_speech_dataset
from training.text import TextDataset, load_text_dataset

SIDE, CLASSES = 8, 3
LABELS = ["left", "right", "bottom"]
JUDGE_CONFIG = {"num_classes": CLASSES, "channels": [8, 8], "features": 6, "image_size": SIDE, "image_channels": 1}
GENERATOR_CONFIG = {
    "latent_dim": 4,
    "num_classes": CLASSES,
    "embedding_dim": 4,
    "channels": [8, 8],
    "base_size": 4,
    "image_channels": 1,
}
OBJECTIVES: dict[str, dict[str, Any]] = {
    "classifier": {
        "kind": "classifier",
        "betas": [0.9, 0.999],
        "weight_decay": 0.01,
        "label_smoothing": 0.0,
        "half": "both",
    },
    "gan": {
        "kind": "gan",
        "betas": [0.0, 0.99],
        "loss": "relativistic",
        "penalty": "r1+r2",
        "gamma": 1.0,
        "penalty_every": 4,
        "augment": {"mirror": 0.25, "shift": 1, "shifted": 0.5},
        "style_mixing": 0.5,
        "information": {"categories": 0.0, "codes": 0.0},
        "unrolled": 0,
        "clip": 0.0,
        "judge": "",
        "watch": "",
        "keep": "best",
        "discriminator": {
            "kind": "conv",
            "num_classes": CLASSES,
            "channels": [8, 8],
            "image_size": SIDE,
            "image_channels": 1,
        },
    },
    "vae": {
        "kind": "vae",
        "betas": [0.9, 0.999],
        "kl_warmup": 5,
        "kl_weight": 1.0,
        "judge": "",
        "guide": "",
        "guide_weight": 1.0,
        "guide_every": 3,
        "guide_from": 2,
    },
    "language": {
        "kind": "language",
        "betas": [0.9, 0.95],
        "weight_decay": 0.1,
        "warmup": 4,
        "floor": 0.1,
        "clip": 1.0,
        "peer": "",
    },
    "vq": captions.VQ_OBJECTIVE,
    "text-to-image": captions.TEXT_TO_IMAGE_OBJECTIVE,
    "audio": {
        "kind": "audio",
        "betas": [0.9, 0.99],
        "weight_decay": 0.01,
        "warmup": 4,
        "clip": 1.0,
        "ear_weight": 0.2,
    },
}
MODELS = {
    "classifier": {"architecture": ARCHITECTURE, "config": JUDGE_CONFIG},
    "gan": {"architecture": "conv-gan", "config": GENERATOR_CONFIG},
    "vae": {"architecture": "conv-vae", "config": GENERATOR_CONFIG},
    "language": {
        "architecture": "gpt",
        "config": {"vocab_size": 280, "max_length": 48, "width": 16, "layers": 1, "heads": 2},
    },
    "vq": captions.VQ,
    "text-to-image": captions.TEXT_TO_IMAGE,
    "audio": {
        "architecture": "wavenet",
        "config": {
            "max_length": 4000,
            "width": 8,
            "skip": 8,
            "stacks": 2,
            "layers": 3,
            "hop": 40,
            "characters": 6,
            "condition_length": 16,
            "text_width": 8,
            "features": 8,
        },
    },
}


def pack_idx(array: np.ndarray) -> bytes:
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return gzip.compress(header + array.astype(np.uint8).tobytes(), mtime=0)


def draw(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures with one bright half, which half is the class, and noise."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    pictures = random.integers(0, 60, (count, SIDE, SIDE))
    for picture, label in zip(pictures, labels, strict=True):
        half = [np.s_[:, :4], np.s_[:, 4:], np.s_[4:, :]][label]
        picture[half] += 150
    return pictures, labels


WORDS = ["the", "king", "and", "queen", "of", "night", "shall", "speak", "to", "no", "man", "but", "thee", "o", "heart"]


def write(words: int, seed: int) -> str:
    """Lines of words, in an order that can be learnt a little."""
    random = np.random.default_rng(seed)
    places = np.cumsum(random.integers(1, 4, words)) % len(WORDS)
    lines = [" ".join(WORDS[place] for place in places[i : i + 8]) for i in range(0, words, 8)]
    return "\n".join(lines) + ".\n"


def speak(text: str, rate: int = 8000) -> np.ndarray:
    """A tone for every letter, silence around them: [n] int16."""
    tones = [
        np.sin(2 * np.pi * 150 * (1 + ord(letter) % 8) * np.arange(rate // 50) / rate) * (letter != " ")
        for letter in text
    ]
    silence = np.zeros(rate // 5)
    return (np.concatenate([silence, *tones, silence]) * 9000).astype(np.int16)


def write_speech(folder: Path, texts: dict[str, str]) -> None:
    """WAV files and a file of transcripts as a Debian package has them."""
    for name, text in texts.items():
        path = folder / "sounds" / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        with wave.open(str(path), "wb") as file:
            file.setparams((1, 2, 8000, 0, "NONE", ""))
            file.writeframes(speak(text).tobytes())
    lines = ["; transcripts", "", *(f"{name}: {text.title()}" for name, text in texts.items())]
    (folder / "words.txt.gz").write_bytes(gzip.compress("\n".join(lines).encode(), mtime=0))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("halves")
    arrays = (*draw(96, seed=1), *draw(48, seed=2))
    for name, array in zip(FILES, arrays, strict=True):
        (folder / name).write_bytes(pack_idx(array))
    return folder


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("works")
    for seed, name in enumerate(("comedy", "history", "sonnets", "tragedy")):
        (folder / f"{name}.txt").write_text(write(300, seed))
    return folder


@pytest.fixture(scope="session")
def speech_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prompts")
    random = np.random.default_rng(4)
    write_speech(folder, {f"deep/{i}": "".join(random.choice(list("abcde"), 4 + i % 5)) for i in range(16)})
    return folder


@pytest.fixture(scope="session")
def caption_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Silhouettes and emoji, and beside them an autoencoder and a judge of them, neither of which has been trained."""
    folder = tmp_path_factory.mktemp("captions")
    captions.write(folder)
    card = {"training_data": load_captioned(CaptionedRecipe(**captions.table(folder))).card()}
    torch.manual_seed(4)
    checkpoint.save(folder / "tiny-vq", VQVAE(**captions.VQ["config"]), **captions.VQ, card=card)
    judge = {"architecture": ARCHITECTURE, "config": captions.JUDGE}
    checkpoint.save(folder / "shapes", ConvJudge(**captions.JUDGE), **judge)
    return folder


@pytest.fixture(scope="session")
def judge_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("judges") / "halves"
    for seed, place in ((3, folder), (4, guide_of(folder))):
        torch.manual_seed(seed)
        checkpoint.save(place, ConvJudge(**JUDGE_CONFIG), architecture=ARCHITECTURE, config=JUDGE_CONFIG)
    return folder


def guide_of(judge_folder: Path) -> Path:
    """Where the judge that steers lies."""
    return judge_folder.with_name("halves-guide")


@pytest.fixture
def judge(judge_folder: Path) -> Judge:
    return load_judge(judge_folder)


class TinyInception(nn.Module):
    """Takes and gives what NVIDIA's file of Inception does, with four features: three means and a corner."""

    def forward(self, x: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        assert x.dtype == torch.uint8
        assert x.size(1) == 3
        assert return_features
        return torch.cat([x.float().mean([2, 3]), x[:, :1, 0, 0].float()], 1)


@pytest.fixture
def script(tmp_path: Path) -> Callable[[nn.Module, str], Path]:
    """`script(network, "net.pt")`: its TorchScript file."""

    def make(network: nn.Module, name: str) -> Path:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # the format is an old one, and users have it
            torch.jit.save(torch.jit.script(network), str(tmp_path / name))
        return tmp_path / name

    return make


@pytest.fixture
def tiny_inception(script: Callable[[nn.Module, str], Path]) -> Path:
    """A file as `--inception` takes it."""
    return script(TinyInception(), "inception.pt")


@pytest.fixture
def raw_recipe(
    data_folder: Path,
    text_folder: Path,
    speech_folder: Path,
    caption_folder: Path,
    judge_folder: Path,
    tmp_path: Path,
) -> Callable[[str], dict[str, Any]]:
    """A recipe as TOML would give it: what may differ between tests is changed in the dict."""

    pictures = {"name": "halves", "path": str(data_folder), "license": "MIT", "labels": LABELS}
    texts = {
        "kind": "text",
        "name": "works",
        "path": str(text_folder),
        "license": "MIT",
        "files": "*.txt",
        "validation": ["comedy"],
        "held_out": ["tragedy"],
        "tokenizer": "bytes",
        "vocab_size": 280,
        "window": 24,
    }
    speech = {
        "kind": "speech",
        "name": "prompts",
        "path": str(speech_folder),
        "license": "MIT",
        "sounds": "sounds/**/*.wav",
        "transcripts": "words.txt.gz",
        "characters": " abcde",
        "sample_rate": 8000,
        "hop": 40,
        "window": 400,
        "longest": 1.0,
        "held_out_share": 0.2,
        "validation_share": 0.2,
        "split_seed": 1,
    }

    captioned = captions.table(caption_folder)
    tables = {"language": texts, "audio": speech, "vq": captioned, "text-to-image": captioned}

    def make(kind: str) -> dict[str, Any]:
        objective = copy.deepcopy(OBJECTIVES[kind])
        if "judge" in objective:
            objective["judge"] = str(judge_folder)
        if kind == "text-to-image":
            objective |= {"judge": str(caption_folder / "shapes"), "decoder": str(caption_folder / "tiny-vq")}
        if "watch" in objective:
            objective["watch"] = str(guide_of(judge_folder))
        return {
            "name": f"tiny-{kind}",
            "description": "Halves, bright and dark.",
            "license": "Apache-2.0",
            "export": str(tmp_path / "export" / f"tiny-{kind}"),
            "seed": 5,
            "steps": 20,
            "batch_size": 16,
            "learning_rate": 2e-3,
            "ema_decay": 0.9,
            "precision": "bf16",
            "threads": 1,
            "device": "cpu",
            "data": copy.deepcopy(tables.get(kind, pictures)),
            "model": copy.deepcopy(MODELS[kind]),
            "objective": objective,
            "every": {"log": 2, "evaluate": 8, "snapshot": 7},
            "guards": {"max_rollbacks": 2, "min_class_share": 0.2, "collapse_patience": 2},
            "gates": {},
        }

    return make


@pytest.fixture
def recipe(raw_recipe: Callable[[str], dict[str, Any]]) -> Callable[..., Recipe]:
    """`recipe("gan", steps=5)`: a tiny recipe with top-level keys replaced."""

    def make(kind: str, **changes: Any) -> Recipe:
        return parse_recipe({**raw_recipe(kind), **changes})

    return make


@pytest.fixture
def recipe_file(raw_recipe: Callable[[str], dict[str, Any]], tmp_path: Path) -> Callable[..., Path]:
    """The same as a TOML file."""

    def make(kind: str, **changes: Any) -> Path:
        path = tmp_path / f"tiny-{kind}.toml"
        path.write_text("".join(f"{key} = {_toml(value)}\n" for key, value in {**raw_recipe(kind), **changes}.items()))
        return path

    return make


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + "}"
    return json.dumps(value)


@pytest.fixture
def dataset(recipe: Callable[..., Recipe]) -> Dataset:
    return load_dataset(recipe("gan").data)


@pytest.fixture
def texts(recipe: Callable[..., Recipe]) -> TextDataset:
    return load_text_dataset(recipe("language").data)


@pytest.fixture
def speech(recipe: Callable[..., Recipe]) -> SpeechDataset:
    return load_speech_dataset(recipe("audio").data)


@pytest.fixture
def captioned(recipe: Callable[..., Recipe]) -> CaptionedDataset:
    return load_captioned(recipe("vq").data)


@pytest.fixture
def make_run(
    dataset: Dataset, texts: TextDataset, speech: SpeechDataset, captioned: CaptionedDataset, tmp_path: Path
) -> Callable[..., Run]:
    """A run in a folder of its own, not started."""
    datasets = {"language": texts, "audio": speech, "vq": captioned, "text-to-image": captioned}

    def make(recipe: Recipe, folder: str = "run") -> Run:
        return Run(recipe, tmp_path / folder, datasets.get(recipe.objective.kind, dataset))

    return make
