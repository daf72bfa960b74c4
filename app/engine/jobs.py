"""The plain values that the HTTP side and the device worker exchange: no torch, no asyncio, no HTTP.

A value here is built of ints, strings and numpy arrays, so that it means the same in a thread and across a socket.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Latents: TypeAlias = NDArray[np.float32]
Labels: TypeAlias = NDArray[np.int64]
Kind: TypeAlias = Literal["latent", "sequence"]
# What a model makes something of: pictures of latents, of codes or of captions; text of text; sound of a transcript.
Task: TypeAlias = Literal["latents", "codes", "captions", "text", "speech"]
MAKES: Mapping[Task, str] = {
    "latents": "pictures",
    "codes": "pictures of codes",
    "captions": "pictures of captions",
    "text": "text",
    "speech": "speech",
}
Pictures: TypeAlias = NDArray[np.uint8]
Rows: TypeAlias = NDArray[Any]  # latents or pictures, one a row
Condition: TypeAlias = NDArray[np.float32]

MAX_STYLES = 64  # of a style-based generator
ENCODER = "/encode"  # follows the name of a model in that of its encoder: no weights folder can be called so
SAMPLER, INPAINTER = "/mcmc", "/inpaint"  # likewise, of what improves its latents by gradients


def encoder_of(model: str) -> str:
    """The name under which a model's encoder takes jobs and is counted."""
    return model + ENCODER


def sampler_of(model: str) -> str:
    """The name under which a model's latents are sampled anew, as its critic likes them."""
    return model + SAMPLER


def inpainter_of(model: str) -> str:
    """The name under which latents are found whose pictures look like what is known of one."""
    return model + INPAINTER


@dataclass(frozen=True, slots=True)
class LatentJob:
    """Rows for one model, or for its encoder; what becomes of row i depends on row i alone.

    Attributes:
        model: name of a served latent model, which makes pictures of latents; or `encoder_of` one, which makes latents
            of pictures.
        inputs: latents [n, *latent_shape], float32 and finite; or pictures [n, H, W, C], uint8.
        labels: [n], each in [0, num_classes); zeros for an unconditional model.
        client: whose job it is; clients take turns.
        deadline: `time.monotonic` of this machine; not begun by then, it is dropped.
    """

    model: str
    inputs: Latents | Pictures
    labels: Labels
    client: str = ""
    deadline: float = math.inf

    @property
    def rows(self) -> int:
        """How many rows the job asks for."""
        return len(self.labels)

    @property
    def work(self) -> int:
        """How many times a row of it is computed, in all."""
        return self.rows

    @property
    def arrays(self) -> tuple[Rows, ...]:
        """What travels beside its other fields, in the order of the constructor."""
        return self.inputs, self.labels


@dataclass(frozen=True, slots=True)
class RefineJob(LatentJob):
    """Latents that are improved by gradients, a step at a time; what becomes of row i depends on row i alone.

    Attributes:
        model: `sampler_of` a model, or `inpainter_of` one.
        inputs: latents [n, *latent_shape] to begin with.
        steps: of each row.
        seeds: [n] int64, of each row's noise; nothing for an inpainter, which has none.
        target: [H, W, C] uint8, the picture that an inpainter looks for; nothing for a sampler.
        weights: [H, W] float32, how much each of its pixels counts, adding up to 1; nothing for a sampler.
    """

    steps: int = 1
    seeds: Labels = field(default_factory=lambda: np.zeros(0, np.int64))
    target: Pictures = field(default_factory=lambda: np.zeros((0, 0, 0), np.uint8))
    weights: Latents = field(default_factory=lambda: np.zeros((0, 0), np.float32))

    @property
    def work(self) -> int:
        """How many times a row of it is computed, in all."""
        return self.rows * self.steps

    @property
    def arrays(self) -> tuple[Rows, ...]:
        """What travels beside its other fields, in the order of the constructor."""
        return self.inputs, self.labels, self.seeds, self.target, self.weights


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one sequence is sampled; the defaults are the network's own distribution.

    Attributes:
        temperature: 0 is greedy.
        top_k: keep so many of the likeliest tokens; 0 is off.
        top_p: keep the likeliest tokens up to this mass; 1 is off.
        min_p: drop tokens below this fraction of the likeliest one's probability; 0 is off.
        repetition_penalty: divides (or multiplies, when negative) the logits of tokens seen before; 1 is off.
        frequency_penalty: taken off a token's logit for each time that it was generated.
        presence_penalty: taken off once if it was generated at all.
        bias: added to the logits of these tokens.
        logprobs: report the log probabilities of the chosen and of so many likeliest tokens; None reports none.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    bias: tuple[tuple[int, float], ...] = ()
    logprobs: int | None = None

    @property
    def penalised(self) -> bool:
        """Whether tokens seen before change the logits."""
        return self.repetition_penalty != 1.0 or self.frequency_penalty != 0.0 or self.presence_penalty != 0.0


