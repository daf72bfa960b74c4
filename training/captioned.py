"""Pictures with captions: coloured animals on coloured backgrounds, of which some combinations are held out, and emoji.

Knows which examples there are and on which side of the split; knows nothing of networks.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from training import emoji, scenes
from training.data import Batch, Dataset, Split, load_dataset, to_samples
from training.data_recipe import CaptionedRecipe, DataRecipe
from training.emoji import WORD, Emoji, EmojiSet
from training.errors import TrainingError
from training.scenes import Combination, Drawn, Scene
from training.words import rows, word_tokenizer

NAME = "emoji-animals"
ANIMALS = ("bear", "bird", "cat", "cow", "dog", "elephant", "giraffe", "horse", "sheep", "zebra")
DEFAULT_PATHS = {"animals": "data/animal_mnist/data/Animal_MNIST", "emoji": "data/emoji"}
KNOWN_SHA256 = {
    "emoji-datasource-google-16.0.0.tgz": "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
    "emoji-datasource-twitter-16.0.0.tgz": "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
    "emojilib-4.0.3.tgz": "7f9a6b43cff31d18985b7d65d11faba5bd971cbcc60020cf6d09322fbaaaf303",
}
MAX_KEYWORDS = 3  # in a caption


@dataclass(frozen=True)
class Captioned:
    """Pictures and captions, made when they are dealt: first all scenes, then all emoji.

    Attributes:
        drawn: the scenes, S of them.
        covered: how far silhouettes cover each pixel, [sizes, M, SIDE, SIDE] uint8.
        pictures: of emoji, [P, 3, SIDE, SIDE] uint8.
        shown: which of them each emoji example shows, [E].
        captions: tokens of all examples, [S + E, caption length] int32.
    """

    drawn: Drawn
    covered: Tensor
    pictures: Tensor
    shown: Tensor
    captions: Tensor

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.captions)

    @property
    def device(self) -> torch.device:
        """Where they lie."""
        return self.captions.device

    def batch(self, index: Tensor) -> Batch:
        """The examples with these indices [N]: pictures [N, 3, SIDE, SIDE] in [-1, 1] and tokens [N, length]."""
        count = len(self.drawn.sizes)
        found = torch.empty(len(index), *self.pictures.shape[1:], device=self.device)
        scene = index < count
        found[scene] = to_samples(self.drawn.pictures(self.covered, index[scene]))
        found[~scene] = to_samples(self.pictures[self.shown[index[~scene] - count]])
        return Batch(found, self.captions[index].long())

    def to(self, device: torch.device) -> "Captioned":
        """The same on another device."""
        drawn = Drawn(*(getattr(self.drawn, name).to(device) for name in Drawn.__dataclass_fields__))
        parts = {name: getattr(self, name).to(device) for name in ("covered", "pictures", "shown", "captions")}
        return replace(self, drawn=drawn, **parts)


@dataclass(frozen=True)
class CaptionedDataset:
    """Examples in three splits, with what a model card says about them.

    Attributes:
        recipe: which data they are.
        sha256: of each file.
        tokenizer: of the captions.
        train: all silhouettes of the training split in seen combinations, and emoji.
        test: all silhouettes of the test split, each once, in held-out combinations.
        emoji: every emoji once; the training has seen them all.
        held_out: combinations that the training never sees.
        asked: what the scenes of the test split show.
        named: captions of `emoji`.
    """

    recipe: CaptionedRecipe
    sha256: Mapping[str, str]
    tokenizer: Tokenizer
    train: Captioned
    test: Captioned
    emoji: Captioned
    held_out: tuple[Combination, ...]
    asked: tuple[Scene, ...]
    named: tuple[str, ...]

    @property
    def seen(self) -> list[Combination]:
        """Combinations that the training sees."""
        return scenes.split_combinations(ANIMALS, self.recipe.held_out, self.recipe.seed)[0]

    def card(self) -> dict[str, Any]:
        """What the model card says about the data: enough to make the same again from the same files."""
        fields = {key: getattr(self.recipe, key) for key in ("name", "license", *MAKING)}
        return {**fields, "sha256": dict(self.sha256)}


# which examples are made of the files
MAKING = (
    "held_out",
    "seed",
    "scenes",
    "emoji_captions",
    "rarest",
    "first_word",
    "caption_length",
)


def load_captioned(recipe: CaptionedRecipe) -> CaptionedDataset:
    """Read silhouettes and emoji, hold combinations out, draw the scenes and write the captions.

    Raises:
        TrainingError: a file is missing, differs from the published one, or is not of its format.
    """
    silhouettes = _silhouettes(recipe)
    contents = _read(Path(recipe.emoji), recipe.name)
    found = emoji.read_emoji(Path(recipe.emoji), contents)
    sha256 = {**silhouettes.sha256, **{name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}}
    return make_dataset(recipe, sha256, silhouettes, found)


def _silhouettes(recipe: CaptionedRecipe) -> Dataset:
    """The published ones, or with a data.name of one's own four IDX files of ten classes, in the order of `ANIMALS`."""
    name = "animal-mnist" if recipe.name == NAME else recipe.name
    try:
        return load_dataset(DataRecipe(name, recipe.animals, recipe.license, ANIMALS))
    except TrainingError as error:
        raise TrainingError(str(error).replace("data.path", "data.animals")) from None


