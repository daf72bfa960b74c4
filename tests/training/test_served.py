"""`genserve evaluate` against a real server, and against one that a proxy in between makes difficult."""

import io
import json
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from models import checkpoint
from models.gan import ConvGenerator
from tests.serving import PATIENCE, serving
from tests.training.conftest import GENERATOR_CONFIG, LABELS
from training import client, served
from training.client import PER_REQUEST, Client, orders
from training.data import load_dataset
from training.data_recipe import DataRecipe
from training.errors import TrainingError
from training.judge import load_judge
from training.measurement import METRICS
from training.quality import balanced_labels


@pytest.fixture(scope="module")
def dataset_card(data_folder):
    return load_dataset(DataRecipe("halves", str(data_folder), "MIT", tuple(LABELS))).card()


@pytest.fixture(scope="module")
def weights(tmp_path_factory, dataset_card):
    folder = tmp_path_factory.mktemp("weights")
    card = {
        "training_data": dataset_card,
        "gates": {"recall": {"max": 0.5}, "negative_elbo": {"max": 1.0}},
        "metrics": {"recall": 0.0, "negative_elbo": 0.5},
    }
    torch.manual_seed(0)
    for name, config in {"tiny": GENERATOR_CONFIG, "large": {**GENERATOR_CONFIG, "base_size": 8}}.items():
        network = ConvGenerator(**config)
        checkpoint.save(folder / name, network, architecture="conv-gan", config=config, labels=LABELS, card=card)
    return folder


@pytest.fixture(scope="module")
def url(weights):
    with serving("--weights", str(weights)) as server:
        yield server.url


@pytest.fixture
def measure(url, judge_folder, data_folder):
    """The command line with a judge and data; `measure("--count", "48")` gives its status."""

    def run(*more, model="tiny", address=None):
        where = ["--url", address or url, "--model", model, "--judge", str(judge_folder), "--data", str(data_folder)]
        return served.main([*where, "--count", "48", *more])

    return run


class Proxy(ThreadingHTTPServer):
    """Between client and service: `spoil(handler, answer)` may change an answer or refuse a request."""

    daemon_threads = True

    def __init__(self, url, spoil):
        super().__init__(("127.0.0.1", 0), Handler)
        self.target, self.spoil, self.lock = url, spoil, Lock()
        self.paths = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        self.forward(httpx.get(f"{self.server.target}{self.path}", timeout=PATIENCE))

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name: self.headers[name] for name in ("Accept", "Content-Type")}
        self.forward(httpx.post(f"{self.server.target}{self.path}", content=body, headers=headers, timeout=PATIENCE))

    def forward(self, answer):
        with self.server.lock:
            self.server.paths.append(self.path)
            status, headers, content = self.server.spoil(len(self.server.paths), answer)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def between(url, spoil):
    with Proxy(url, spoil) as proxy:
        thread = Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield proxy
        finally:
            proxy.shutdown()
            thread.join()


def as_it_is(answer):
    return answer.status_code, {"X-Genserve-Runtime": answer.headers.get("X-Genserve-Runtime", "")}, answer.content


def test_the_whole_of_it(measure, tmp_path, capsys):
    more = ("--truncations", "0.5", "--report", str(tmp_path / "page.html"))
    assert measure(*more) == 0
    found = json.loads((tmp_path / "page.json").read_text())
    assert set(found["metrics"]) == set(METRICS)
    assert found["evaluation"]["model"].startswith("tiny@")
    assert "float32" in found["evaluation"]["runtime"]
    assert found["gates"] == {"recall": {"max": 0.5}}  # the bound can't be measured from outside
    assert [point["truncation"] for point in found["truncation_curve"]] == [0.5]
    page, said = (tmp_path / "page.html").read_text(), capsys.readouterr().out
    assert "Unpicked samples" in page
    assert f"{found['metrics']['fd_clf']:.4g}" in said
    assert found["evaluation"]["runtime"] in said


def test_the_pictures_are_those_that_anybody_gets(url):
    labels = balanced_labels(3 * PER_REQUEST + 7, 3)
    asked = Client(url, "tiny")
    pictures = asked.pictures(asked.describe(), labels, seed=5, truncation=0.7)
    assert pictures.shape == (len(labels), 1, 8, 8)
    for order in orders(labels, 5, named=True):
        place = int(order.places[-1])
        body = {"model": "tiny", "seed": order.seed + len(order.places) - 1, "label": order.label, "truncation": 0.7}
        alone = httpx.post(f"{url}/v1/images/generate", json=body, timeout=PATIENCE)
        with Image.open(io.BytesIO(alone.content)) as picture:
            expected = torch.from_numpy(np.array(picture)).float() / 127.5 - 1
        assert order.label == int(labels[place])
        assert torch.allclose(pictures[place, 0], expected)


def test_every_picture_has_a_seed_of_its_own():
    labels = balanced_labels(500, 3)
    for named in (True, False):
        sent = list(orders(labels, 10, named=named))
        assert sorted(place for order in sent for place in order.places.tolist()) == list(range(500))
        assert max(len(order.places) for order in sent) == PER_REQUEST
        ends = [order.seed + len(order.places) for order in sent]
        assert [order.seed for order in sent] == [10, *ends[:-1]]
        assert ends[-1] == 510
    assert {order.label for order in sent} == {None}