@dataclass(frozen=True, slots=True)
class Grammar:
    """What a text has to look like; compiled by the worker.

    Attributes:
        kind: how to read `text`.
        text: a JSON schema, as JSON; a regular expression; "" for any JSON object.
    """

    kind: Literal["json_schema", "regex", "json_object"]
    text: str = ""


@dataclass(frozen=True, slots=True)
class SequenceJob:
    """One sequence to be continued by a model: one choice of one prompt.

    Attributes:
        model: name of a served sequence model.
        prompt: token ids, at least one.
        max_tokens: how many to generate; prompt and these fit in the model's max_length.
        seed: of the counter-based noise.
        sampling: how to draw.
        stop_tokens: ids that end the sequence and are not part of it.
        min_tokens: so many tokens are drawn before a stop token may be.
        grammar: what the generated text has to look like; None for anything.
        score_prompt: run the prompt token by token, so that each but the first gets log probabilities too.
        score_from: the first token that is run so; those before it are read at once, and get none.
        condition: [length] numbers that the model is told besides tokens, finite; None for its default.
        request: whose sequence it is; sequences of one request share its slots. 0: a request of its own.
        client: whose request it is; clients take turns.
        deadline: `time.monotonic` of this machine; not begun by then, it is dropped.
    """

    model: str
    prompt: tuple[int, ...]
    max_tokens: int
    seed: int
    sampling: Sampling = Sampling()
    stop_tokens: tuple[int, ...] = ()
    min_tokens: int = 0
    grammar: Grammar | None = None
    score_prompt: bool = False
    score_from: int = 1
    condition: Condition | None = None
    request: int = 0
    client: str = ""
    deadline: float = math.inf

    @property
    def forced(self) -> tuple[int, ...]:
        """The part of the prompt that is run token by token."""
        return self.prompt[self.score_from :] if self.score_prompt else ()

    @property
    def prefix(self) -> tuple[int, ...]:
        """The part of the prompt that is read at once."""
        return self.prompt[: self.score_from] if self.score_prompt else self.prompt

    @property
    def outputs(self) -> int:
        """How many tokens will come out at most, forced ones included."""
        return len(self.forced) + self.max_tokens


