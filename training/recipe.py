"""A recipe: one TOML file that says everything about a run, read into frozen dataclasses.

Knows names, types and ranges; knows nothing of networks, files of data, or the loop. Every key is required, so that a
recipe reads as the full record of a run; an unknown key is an error, so that a misspelt one can't be ignored.
"""

import dataclasses
import tomllib
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from training.errors import TrainingError

Spec = TypeVar("Spec")
MAX_HOP = 200  # samples of a frame: a window that shows its sound must cover it
MAX_UNROLLED = 100  # all of the steps are held in memory at once


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
    window: int

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
    held_out: float
    seed: int
    scenes: int
    emoji_captions: int
    rarest: int
    first_word: int
    caption_length: int

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
        held_out_share: of the transcripts, whose clips measure the result and are looked at by nothing else.
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
    sample_rate: int
    hop: int
    window: int
    longest: float
    held_out_share: float
    validation_share: float
    split_seed: int

    @property
    def labels(self) -> tuple[str, ...]:
        """Speech has no classes."""
        return ()


@dataclass(frozen=True)
class ModelRecipe:
    """Which network: a key of `models.LATENT_MODELS` (or the judge's), and its constructor's keyword arguments."""

    architecture: str
    config: Mapping[str, Any]


@dataclass(frozen=True)
class ClassifierRecipe:
    """Cross-entropy with AdamW; pictures are flipped and shifted at random.

    Attributes:
        half: which training pictures are seen: "both" halves, or those of "even" or "odd" number alone.
    """

    kind: Literal["classifier"]
    betas: tuple[float, float]
    weight_decay: float
    label_smoothing: float
    half: Literal["both", "even", "odd"]


@dataclass(frozen=True)
class AugmentRecipe:
    """Random changes of what the discriminator sees; below a half, so that generated pictures do not take them on.

    Attributes:
        mirror: probability with which a picture is mirrored.
        shift: pixels by which it is shifted at most, each way.
        shifted: probability with which it is shifted at all.
    """

    mirror: float
    shift: int
    shifted: float


@dataclass(frozen=True)
class InformationRecipe:
    """Weights of InfoGAN's bounds on what pictures tell of their categories and of their codes; 0 for other GANs."""

    categories: float
    codes: float


@dataclass(frozen=True)
class GanRecipe:
    """A GAN; losses and penalties are those of `training.losses`.

    Attributes:
        gamma: weight of the gradient penalty, applied on every `penalty_every`-th step.
        style_mixing: share of style-based generators' latents that are mixed of two; 0 for others.
        information: InfoGAN's term.
        unrolled: steps that the generator looks ahead in the discriminator's training, on the loss alone; 0 for none.
        clip: bound on the norm of each player's gradient; 0 for none.
        judge: folder of the classifier that measures the result, and nothing else.
        watch: folder of another one, which watches the run and picks the network to publish.
        keep: "best" publishes the network that `watch` found closest to the data, "last" the last one.
        discriminator: its `kind` and its constructor's keyword arguments.
    """

    kind: Literal["gan"]
    betas: tuple[float, float]
    loss: Literal["saturating", "non-saturating", "hinge", "wasserstein", "relativistic"]
    penalty: Literal["none", "r1", "r1+r2", "interpolated"]
    gamma: float
    penalty_every: int
    augment: AugmentRecipe
    style_mixing: float
    information: InformationRecipe
    unrolled: int
    clip: float
    judge: str
    watch: str
    keep: Literal["best", "last"]
    discriminator: Mapping[str, Any]


@dataclass(frozen=True)
class VaeRecipe:
    """Bernoulli evidence lower bound; the KL term's weight rises linearly to `kl_weight` over `kl_warmup` steps.

    Attributes:
        kl_weight: 1 is the bound itself; below 1 the codes say more of their picture, which then is less blurred.
        guide: folder of a classifier, not the judge, that steers generated pictures; "" for none.
        guide_weight: of its cross-entropy and of the distance on its features, on every `guide_every`-th step.
        guide_from: step at which it begins; on a decoder that knows its classes it refines, earlier it caricatures.
    """

    kind: Literal["vae"]
    betas: tuple[float, float]
    kl_warmup: int
    kl_weight: float
    judge: str
    guide: str
    guide_weight: float
    guide_every: int
    guide_from: int


