"""Requests that know what they must get: pictures that show their latent, latents, texts that go on from a letter."""

import base64
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app import wav
from app.latents import from_seed
from app.plan import digest
from tests import fake_outputs, fakes
from tests.chaos import poison

PICTURES, TEXT, ENCODE = "/v1/images/generate", "/v1/text/complete", "/v1/images/encode"
SPEECH = "/v1/audio/generate"
SIDE = 4  # of the pictures that "reader" takes
LARGE = 200  # times as large: files of 640 kB, which the server reads in a thread


@dataclass(frozen=True)
class Ask:
    """A request.

    Attributes:
        path: of the route.
        body: what is sent as JSON.
        own: whether the body of a 200 is what this request must get.
        headers: beyond those that every request has.
        file: a picture that is the body, in place of JSON.
    """

    path: str
    body: Mapping[str, Any]
    own: Callable[[bytes], bool]
    headers: Mapping[str, str] = field(default_factory=dict)
    file: bytes | None = None

    @property
    def stream(self) -> bool:
        """Whether the answer comes as events."""
        return bool(self.body.get("stream")) and self.path != SPEECH

    @property
    def sent(self) -> bytes:
        """The body as it travels."""
        return json.dumps(self.body).encode() if self.file is None else self.file

    @property
    def media_type(self) -> str:
        """What the body is declared as."""
        return "application/json" if self.file is None else "image/png"

    def within(self, seconds: float) -> "Ask":
        """The same with a deadline."""
        return replace(self, headers={**self.headers, "X-Request-Timeout": str(seconds)})

    def raw(self) -> bytes:
        """Head and body as they travel, for those who send only a part of them; the connection ends with the answer."""
        body = self.sent
        head = [f"POST {self.path} HTTP/1.1", "Host: genserve", "Connection: close", f"Content-Type: {self.media_type}"]
        head += [f"Content-Length: {len(body)}", *(f"{name}: {value}" for name, value in self.headers.items())]
        return "\r\n".join([*head, "", ""]).encode() + body


def picture(seed: int, n: int = 1, model: str = "poisoned") -> Ask:
    """Pictures from a seed; several come one by one, as JSON."""
    latents = np.stack([from_seed(seed + j, (fakes.LATENT_DIM,), 0)[0] for j in range(n)])
    return _pictures({"model": model, "seed": seed, "n": n}, latents)


def shown(*latent: float) -> Ask:
    """One picture of a latent that is given, poisonous or not."""
    latents = np.zeros((1, fakes.LATENT_DIM), np.float32)
    latents[0, : len(latent)] = latent
    return _pictures({"model": "poisoned", "latents": latents.tolist()}, latents)


def slow(seconds: float, mark: float = 0.0) -> Ask:
    """One picture that holds its batch up; the mark makes it another's than its like."""
    return shown(poison.SLOW, seconds, mark)


def _pictures(body: dict[str, Any], latents: NDArray[np.float32]) -> Ask:
    def own(answer: bytes) -> bool:
        files = [answer] if len(latents) == 1 else [base64.b64decode(i["base64"]) for i in json.loads(answer)["images"]]
        expected = (
            poison.wide(latents)
            if body["model"] == "wide"
            else fakes.echo(latents, np.zeros(len(latents), np.int64), num_classes=0)
        )
        return len(files) == len(latents) and all(map(_shows, files, expected))

    return Ask(PICTURES, body, own, {"Accept": "image/png" if len(latents) == 1 else "application/json"})


def _shows(file: bytes, expected: NDArray[np.uint8]) -> bool:
    with Image.open(io.BytesIO(file)) as image:
        pixels = np.asarray(image)
    return np.array_equal(pixels.reshape(expected.shape) if pixels.size == expected.size else pixels, expected)