@dataclass(frozen=True, slots=True)
class Logprob:
    """Log probability of a token and of the likeliest tokens in its place."""

    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Chunk:
    """What one tick adds to a sequence.

    Attributes:
        job: the job's number.
        tokens: new ids, forced ones first.
        logprobs: one a token, when asked for.
        finish: "stop" (a stop token) or "length"; None while it goes on.
        error: why the sequence failed; None while all is well.
        refused: what is wrong with the job's grammar, when it is that.
        busy: nothing is wrong with it: too many others are being compiled, which `refused` says.
    """

    job: int
    tokens: tuple[int, ...]
    logprobs: tuple[Logprob, ...] = ()
    finish: Literal["stop", "length"] | None = None
    error: str | None = None
    refused: str | None = None
    busy: bool = False


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """What a device worker needs to know to start; sent to it as its first frame.

    Attributes:
        weights: folder of weights folders.
        models: names to load; empty for all.
        device: auto, cpu, cuda or cuda:i.
        dtype: precision: auto, fp32, bf16, int8 or int4, for all or as NAME=PRECISION, as `app.dtypes` reads it.
        threads: compute threads of a CPU worker; 0: one a core.
        max_batch: largest batch of a latent model.
        max_slots: sequences that a sequence model runs at once.
        memory_limit: bytes for all models; 0 for what the device has.
        models_module: the operator's module of own architectures, if any.
        skip_broken: report a broken weights folder instead of refusing to start.
    """

    weights: str
    models: tuple[str, ...] = ()
    device: str = "auto"
    dtype: str = "auto"
    threads: int = 0
    max_batch: int = 64
    max_slots: int = 32
    memory_limit: int = 0
    models_module: str | None = None
    skip_broken: bool = False


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What the HTTP side knows of a model, as measured by the worker that loaded it.

    Attributes:
        name: the weights folder's name.
        kind: "latent" or "sequence".
        architecture: key in the model dicts.
        digest: sha256 over architecture, its arguments and its weights.
        dtype: precision of its weights, as torch names it; int8 and int4 are read by products in bfloat16.
        threads: that one batch or step is computed by.
        parameters: number of parameters.
        memory_bytes: parameters and buffers on the device.
        created: modification time of the weights, Unix seconds.
        latent_shape: shape of one latent.
        num_classes: 0 for an unconditional model.
        labels: class names; empty when they have none.
        styles: rows of a latent of a style-based generator, coarse to fine; 0 for any other model.
        image_shape: (height, width, channels).
        buckets: batch sizes that give every row the same bytes, ascending.
        seconds: of compute for a batch of each bucket, measured at warm-up; of a sequence model one step of all slots.
        encode_buckets: batch sizes in which pictures become latents; empty for a model without an encoder.
        encode_seconds: of compute for a batch of each.
        encode_threads: that one such batch is computed by.
        critic: sha256 of the network that a sampler follows; "" for a model without one.
        sample_seconds: of one step of one row of a sampler; 0 for a model without one.
        inpaint_seconds: likewise of an inpainter; 0 for a model without gradients.
        vocab_size: tokens of a sequence model.
        max_length: positions in a slot, prompt included.
        slots: sequences that run at once.
        tokenizer: path of the verified tokenizer.json.
        stop_tokens: ids that end a sequence, the one that ends a text first.
        start_tokens: ids that a prompt given as text begins with.
        chat_template: path of the verified chat_template.jinja; "" for a model that does not chat.
        condition_length: most numbers that a sequence may be told besides tokens.
        output: what the tokens stand for, as config.json says it; empty for text.
        codes: of a picture model whose latents are the numbers of codes, how many there are; 0 for any other.
        codes_from: the model that writes such codes, if one is served.
        controls: names for single numbers of a latent, with index, min, max and description.
        card: the model card.
        error: why the model could not be loaded; None when it is served.
    """

    name: str
    kind: Kind = "latent"
    architecture: str = ""
    digest: str = ""
    dtype: str = "float32"
    threads: int = 1
    parameters: int = 0
    memory_bytes: int = 0
    created: int = 0
    latent_shape: tuple[int, ...] = ()
    num_classes: int = 0
    labels: tuple[str, ...] = ()
    styles: int = 0
    image_shape: tuple[int, int, int] = (0, 0, 0)
    buckets: tuple[int, ...] = ()
    seconds: tuple[float, ...] = ()
    encode_buckets: tuple[int, ...] = ()
    encode_seconds: tuple[float, ...] = ()
    encode_threads: int = 1
    critic: str = ""
    sample_seconds: float = 0.0
    inpaint_seconds: float = 0.0
    vocab_size: int = 0
    max_length: int = 0
    slots: int = 0
    tokenizer: str = ""
    stop_tokens: tuple[int, ...] = ()
    start_tokens: tuple[int, ...] = ()
    chat_template: str = ""
    condition_length: int = 0
    output: Mapping[str, Any] = field(default_factory=dict)
    codes: int = 0
    codes_from: str = ""
    controls: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    card: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None

    @property
    def identity(self) -> str:
        """`name@digest`, short enough for a header."""
        return f"{self.name}@{self.digest[:12]}"

    @property
    def task(self) -> Task:
        """What the model is asked for, and with what."""
        if self.kind == "latent":
            return "codes" if self.codes else "latents"
        tasks: Mapping[str, Task] = {"image": "captions", "audio": "speech"}
        return tasks.get(self.output.get("kind", ""), "text")

    @property
    def encodes(self) -> bool:
        """Whether the model turns pictures into latents too."""
        return bool(self.encode_buckets)

    @property
    def step_seconds(self) -> Mapping[str, float]:
        """Of one step of one row of what improves its latents, by the names of those lanes that it has."""
        measured = {sampler_of(self.name): self.sample_seconds, inpainter_of(self.name): self.inpaint_seconds}
        return {name: seconds for name, seconds in measured.items() if seconds}

    @property
    def inpaints(self) -> bool:
        """Whether the model fills holes of pictures."""
        return bool(self.inpaint_seconds)

    @property
    def as_encoder(self) -> "ModelInfo":
        """The same model with the precision and threads of its encoder, which is in float32 always."""
        return replace(self, dtype="float32", threads=self.encode_threads)


@dataclass(frozen=True, slots=True)
class Runtime:
    """What else decides an output besides the model: the parts of the seed contract that the operator chose."""

    device: str
    torch: str

    def __str__(self) -> str:
        return f"{self.device}; torch {self.torch}"

    def of(self, model: ModelInfo) -> str:
        """The runtime of one model, for a header."""
        return f"{self.device}; {model.dtype}; torch {self.torch}; threads={model.threads}"


@dataclass(frozen=True, slots=True)
class Part:
    """Some rows of one job, done or failed.

    Attributes:
        job: the job's number.
        offset: first row within the job.
        count: number of rows.
        error: why these rows failed; None when their pictures follow.
    """

    job: int
    offset: int
    count: int
    error: str | None = None
