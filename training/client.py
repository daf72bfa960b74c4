"""Asks a running service for pictures over HTTP, as any client would; knows nothing of what is measured on them.

The standard library's client and a few threads are enough: a request carries 64 pictures, so their number is small.
"""

import base64
import io
import json
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from training.data import to_samples
from training.errors import TrainingError
from training.pictures import MODES

PER_REQUEST = 64  # the service's limit
IN_FLIGHT = 4
TIMEOUT = 120.0  # seconds without a byte
MAX_TRIES = 20  # of a request that the service puts off
MAX_WAIT = 60.0  # seconds before the next try, whatever Retry-After says
MAX_BYTES = 256 << 20  # of an answer
PUT_OFF = (429, 503)


@dataclass(frozen=True)
class Served:
    """What the service says about a model of pictures.

    Attributes:
        shape: of a picture, (C, H, W).
        num_classes: 0 for an unconditional model.
    """

    name: str
    digest: str
    shape: tuple[int, int, int]
    num_classes: int
    labels: tuple[str, ...]
    card: Mapping[str, Any]

    @property
    def identity(self) -> str:
        """Name and digest, as answers carry them."""
        return f"{self.name}@{self.digest[:12]}"


@dataclass(frozen=True)
class Order:
    """One request: pictures of one label from consecutive seeds, and where in the whole they belong."""

    label: int | None
    seed: int
    places: Tensor


class Client:
    """One model of one service.

    Attributes:
        runtimes: what the answers said they were computed on (`X-Genserve-Runtime`).
    """

    def __init__(self, url: str, model: str) -> None:
        """Nothing is asked yet.

        Raises:
            TrainingError: the URL is none of a service.
        """
        try:
            parts = urlsplit(url)
            good = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1) > 0
        except ValueError:
            good = False
        if not good or parts.query or parts.fragment or parts.username is not None or url != "".join(url.split()):
            raise TrainingError(f"--url {url!r}: the address of a service expected, such as http://127.0.0.1:8000")
        self._scheme, self._host, self._port, self._path = parts.scheme, parts.hostname or "", parts.port, parts.path
        self._url, self._model, self._stop = url, model, threading.Event()
        self.runtimes: set[str] = set()

    def describe(self) -> Served:
        """What the service says about the model.

        Raises:
            TrainingError: it can't be reached, does not serve the model, or this makes no pictures.
        """
        _, body = self.ask("GET", f"/v1/models/{quote(self._model, safe='')}")
        try:
            card = json.loads(body)["genserve"]
            if card["status"] != "ready" or card["kind"] != "latent":
                raise TrainingError(f"{self._model}: the service makes no pictures with it")
            image = card["image"]
            shape = (int(image["channels"]), int(image["height"]), int(image["width"]))
            return Served(
                self._model, str(card["digest"]), shape, int(card["num_classes"]), tuple(card["labels"]), card
            )
        except (ValueError, KeyError, TypeError) as error:
            raise TrainingError(f"{self._url}: GET /v1/models is not answered as genserve does ({error!r})") from None

    def pictures(self, served: Served, labels: Tensor, seed: int, truncation: float = 1.0) -> Tensor:
        """Pictures of these labels [N], from seeds `seed` to `seed + N - 1`: [N, C, H, W] in [-1, 1] by 8-bit levels.

        A few requests are under way at once; one that the service puts off is sent again after as long as it says.

        Raises:
            TrainingError: a request fails or is put off too often, or the answers are not those of one model.
        """
        out = torch.empty(len(labels), *served.shape, dtype=torch.uint8)
        self._stop.clear()

        def fetch(order: Order) -> None:
            out[order.places] = self._fetch(served, order, truncation)

        with ThreadPoolExecutor(IN_FLIGHT) as pool:
            try:
                sent = [pool.submit(fetch, order) for order in orders(labels, seed, named=served.num_classes > 0)]
                for future in wait(sent, return_when=FIRST_EXCEPTION).done:
                    future.result()
            finally:
                self._stop.set()  # after an error, nobody waits for a second try
                pool.shutdown(wait=False, cancel_futures=True)
        return to_samples(out)

    def _fetch(self, served: Served, order: Order, truncation: float) -> Tensor:
        """One request's pictures, [n, C, H, W] uint8."""
        fields = {"model": served.name, "n": len(order.places), "seed": order.seed, "truncation": truncation}
        if order.label is not None:
            fields["label"] = order.label
        headers, body = self.ask("POST", "/v1/images/generate", fields)
        self.runtimes.add(headers.get("x-genserve-runtime", "unknown"))
        try:
            answer = json.loads(body)
            if answer["model"] != served.identity:
                raise TrainingError(f"{served.identity} was asked for pictures, {answer['model']} answered")
            found = [_pixels(item, order, i) for i, item in enumerate(answer["images"])]
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            raise TrainingError(f"{self._url}: pictures are not answered as genserve does ({error!r})") from None
        if len(found) != len(order.places) or any(tuple(picture.shape) != served.shape for picture in found):
            raise TrainingError(f"{served.name}: the service sent other pictures than it was asked for")
        return torch.stack(found)

    def ask(
        self, method: str, path: str, fields: Mapping[str, Any] | None = None, accept: str = "application/json"
    ) -> tuple[dict[str, str], bytes]:
        """Headers, in lower case, and body of a good answer; waits and asks again when it is put off.

        Raises:
            TrainingError: there is no good answer.
        """
        for _ in range(MAX_TRIES):
            status, headers, body = self._exchange(method, path, fields, accept)
            if status == 200:
                return headers, body
            if status not in PUT_OFF or "retry-after" not in headers:
                raise TrainingError(f"{self._url}: {method} {path} answers {status}{_reason(body)}")
            if self._stop.wait(_seconds(headers["retry-after"])):
                break
        raise TrainingError(f"{self._url}: {method} {path} was put off {MAX_TRIES} times{_reason(body)}")

    def _exchange(
        self, method: str, path: str, fields: Mapping[str, Any] | None, accept: str
    ) -> tuple[int, dict[str, str], bytes]:
        kind = HTTPSConnection if self._scheme == "https" else HTTPConnection
        connection = kind(self._host, self._port, timeout=TIMEOUT)
        headers = {"Accept": accept, "Content-Type": "application/json"}
        body = None if fields is None else json.dumps(fields)
        try:
            connection.request(method, self._path.rstrip("/") + path, body, headers)
            response = connection.getresponse()
            content = response.read(MAX_BYTES + 1)
        except (OSError, HTTPException) as error:
            raise TrainingError(f"{self._url}: can't be reached: {error or type(error).__name__}") from error
        finally:
            connection.close()
        if len(content) > MAX_BYTES:
            raise TrainingError(f"{self._url}: an answer of more than {MAX_BYTES >> 20} MiB")
        return response.status, {name.lower(): value for name, value in response.getheaders()}, content