@dataclass(frozen=True)
class LanguageRecipe:
    """Cross-entropy of the next token with AdamW.

    Attributes:
        weight_decay: of matrices; gains are left alone.
        warmup: steps over which the learning rate rises.
        floor: share of the recipe's learning rate to which it falls.
        clip: bound on the norm of the gradient.
        peer: weights folder of another model of the same texts, measured beside this one; "" for none.
    """

    kind: Literal["language"]
    betas: tuple[float, float]
    weight_decay: float
    warmup: int
    floor: float
    clip: float
    peer: str


@dataclass(frozen=True)
class VqRecipe:
    """Squared error of pictures through the nearest codes; the codebook follows the features by moving averages.

    Attributes:
        commitment: weight of the features' squared distance from their codes.
        decay: of the codebook's averages.
        rarest: a code that is used less often a batch, on average, is dead and begins anew at a feature of the batch.
        restart_until: step from which on codes are left dead.
    """

    kind: Literal["vq"]
    betas: tuple[float, float]
    commitment: float
    decay: float
    rarest: float
    restart_until: int


@dataclass(frozen=True)
class TextToImageRecipe:
    """Cross-entropy of a picture's codes behind its caption, with AdamW.

    Attributes:
        decoder: weights folder of the discrete autoencoder whose codes they are.
        caption_dropout: share of captions that are replaced by padding.
        weight_decay: of matrices; gains are left alone.
        warmup: steps over which the learning rate rises.
        clip: bound on the norm of the gradient.
        judge: folder of the classifier that measures the result, and nothing else.
        guidance: scales that are measured; the best one becomes the network's own.
    """

    kind: Literal["text-to-image"]
    betas: tuple[float, float]
    decoder: str
    caption_dropout: float
    weight_decay: float
    warmup: int
    clip: float
    judge: str
    guidance: tuple[float, ...]


@dataclass(frozen=True)
class AudioRecipe:
    """Cross-entropy of the next sample with AdamW, and what the transcript says of each frame's sound.

    Attributes:
        weight_decay: of matrices; biases are left alone.
        warmup: steps over which the learning rate rises.
        clip: bound on the norm of the gradient.
        ear_weight: of the squared error of the frames' bands.
    """

    kind: Literal["audio"]
    betas: tuple[float, float]
    weight_decay: float
    warmup: int
    clip: float
    ear_weight: float


@dataclass(frozen=True)
class Every:
    """Steps between two lines of metrics, two evaluations, two snapshots."""

    log: int
    evaluate: int
    snapshot: int


@dataclass(frozen=True)
class GuardRecipe:
    """Bounds of the guards: see `training.guards`."""

    max_rollbacks: int
    min_class_share: float
    collapse_patience: int


@dataclass(frozen=True)
class Gate:
    """A bound that a measured quality must keep before weights are published."""

    bound: Literal["min", "max"]
    value: float

    def passes(self, measured: float) -> bool:
        """Whether the measurement keeps the bound; not-a-number never does."""
        return measured >= self.value if self.bound == "min" else measured <= self.value


ObjectiveRecipe = ClassifierRecipe | GanRecipe | VaeRecipe | LanguageRecipe | VqRecipe | TextToImageRecipe | AudioRecipe
OBJECTIVES: Mapping[str, type[ObjectiveRecipe]] = {
    "classifier": ClassifierRecipe,
    "gan": GanRecipe,
    "vae": VaeRecipe,
    "language": LanguageRecipe,
    "vq": VqRecipe,
    "text-to-image": TextToImageRecipe,
    "audio": AudioRecipe,
}


@dataclass(frozen=True)
class Recipe:
    """Everything about a run.

    Attributes:
        name: of the run and of its folder under `runs/`.
        description: one sentence for the model card.
        license: of the weights.
        export: the weights folder that is written when every gate is passed.
        seed: of the weights' initialisation, of the shuffling and of the noise.
        steps: optimiser steps; the learning rate falls to zero over them by a cosine.
        precision: "bf16" (autocast) or "fp32".
        threads: CPU threads of this process.
        device: "auto" (CUDA when present), "cpu" or "cuda".
        gates: metric name -> bound.
        finetune: `{"from": NAME}`, the weights folder that the training starts from; None or the name "" for fresh
            weights. The one table that may be left out.
    """

    name: str
    description: str
    license: str
    export: str
    seed: int
    steps: int
    batch_size: int
    learning_rate: float
    ema_decay: float
    precision: Literal["bf16", "fp32"]
    threads: int
    device: Literal["auto", "cpu", "cuda"]
    data: DataRecipe | TextRecipe | CaptionedRecipe | SpeechRecipe
    model: ModelRecipe
    objective: ObjectiveRecipe
    every: Every
    guards: GuardRecipe
    gates: Mapping[str, Gate]
    finetune: Mapping[str, str] | None

    @property
    def origin(self) -> str:
        """The weights folder that the training starts from; "" for fresh weights."""
        return self.finetune["from"] if self.finetune else ""

    def as_dict(self) -> dict[str, Any]:
        """Plain nested dicts and lists, as JSON would hold them."""
        return dataclasses.asdict(self)


