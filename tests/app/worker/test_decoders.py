"""Models that write codes or samples: which folders can be served, and what is known of them then."""

import dataclasses
from pathlib import Path

import pytest

from app.engine.jobs import ModelInfo, Sampling, SequenceJob, WorkerConfig
from app.worker import decoders, pace, registry
from app.worker.faults import RegistryError
from app.worker.runner import ModelFault
from models.config import read_config, write_config
from tests import fake_outputs as fakes
from tests import fake_sequences

SCRIBE = ModelInfo("scribe", kind="sequence", vocab_size=40, max_length=8, condition_length=1, output=fakes.PICTURES)
PAINTER = ModelInfo("painter", codes=16, latent_shape=(2, 2), image_shape=(2, 2, 1))
VOICE = ModelInfo("voice", kind="sequence", vocab_size=256, max_length=99, condition_length=9, output=fakes.SPEECH)


def changed(info, **output):
    return dataclasses.replace(info, output={**info.output, **output})


@pytest.fixture
def config(tmp_path):
    fakes.write_painter(tmp_path / "weights")
    fakes.write_scribe(tmp_path / "weights")
    fakes.write_humming(tmp_path / "weights")
    return WorkerConfig(str(tmp_path / "weights"), device="cpu", max_batch=4, max_slots=4, dtype="auto")


def test_tasks_follow_from_outputs_and_codes():
    infos = (SCRIBE, PAINTER, VOICE, ModelInfo("gan"), ModelInfo("gpt", kind="sequence"))
    assert [info.task for info in infos] == ["captions", "codes", "speech", "latents", "text"]


@pytest.mark.parametrize(
    ("info", "said"),
    [
        (changed(SCRIBE, tokens=5), "9 tokens of caption and codes, where the network holds 8"),
        (changed(SCRIBE, pad_token_id=40), "pad_token_id is 40; the network knows 40 tokens"),
        (dataclasses.replace(VOICE, vocab_size=255), "mu-law has 256 levels, the network 255 tokens"),
        (dataclasses.replace(VOICE, condition_length=0), "takes no condition"),
        (changed(VOICE, start_token_id=256), "start_token_id is 256"),
    ],
)
def test_what_the_network_can_t_do_is_refused(info, said):
    decoders.check_output(SCRIBE)
    decoders.check_output(VOICE)
    with pytest.raises(ModelFault, match=said):
        decoders.check_output(info)


def test_two_that_belong_together_know_of_each_other():
    scribe, voice, painter = decoders.joined([SCRIBE, VOICE, PAINTER], skip=False)
    assert (scribe.image_shape, painter.codes_from, voice) == ((2, 2, 1), "scribe", VOICE)
    second = dataclasses.replace(SCRIBE, name="another")
    assert decoders.joined([PAINTER, SCRIBE, second], skip=False)[0].codes_from == "scribe"


@pytest.mark.parametrize(
    ("others", "said"),
    [
        ([], "scribe needs painter, which makes its pictures and is not served"),
        ([ModelInfo("painter", error="broken")], "scribe needs painter"),
        ([dataclasses.replace(PAINTER, codes=0)], "does not fit its decoder"),
        ([dataclasses.replace(PAINTER, latent_shape=(3, 3))], r"painter takes \[3, 3\] of 16 codes, scribe writes 4"),
        ([dataclasses.replace(PAINTER, codes=41)], "of 41 codes, scribe writes 4 of 40 tokens"),
    ],
)
def test_without_a_decoder_that_fits_it_is_refused_or_skipped(others, said):
    with pytest.raises(ModelFault, match=said):
        decoders.joined([SCRIBE, *others], skip=False)
    failed, *rest = decoders.joined([SCRIBE, *others], skip=True)
    assert failed.name == "scribe"
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(failed.error)
    assert rest == others


def test_folders_become_lanes(config, monkeypatch):
    """Codes are painted in float32 whatever is asked for; sound needs no tokenizer; ticks are long."""
    monkeypatch.setattr(pace, "TICK_SECONDS", 1e6)
    loaded = registry.load(dataclasses.replace(config, dtype="bf16"))
    humming, painter, scribe = loaded.models
    assert (painter.dtype, painter.codes, painter.codes_from, painter.encodes) == ("float32", 16, "scribe", True)
    assert (scribe.condition_length, scribe.image_shape, scribe.output) == (1, (2, 2, 1), fakes.PICTURES)
    assert (humming.tokenizer, humming.stop_tokens, humming.output) == ("", (), fakes.SPEECH)
    lane = loaded.lanes["humming"]
    lane.submit(1, SequenceJob("humming", (fakes.SILENCE,), 1000, 0, Sampling(temperature=0.0)))
    sizes = [len(lane.tick().chunks[0].tokens) for _ in range(5)]
    assert sizes == [1, 256, 256, 256, 231]


def test_a_model_without_its_decoder_has_no_lane(config):
    skipping = dataclasses.replace(config, skip_broken=True)
    loaded = registry.load(dataclasses.replace(skipping, models=("scribe", "humming")))
    assert list(loaded.lanes) == ["humming"]
    assert "scribe needs painter" in next(info.error for info in loaded.models if info.name == "scribe")
    with pytest.raises(RegistryError, match="no model could be loaded"):
        registry.load(dataclasses.replace(skipping, models=("scribe",)))


def test_text_needs_a_tokenizer_and_so_do_captions(config):
    for name in ("text", "scribe"):
        folder = Path(config.weights) / name
        if name == "text":
            fake_sequences.write(folder.parent, name)
        known = read_config(folder)
        write_config(folder, dataclasses.replace(known, tokenizer=None))
        with pytest.raises(RegistryError, match=f"{name}: a sequence model needs a tokenizer.json"):
            registry.load(dataclasses.replace(config, models=(name, "painter")))


def test_an_output_that_does_not_fit_its_network_stops_the_start(config):
    fakes.write_humming(Path(config.weights), output={"start_token_id": 300})
    with pytest.raises(RegistryError, match="humming: output: start_token_id is 300"):
        registry.load(config)
