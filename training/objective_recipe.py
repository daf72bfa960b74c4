"""The table `[objective]` of a recipe: what is minimised, and how; a dataclass for each kind."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from training.ranges import NotNegative, Positive, Share, at_most, below, not_negative, positive

MAX_UNROLLED = 100  # all of the steps are held in memory at once


@dataclass(frozen=True)
class ClassifierRecipe:
    """Cross-entropy with AdamW; pictures are flipped and shifted at random.

    Attributes:
        half: which training pictures are seen: "both" halves, or those of "even" or "odd" number alone.
    """

    kind: Literal["classifier"]
    betas: Annotated[tuple[float, float], not_negative, below(1)]
    weight_decay: NotNegative[float]
    label_smoothing: Share
    half: Literal["both", "even", "odd"]


@dataclass(frozen=True)
class AugmentRecipe:
    """Random changes of what the discriminator sees; below a half, so that generated pictures do not take them on.

    Attributes:
        mirror: probability with which a picture is mirrored.
        shift: pixels by which it is shifted at most, each way.
        shifted: probability with which it is shifted at all.
    """

    mirror: Annotated[NotNegative[float], below(0.5)]
    shift: NotNegative[int]
    shifted: Share


@dataclass(frozen=True)
class InformationRecipe:
    """Weights of InfoGAN's bounds on what pictures tell of their categories and of their codes; 0 for other GANs."""

    categories: NotNegative[float]
    codes: NotNegative[float]


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
    betas: Annotated[tuple[float, float], not_negative, below(1)]
    loss: Literal["saturating", "non-saturating", "hinge", "wasserstein", "relativistic"]
    penalty: Literal["none", "r1", "r1+r2", "interpolated"]
    gamma: NotNegative[float]
    penalty_every: Positive[int]
    augment: AugmentRecipe
    style_mixing: Share
    information: InformationRecipe
    unrolled: Annotated[NotNegative[int], at_most(MAX_UNROLLED)]
    clip: NotNegative[float]
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
    betas: Annotated[tuple[float, float], not_negative, below(1)]
    kl_warmup: NotNegative[int]
    kl_weight: Annotated[Positive[float], at_most(1)]
    judge: str
    guide: str
    guide_weight: NotNegative[float]
    guide_every: Positive[int]
    guide_from: NotNegative[int]


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
    betas: Annotated[tuple[float, float], not_negative, below(1)]
    weight_decay: NotNegative[float]
    warmup: NotNegative[int]
    floor: Share
    clip: Positive[float]
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
    betas: Annotated[tuple[float, float], not_negative, below(1)]
    commitment: NotNegative[float]
    decay: Share
    rarest: NotNegative[float]
    restart_until: NotNegative[int]


@dataclass(frozen=True)
class TextToImageRecipe:
    """Cross-entropy of a picture's codes behind its caption, with AdamW.

    Attributes:
        decoder: weights folder of the discrete autoencoder whose codes they are.
        caption_dropout: share of captions that are replaced by padding.
        weight_decay: of matrices; gains are left alone.
        warmup: steps over which the learning rate rises.
        clip: bound on the norm of the gradient.
        judge: folder of the classifier that measures the result; on seen combinations it chooses how it is drawn.
        guidance: scales at which pictures are drawn and measured, each at every one of the temperatures.
        temperature: the best pair of both becomes the network's own.
    """

    kind: Literal["text-to-image"]
    betas: Annotated[tuple[float, float], not_negative, below(1)]
    decoder: str
    caption_dropout: Share
    weight_decay: NotNegative[float]
    warmup: NotNegative[int]
    clip: Positive[float]
    judge: str
    guidance: Annotated[tuple[float, ...], not_negative]
    temperature: Annotated[tuple[float, ...], positive]


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
    betas: Annotated[tuple[float, float], not_negative, below(1)]
    weight_decay: NotNegative[float]
    warmup: NotNegative[int]
    clip: Positive[float]
    ear_weight: NotNegative[float]


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