def orders(labels: Tensor, seed: int, *, named: bool) -> Iterator[Order]:
    """Requests for pictures of these labels [N], no seed twice; without labels when the model takes none."""
    asked: list[int | None] = [*sorted(set(labels.tolist()))] if named else [None]
    for label in asked:
        places = torch.arange(len(labels)) if label is None else (labels == label).nonzero()[:, 0]
        for part in torch.split(places, PER_REQUEST):
            yield Order(label, seed, part)
            seed += len(part)


def _pixels(item: Mapping[str, Any], order: Order, i: int) -> Tensor:
    """One picture of an answer, [C, H, W] uint8; it must be the one that was asked for."""
    if item["seed"] != order.seed + i or (order.label is not None and item["label"] != order.label):
        raise ValueError(f"seed {item['seed']} and label {item['label']} in place {i} of an answer")
    with Image.open(io.BytesIO(base64.b64decode(item["base64"], validate=True))) as picture:
        if picture.mode not in MODES.values():
            raise ValueError(f"a picture of mode {picture.mode}")
        array = np.array(picture)
    return torch.from_numpy(array[None] if array.ndim == 2 else array.transpose(2, 0, 1).copy())


def _seconds(retry_after: str) -> float:
    """How long to wait; a second when the header is not a number."""
    try:
        return min(MAX_WAIT, max(0.0, float(retry_after)))
    except ValueError:
        return 1.0


def _reason(body: bytes) -> str:
    """What an error's body says, on one line; empty when it is none of genserve's."""
    try:
        problem = json.loads(body)
        found = problem.get("detail") or problem["error"]["message"]
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""
    return f": {' '.join(str(found).split())[:300]}"