def caption(prompt: str, n: int = 1) -> Ask:
    """Pictures of a caption, the likeliest each time."""
    body = {"model": "scribe", "prompt": prompt, "temperature": 0.0, "n": n, "seed": 1}

    def own(answer: bytes) -> bool:
        (expected,) = fake_outputs.painted([fake_outputs.written(prompt)])
        files = [base64.b64decode(item["base64"]) for item in json.loads(answer)["images"]]
        return len(files) == n and all(_shows(file, expected) for file in files)

    return Ask(PICTURES, body, own, {"Accept": "application/json"})


def speech(text: str, seconds: float = 0.2, *, stream: bool = False) -> Ask:
    """Sound that rises as its letters say, poisonous or not."""
    body = {"model": "humming", "prompt": text, "seconds": seconds, "seed": 1, "stream": stream}
    expected = wav.MU_LAW[fake_outputs.hummed(text, round(seconds * fake_outputs.RATE))].tobytes()
    return Ask(SPEECH, body, lambda answer: answer.startswith(b"RIFF") and answer[-len(expected) :] == expected)


def encode(seed: int, *, first: int | None = None, scale: int = 1) -> Ask:
    """A picture to be turned into latents, enlarged so many times.

    Its first pixel may be one of `fakes.POISON`.
    """
    made = np.random.default_rng(seed).integers(0, 250, (1, SIDE, SIDE, 1), np.uint8)
    made[0, 0, 0, 0] = made[0, 0, 0, 0] if first is None else first
    label = seed % len(fakes.LABELS)
    (expected,) = fakes.encoded(made, np.array([label]))

    def own(answer: bytes) -> bool:
        said = json.loads(answer)
        return bool(said["latents"] == expected.tolist() and said["latents_sha256"] == digest(expected))

    return Ask(f"{ENCODE}?model=reader&label={label}", {}, own, file=_file(made[0, :, :, 0], scale))


def _file(pixels: NDArray[np.uint8], scale: int) -> bytes:
    """A PNG that no compression has made smaller, so that its size is known."""
    out = io.BytesIO()
    Image.fromarray(pixels.repeat(scale, 0).repeat(scale, 1)).save(out, "png", compress_level=0)
    return out.getvalue()


def upload(file: bytes) -> Ask:
    """A file that must not be taken for a picture."""
    return Ask(f"{ENCODE}?model=reader&label=1", {}, lambda _: False, file=file)


def text(last: str, count: int, *, mark: str = "", stream: bool = False, n: int = 1, seed: int | None = None) -> Ask:
    """A text that goes on from a letter; `mark` makes the model misbehave."""
    body = {"model": "cycle", "prompt": f"{mark}{last}", "max_tokens": count, "n": n, "stream": stream}
    expected = [poison.cycle(last, count)] * n

    def own(answer: bytes) -> bool:
        return (events(answer)[0] if stream else _texts(answer)) == expected

    return Ask(TEXT, body if seed is None else {**body, "seed": seed}, own)


def _texts(answer: bytes) -> list[str]:
    return [choice["text"] for choice in json.loads(answer)["choices"]]


def events(answer: bytes) -> tuple[list[str], bool, str]:
    """What a stream said: the text of each choice, whether it came to its end, and the code of its error, if any."""
    texts: dict[int, str] = {}
    done, code = False, ""
    for event in answer.decode().split("\n\n"):
        if event.startswith("event: error"):
            code = json.loads(event.partition("data: ")[2])["code"]
        elif event == "data: [DONE]":
            done = True
        elif event.startswith("data: "):
            piece = json.loads(event.removeprefix("data: "))
            texts[piece["index"]] = texts.get(piece["index"], "") + piece["text"]
    return [texts[index] for index in sorted(texts)], done, code


def begun(answer: bytes, ask: Ask) -> bool:
    """Whether what came of a stream that was broken off is the beginning of what this request must get."""
    prompt, count = ask.body["prompt"], ask.body["max_tokens"]
    said, whole = events(answer)[0], poison.cycle(prompt[-1], count)
    return len(said) <= ask.body["n"] and all(whole.startswith(text) for text in said)
