"""What is measured of a real server of fakes: not how much, only that it is, and of which models."""

import json
import wave

import pytest

from benchmarks import throughput
from tests import fake_sequences, fakes
from tests.serving import serving

QUICK = ("--seconds", "0.5", "--clients", "2")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    weights = tmp_path_factory.mktemp("weights")
    fakes.write(weights, "echo")
    fake_sequences.write(weights, "counting", "counting")
    with serving("--weights", str(weights), env={"GENSERVE_MODELS_MODULE": "tests.fake_sequences"}) as server:
        yield server


def test_every_model_is_measured_and_others_stay(server, tmp_path):
    file = tmp_path / "throughput.json"
    file.write_text('{"older": {"value": 1}}')
    assert throughput.main(["--url", server.url, "--json", str(file), *QUICK]) == 0
    found = json.loads(file.read_text())
    assert list(found) == ["counting", "echo", "older"]
    assert [found[name]["unit"] for name in ("counting", "echo")] == ["tokens/s", "pictures/s"]
    for name in ("counting", "echo"):
        assert found[name]["value"] > 0 == found[name]["refused"]
        assert (found[name]["clients"], len(found[name]["digest"])) == (2, 64)
        assert found[name]["runtime"].startswith("cpu; ")
    echo = found["echo"]["value"]
    assert echo == pytest.approx(found["echo"]["answered"] / found["echo"]["seconds"], rel=0.2)


def test_what_can_t_be_measured(server, tmp_path, capsys):
    file = tmp_path / "throughput.json"
    assert throughput.main(["--url", server.url, "--json", str(file), *QUICK, "--model", "nobody"]) == 1
    assert "--model nobody" in capsys.readouterr().err
    assert throughput.main(["--url", "http://127.0.0.1:9", "--json", str(file), *QUICK]) == 1
    assert "can't be reached" in capsys.readouterr().err
    assert not file.exists()
    with pytest.raises(SystemExit):
        throughput.main(["--clients", "0"])


@pytest.mark.parametrize(
    ("card", "path", "asked"),
    [
        ({"makes": "pictures"}, "/v1/images/generate", {"model": "m", "n": 1}),
        (
            {"makes": "pictures of captions", "output": {"kind": "image"}},
            "/v1/images/generate",
            {"model": "m", "prompt": throughput.CAPTION},
        ),
        ({"makes": "speech"}, "/v1/audio/generate", {"model": "m", "prompt": throughput.SAID}),
    ],
)
def test_every_kind_is_asked_in_its_own_way(card, path, asked):
    found = throughput.request("http://x", "m", card)
    assert (found.target.url, json.loads(found.target.body)) == (f"http://x{path}", asked)


@pytest.mark.parametrize("card", [{"status": "failed", "error": "no"}, {"makes": "pictures", "codes": 512}])
def test_what_makes_nothing_by_itself_is_left_out(card):
    assert throughput.request("http://x", "m", card) is None


def test_speech_counts_by_its_seconds(tmp_path):
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(2 * 12_000))
    assert throughput._seconds((tmp_path / "a.wav").read_bytes()) == 1.5