def _read(folder: Path, name: str) -> dict[str, bytes]:
    """The archives of emoji, checked against the published ones where the name is that of the known data."""
    contents = {}
    for file in emoji.FILES:
        try:
            contents[file] = (folder / file).read_bytes()
        except FileNotFoundError:
            raise TrainingError(
                f"{folder / file}: missing; {emoji.HINT}, or set data.emoji to where they are"
            ) from None
        except OSError as error:
            raise TrainingError(f"{folder / file}: unreadable: {error}") from error
        digest = hashlib.sha256(contents[file]).hexdigest()
        if name == NAME and digest != KNOWN_SHA256[file]:
            raise TrainingError(
                f"{folder / file}: sha256 is {digest[:16]}..., the published one has {KNOWN_SHA256[file][:16]}...; "
                "give data of your own another data.name"
            )
    return contents


def make_dataset(
    recipe: CaptionedRecipe, sha256: Mapping[str, str], silhouettes: Dataset, found: EmojiSet
) -> CaptionedDataset:
    """The examples of these silhouettes and emoji."""
    seen, held_out = scenes.split_combinations(ANIMALS, recipe.held_out, recipe.seed)
    maker = _Maker(recipe, word_tokenizer(vocabulary(found.emoji, recipe.rarest), recipe.first_word), found)
    forms = np.random.default_rng([recipe.seed, 2]).choice(scenes.CAPTIONS, recipe.scenes).tolist()
    named = [_named(one, style) for style in emoji.STYLES for one in found.emoji]
    train, test = silhouettes.train, silhouettes.test
    tested = maker.split(test, held_out, [scenes.FULL] * len(test), [])
    return CaptionedDataset(
        recipe,
        sha256,
        maker.tokenizer,
        maker.split(train, seen, forms, told(found.emoji, recipe.emoji_captions, recipe.seed)),
        tested,
        maker.split(test, held_out, [], named),
        tuple(held_out),
        tuple(tested.drawn.scenes(test.labels, ANIMALS)),
        tuple(named),
    )


@dataclass(frozen=True)
class _Maker:
    """Makes splits of the same emoji and the same words."""

    recipe: CaptionedRecipe
    tokenizer: Tokenizer
    found: EmojiSet

    def split(
        self, silhouettes: Split, chosen: Sequence[Combination], forms: Sequence[str], told: Sequence[str]
    ) -> Captioned:
        """Scenes with captions of these forms, and emoji with these captions, equally many of each picture."""
        drawn = scenes.draw(len(forms), silhouettes.labels, ANIMALS, chosen, self.recipe.seed)
        found = zip(drawn.scenes(silhouettes.labels, ANIMALS), forms, strict=True)
        captions = [*(scene.caption(form) for scene, form in found), *told]
        pictures = self.found.pictures.flatten(0, 1)
        shown = torch.arange(len(pictures)).repeat_interleave(len(told) // len(pictures))
        tokens = torch.tensor(rows(self.tokenizer, captions, self.recipe.caption_length), dtype=torch.int32)
        return Captioned(drawn, scenes.coverage(silhouettes.pictures), pictures, shown, tokens)


def told(found: Sequence[Emoji], times: int, seed: int) -> list[str]:
    """Captions of the emoji in every style, `times` of each picture: its name or keywords, its style or not."""
    random = np.random.default_rng([seed, 1])
    return [_told(one, style, random) for style in emoji.STYLES for one in found for _ in range(times)]


def _told(one: Emoji, style: str, random: np.random.Generator) -> str:
    count = int(random.integers(1, MAX_KEYWORDS + 1))
    chosen = random.permutation(len(one.keywords))[:count] if random.random() < 0.25 else ()
    said = " ".join(one.keywords[place] for place in chosen) or one.name
    return f"{said}, {style} style" if random.random() < 0.75 else said


def _named(one: Emoji, style: str) -> str:
    return f"{one.name}, {style} style"


def vocabulary(found: Sequence[Emoji], rarest: int) -> set[str]:
    """All words of scenes and of the names of emoji, and of keywords those that at least `rarest` emoji have."""
    plain = {"size": "", "colour": "", "animal": "", "background": ""}
    said = [
        *(form.format(**plain) for form in scenes.CAPTIONS),
        *ANIMALS,
        *scenes.COLOURS,
        *scenes.SIZES,
        *emoji.STYLES,
        "an style",
    ]
    said += [one.name for one in found]
    counts = Counter(word for one in found for word in {word for key in one.keywords for word in WORD.findall(key)})
    return {word for text in said for word in WORD.findall(text)} | {w for w, n in counts.items() if n >= rarest}
