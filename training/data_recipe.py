"""The table `[data]` of a recipe: which data, under which licence, and how they are split and cut."""

from dataclasses import dataclass
from typing import Annotated, Literal

from training.ranges import NotNegative, Positive, Seed, Share, at_most, below

MAX_HOP = 200  # samples of a frame: a window that shows its sound must cover it


@dataclass(frozen=True)
class DataRecipe:
    """Which pictures, and under which licence they come.

    Attributes:
        name: a known data set, which says the format of its files, or any other name for four IDX files of one's own.
        path: the folder with the files.
        labels: names of the classes, in the order of their numbers.
    """

    name: str
    path: str
    license: str
    labels: tuple[str, ...]


@dataclass(frozen=True)
class TextRecipe:
    """Which texts, how they are split, and how the training split is cut into tokens and windows.

    Attributes:
        path: the folder with the texts.
        files: pattern of their names; a file is one work, named by its stem.
        validation: works that watch the training.
        held_out: works that measure the result and are looked at by nothing else.
        tokenizer: what its tokens are: "bytes" and what they merge to, or "words", others spelt in pieces.
        vocab_size: of the tokenizer that is trained on the training split.
        window: tokens of one row of a batch.
    """

    kind: Literal["text"]
    name: str
    path: str
    license: str
    files: str
    validation: tuple[str, ...]
    held_out: tuple[str, ...]
    tokenizer: Literal["bytes", "words"]
    vocab_size: int
    window: Positive[int]

    @property
    def labels(self) -> tuple[str, ...]:
        """Texts have no classes."""
        return ()


@dataclass(frozen=True)
class CaptionedRecipe:
    """Which pictures with captions: coloured animals that are made of silhouettes, and emoji.

    Attributes:
        name: "emoji-animals", or any other for files of one's own.
        animals: the folder with the silhouettes.
        emoji: the folder with the archives of emoji.
        held_out: share of the combinations of animal, colour and background that the training never sees.
        seed: of the rule that holds them out, and of all that is drawn.
        scenes: training examples of animals.
        emoji_captions: training examples of each emoji in each style.
        rarest: keywords of fewer emoji are unknown words.
        first_word: id of the padding, behind which the words follow; numbers below are codes.
        caption_length: tokens of a caption, padding included.
    """

    kind: Literal["captioned"]
    name: str
    license: str
    animals: str
    emoji: str
    held_out: Annotated[Positive[float], below(1)]
    seed: Seed
    scenes: Positive[int]
    emoji_captions: NotNegative[int]
    rarest: Positive[int]
    first_word: Positive[int]
    caption_length: Positive[int]

    @property
    def labels(self) -> tuple[str, ...]:
        """Captions are no classes."""
        return ()


@dataclass(frozen=True)
class SpeechRecipe:
    """Which recordings of one voice, how they are split, and how the training split is cut into windows.

    Attributes:
        path: the folder with all of it.
        sounds: pattern of the WAV files; a file is named by what stands behind the pattern's first asterisk.
        transcripts: gzipped text, a line `name: words` each.
        characters: that a transcript may consist of; others are left out with their clip.
        sample_rate: of all files, samples a second.
        hop: samples of a frame; clips are whole frames.
        window: samples of one row of a batch, whole frames.
        longest: seconds of the longest clip that is kept.
        held_out_share: of the transcripts, whose clips measure the result and its temperatures.
        validation_share: of the transcripts, whose clips watch the training.
        split_seed: of the rule that says which.
    """

    kind: Literal["speech"]
    name: str
    path: str
    license: str
    sounds: str
    transcripts: str
    characters: str
    sample_rate: Positive[int]
    hop: Annotated[Positive[int], at_most(MAX_HOP)]
    window: Positive[int]
    longest: Positive[float]
    held_out_share: Share
    validation_share: Share
    split_seed: Seed

    @property
    def labels(self) -> tuple[str, ...]:
        """Speech has no classes."""
        return ()


AnyDataRecipe = DataRecipe | TextRecipe | CaptionedRecipe | SpeechRecipe