def read_recipe(path: Path, changes: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        path: of a TOML file.
        changes: such as `objective.loss = "hinge"`: each replaces the value of a key of the file.

    Raises:
        TrainingError: the file is missing or is not TOML, or a change is not; a key is missing, unknown, of the wrong
            type or out of range.
    """
    try:
        raw = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise TrainingError(f"{path}: no such recipe") from None
    except (OSError, ValueError) as error:
        raise TrainingError(f"{path}: not readable as TOML: {error}") from error
    for change in changes:
        _change(raw, change)
    try:
        return parse_recipe(raw)
    except TrainingError as error:
        raise TrainingError(f"{path}: {error}") from None


def _change(raw: dict[str, Any], change: str) -> None:
    """Replace one key, which has to be there already."""
    name, _, value = change.partition("=")
    *tables, key = name.strip().split(".")
    table: Any = raw
    for part in tables:
        table = table.get(part) if isinstance(table, dict) else None
    if not isinstance(table, dict) or key not in table:
        raise TrainingError(f"--set {change}: the recipe has no key {name.strip()}")
    try:
        table[key] = tomllib.loads(f"value = {value}")["value"]
    except ValueError as error:
        raise TrainingError(f"--set {change}: the value is not TOML: {error}") from error


def parse_recipe(raw: Mapping[str, Any]) -> Recipe:
    """A recipe from the nested dict that TOML or JSON gives.

    Raises:
        TrainingError: a key is missing, unknown, of the wrong type or out of range; the message names it.
    """
    recipe = _parse(Recipe, {"finetune": None, **raw}, "")
    if recipe.origin and not isinstance(recipe.objective, LanguageRecipe):
        raise TrainingError('finetune goes with objective.kind = "language" alone')
    if isinstance(recipe.objective, LanguageRecipe) != isinstance(recipe.data, TextRecipe):
        raise TrainingError('objective.kind = "language" and data.kind = "text" go together')
    if isinstance(recipe.objective, VqRecipe | TextToImageRecipe) != isinstance(recipe.data, CaptionedRecipe):
        raise TrainingError('data.kind = "captioned" goes with objective.kind = "vq" or "text-to-image" alone')
    if isinstance(recipe.objective, AudioRecipe) != isinstance(recipe.data, SpeechRecipe):
        raise TrainingError('objective.kind = "audio" and data.kind = "speech" go together')
    _check_ranges(recipe)
    return recipe


def _parse(spec: type[Spec], raw: object, where: str) -> Spec:
    if not isinstance(raw, Mapping):
        raise TrainingError(f"{where or 'recipe'}: a table expected")
    hints = get_type_hints(spec)
    prefix = f"{where}." if where else ""
    for key in raw.keys() - hints.keys():
        raise TrainingError(f"unknown key {prefix}{key} (known: {', '.join(hints)})")
    for key in hints:
        if key not in raw:
            raise TrainingError(f"missing key {prefix}{key}")
    return spec(**{key: _value(hint, raw[key], f"{prefix}{key}") for key, hint in hints.items()})


def _value(hint: Any, raw: Any, where: str) -> Any:
    """One value of the declared type; only the types that the dataclasses above use are known."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is types.UnionType and where == "finetune":
        return _finetune(raw, where)
    if origin is types.UnionType:
        return _objective(raw, where) if where == "objective" else _data(raw, where)
    if dataclasses.is_dataclass(hint):
        return _parse(hint if isinstance(hint, type) else type(hint), raw, where)
    if origin is Literal:
        return _literal(arguments, raw, where)
    if origin is tuple:
        return _tuple(arguments, raw, where)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _mapping(arguments[1], raw, where)
    if hint is float and type(raw) is int:
        return float(raw)
    if type(raw) is not hint:
        raise TrainingError(f"{where} must be {hint.__name__}, got {raw!r}")
    return raw


def _objective(raw: Any, where: str) -> ObjectiveRecipe:
    kind = raw.get("kind") if isinstance(raw, Mapping) else None
    if not isinstance(kind, str) or kind not in OBJECTIVES:
        raise TrainingError(f"{where}.kind must be one of {', '.join(OBJECTIVES)}, got {kind!r}")
    return _parse(OBJECTIVES[kind], raw, where)


def _data(raw: Any, where: str) -> DataRecipe | TextRecipe | CaptionedRecipe | SpeechRecipe:
    """A table with `kind = "text"` names texts, one without a kind pictures."""
    if isinstance(raw, Mapping) and raw.get("kind") == "captioned":
        return _parse(CaptionedRecipe, raw, where)
    if isinstance(raw, Mapping) and raw.get("kind") == "speech":
        return _parse(SpeechRecipe, raw, where)
    if isinstance(raw, Mapping) and "kind" in raw:
        return _parse(TextRecipe, raw, where)
    return _parse(DataRecipe, raw, where)


def _finetune(raw: Any, where: str) -> Mapping[str, str] | None:
    """`{from = NAME}`; a plain mapping, because a field can't be called `from`."""
    if raw is None:
        return None
    if not isinstance(raw, Mapping) or raw.keys() != {"from"} or not isinstance(raw["from"], str):
        raise TrainingError(f"{where} must be {{from = NAME}}, the name of a weights folder, got {raw!r}")
    return dict(raw)


def _literal(choices: tuple[Any, ...], raw: Any, where: str) -> Any:
    if raw not in choices:
        raise TrainingError(f"{where} must be one of {', '.join(map(str, choices))}, got {raw!r}")
    return raw


def _tuple(arguments: tuple[Any, ...], raw: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(raw, list | tuple):
        raise TrainingError(f"{where} must be an array, got {raw!r}")
    hints = [arguments[0]] * len(raw) if arguments[-1] is Ellipsis else list(arguments)
    if len(hints) != len(raw):
        raise TrainingError(f"{where} must have {len(hints)} entries, got {len(raw)}")
    return tuple(_value(hint, item, f"{where}[{i}]") for i, (hint, item) in enumerate(zip(hints, raw, strict=True)))


def _mapping(item: Any, raw: Any, where: str) -> dict[str, Any]:
    if not isinstance(raw, Mapping):
        raise TrainingError(f"{where} must be a table, got {raw!r}")
    if item is Any:
        return dict(raw)
    return {key: _gate(value, f"{where}.{key}") for key, value in raw.items()}


def _gate(raw: Any, where: str) -> Gate:
    """`{min = x}` or `{max = x}`; also `{bound, value}`, the form that `Recipe.as_dict` writes."""
    if isinstance(raw, Mapping) and raw.keys() == {"bound", "value"}:
        return _parse(Gate, raw, where)
    if not isinstance(raw, Mapping) or len(raw) != 1 or next(iter(raw)) not in ("min", "max"):
        raise TrainingError(f"{where} must be {{min = x}} or {{max = x}}, got {raw!r}")
    bound, value = next(iter(raw.items()))
    return Gate(bound, _value(float, value, f"{where}.{bound}"))


def _check_ranges(recipe: Recipe) -> None:
    positive: Callable[[float], bool] = lambda value: value > 0  # noqa: E731  # reads as a table below
    share: Callable[[float], bool] = lambda value: 0 <= value < 1  # noqa: E731
    rules: list[tuple[str, float, Callable[[float], bool]]] = [
        ("steps", recipe.steps, positive),
        ("batch_size", recipe.batch_size, positive),
        ("learning_rate", recipe.learning_rate, positive),
        ("threads", recipe.threads, positive),
        ("ema_decay", recipe.ema_decay, share),
        ("seed", recipe.seed, lambda value: 0 <= value < 2**53),
        ("every.log", recipe.every.log, positive),
        ("every.evaluate", recipe.every.evaluate, positive),
        ("every.snapshot", recipe.every.snapshot, positive),
        ("guards.max_rollbacks", recipe.guards.max_rollbacks, lambda value: value >= 0),
        ("guards.min_class_share", recipe.guards.min_class_share, share),
        ("guards.collapse_patience", recipe.guards.collapse_patience, positive),
    ]
    if isinstance(recipe.objective, GanRecipe):
        rules.append(("objective.penalty_every", recipe.objective.penalty_every, positive))
        rules.append(("objective.gamma", recipe.objective.gamma, lambda value: value >= 0))
        rules.append(("objective.augment.mirror", recipe.objective.augment.mirror, lambda value: 0 <= value < 0.5))
        rules.append(("objective.augment.shift", recipe.objective.augment.shift, lambda value: value >= 0))
        rules.append(("objective.augment.shifted", recipe.objective.augment.shifted, share))
        rules.append(("objective.style_mixing", recipe.objective.style_mixing, share))
        for name, weight in dataclasses.asdict(recipe.objective.information).items():
            rules.append((f"objective.information.{name}", weight, lambda value: value >= 0))
        rules.append(("objective.unrolled", recipe.objective.unrolled, lambda value: 0 <= value <= MAX_UNROLLED))
        rules.append(("objective.clip", recipe.objective.clip, lambda value: value >= 0))
    if isinstance(recipe.objective, VaeRecipe):
        rules.append(("objective.kl_warmup", recipe.objective.kl_warmup, lambda value: value >= 0))
        rules.append(("objective.kl_weight", recipe.objective.kl_weight, lambda value: 0 < value <= 1))
        rules.append(("objective.guide_weight", recipe.objective.guide_weight, lambda value: value >= 0))
        rules.append(("objective.guide_from", recipe.objective.guide_from, lambda value: value >= 0))
        rules.append(("objective.guide_every", recipe.objective.guide_every, positive))
    if isinstance(recipe.objective, LanguageRecipe):
        rules.append(("objective.warmup", recipe.objective.warmup, lambda value: value >= 0))
        rules.append(("objective.floor", recipe.objective.floor, share))
        rules.append(("objective.clip", recipe.objective.clip, positive))
    if isinstance(recipe.objective, VqRecipe):
        rules.append(("objective.commitment", recipe.objective.commitment, lambda value: value >= 0))
        rules.append(("objective.decay", recipe.objective.decay, share))
        rules.append(("objective.rarest", recipe.objective.rarest, lambda value: value >= 0))
        rules.append(("objective.restart_until", recipe.objective.restart_until, lambda value: value >= 0))
    if isinstance(recipe.objective, TextToImageRecipe):
        rules.append(("objective.caption_dropout", recipe.objective.caption_dropout, share))
        rules.append(("objective.warmup", recipe.objective.warmup, lambda value: value >= 0))
        rules.append(("objective.clip", recipe.objective.clip, positive))
        rules.append(("objective.guidance", min(recipe.objective.guidance, default=-1), lambda value: value >= 0))
    if isinstance(recipe.data, CaptionedRecipe):
        rules.append(("data.held_out", recipe.data.held_out, lambda value: 0 < value < 1))
        rules.append(("data.seed", recipe.data.seed, lambda value: 0 <= value < 2**53))
        rules.append(("data.scenes", recipe.data.scenes, positive))
        rules.append(("data.emoji_captions", recipe.data.emoji_captions, lambda value: value >= 0))
        rules.append(("data.rarest", recipe.data.rarest, positive))
        rules.append(("data.first_word", recipe.data.first_word, positive))
        rules.append(("data.caption_length", recipe.data.caption_length, positive))
    if isinstance(recipe.objective, AudioRecipe):
        rules.append(("objective.warmup", recipe.objective.warmup, lambda value: value >= 0))
        rules.append(("objective.clip", recipe.objective.clip, positive))
        rules.append(("objective.ear_weight", recipe.objective.ear_weight, lambda value: value >= 0))
    if isinstance(recipe.data, SpeechRecipe):
        rules.append(("data.sample_rate", recipe.data.sample_rate, positive))
        rules.append(("data.hop", recipe.data.hop, lambda value: 0 < value <= MAX_HOP))
        hop = max(1, recipe.data.hop)
        rules.append(("data.window", recipe.data.window, lambda value: value > 0 and value % hop == 0))
        rules.append(("data.longest", recipe.data.longest, positive))
        rules.append(("data.held_out_share", recipe.data.held_out_share, share))
        rules.append(("data.validation_share", recipe.data.validation_share, share))
        rules.append(("data.split_seed", recipe.data.split_seed, lambda value: 0 <= value < 2**53))
    if isinstance(recipe.data, TextRecipe):
        rules.append(("data.window", recipe.data.window, positive))
    for name, value, rule in rules:
        if not rule(value):
            raise TrainingError(f"{name} is out of range: {value!r}")