def test_what_is_put_off_is_asked_for_again(url, measure, tmp_path):
    def spoil(count, answer):
        if count % 2:
            return (429 if count % 4 == 1 else 503), {"Retry-After": "0"}, b"{}"
        return as_it_is(answer)

    with between(url, spoil) as proxy:
        assert measure("--json", str(tmp_path / "hard.json"), address=proxy.url) == 0
    assert measure("--json", str(tmp_path / "easy.json")) == 0
    hard, easy = (json.loads((tmp_path / name).read_text()) for name in ("hard.json", "easy.json"))
    assert hard == easy
    assert len(proxy.paths) >= 2 * 4  # the model, and three classes


def test_putting_off_has_an_end(url, capsys, measure):
    def spoil(count, answer):
        return 503, {"Retry-After": "0"}, b'{"detail": "not now"}'

    with between(url, spoil) as proxy:
        assert measure(address=proxy.url) == 1
    assert "was put off 20 times: not now" in capsys.readouterr().err
    assert len(proxy.paths) == client.MAX_TRIES


def edited(**changes):
    """A proxy that replaces fields of the answers that hold pictures."""

    def spoil(count, answer):
        status, headers, content = as_it_is(answer)
        body = json.loads(content)
        if "images" in body:
            content = json.dumps({**body, **changes}).encode()
        return status, headers, content

    return spoil


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "tiny@000000000000"}, "was asked for pictures, tiny@000000000000 answered"),
        ({"images": []}, "sent other pictures than it was asked for"),
        ({"images": [{"seed": 7, "label": 0, "base64": ""}]}, "seed 7 and label 0 in place 0"),
        ({"images": None}, "pictures are not answered as genserve does"),
    ],
)
def test_answers_of_another_kind_are_refused(url, measure, capsys, changes, message):
    with between(url, edited(**changes)) as proxy:
        assert measure(address=proxy.url) == 1
    assert message in capsys.readouterr().err


def test_an_error_in_the_middle_ends_the_measurement(url, measure, capsys):
    def spoil(count, answer):
        if count == 3:
            return 500, {}, b'{"detail": "the device is on fire"}'
        return as_it_is(answer)

    with between(url, spoil) as proxy:
        assert measure(address=proxy.url) == 1
    assert "POST /v1/images/generate answers 500: the device is on fire" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--count", "4"), "4 pictures: at least 10"),
        (("--count", "0"), "--count 0: from 1"),
        (("--seed", "-1"), "--seed -1: from 0"),
        (("--threads", "0"), "--threads 0: from 1"),
        (("--url", "ftp://somewhere"), "--url 'ftp://somewhere': the address of a service expected"),
        (("--url", "http://127.0.0.1:1"), "http://127.0.0.1:1: can't be reached"),
        (("--model", "nobody"), "answers 404: model 'nobody' is not served"),
        (("--model", "large"), r"large makes pictures of [1, 16, 16], the data are [1, 8, 8]"),
        (("--judge", "/nowhere"), "the judge can't be loaded"),
        (("--data", "/nowhere"), "/nowhere/"),
    ],
)
def test_what_is_wrong_is_named(measure, capsys, more, message):
    assert measure(*more) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error


def test_a_missed_gate_is_status_one(weights, url, measure, capsys):
    def spoil(count, answer):
        return as_it_is(answer)[0], {}, answer.content.replace(b'{"max":0.5}', b'{"max":-1}')

    with between(url, spoil) as proxy:
        assert measure(address=proxy.url) == 1
    assert "tiny: gates missed: recall is" in capsys.readouterr().err


def test_a_judge_that_steered_is_refused(url, measure, judge_folder, capsys):
    guide = f'"guide":"{load_judge(judge_folder).digest}",'.encode()

    def spoil(count, answer):
        return 200, {}, answer.content.replace(b'"status":"ready"', guide + b'"status":"ready"')

    with between(url, spoil) as proxy:
        assert measure(address=proxy.url) == 1
    assert "tiny was steered by the judge" in capsys.readouterr().err


def test_a_model_of_texts_is_refused(url, measure, capsys):
    def spoil(count, answer):
        return 200, {}, answer.content.replace(b'"kind":"latent"', b'"kind":"sequence"')

    with between(url, spoil) as proxy:
        assert measure(address=proxy.url) == 1
    assert "the service makes no pictures with it" in capsys.readouterr().err


def test_waits_are_bounded():
    assert client._seconds("3") == 3
    assert client._seconds("86400") == client.MAX_WAIT
    assert client._seconds("Sun, 06 Nov 1994 08:49:37 GMT") == 1


def test_an_answer_without_end_is_cut_off(url, monkeypatch):
    monkeypatch.setattr(client, "MAX_BYTES", 10)
    with pytest.raises(TrainingError, match="an answer of more than"):
        Client(url, "tiny").describe()
