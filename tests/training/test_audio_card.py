import wave

import numpy as np
from PIL import Image

from models.config import read_config
from training import audio_card, listening
from training.evaluate import main
from training.publish import publish


def test_a_run_for_speech_is_published_with_clips_and_measured_again(
    make_run, recipe, speech_folder, monkeypatch, capsys, tmp_path
):
    monkeypatch.setattr(listening, "SHORTEST", 0.1)
    monkeypatch.setattr(listening, "COUNT", 2)
    monkeypatch.setattr(listening, "TEMPERATURES", (0.5, 1.0))
    chosen = recipe("audio", steps=2, gates={"bits_per_sample": {"max": 9.0}, "margin": {"min": -9.0}})
    run = make_run(chosen)
    run.start()
    run.train(lambda: False, lambda progress, values: None)
    publish(run, "tiny-audio.toml")
    folder = tmp_path / "export" / "tiny-audio"
    config = read_config(folder)
    assert config.output["kind"] == "audio"
    assert config.output["temperature"] in (0.5, 1.0)
    assert config.tokenizer is None
    readme = (folder / "README.md").read_text()
    for said in ("samples.png", "sample-0.wav", "## Intelligibility", "Nobody has listened", "bits_per_sample", "MIT"):
        assert said in readme
    with Image.open(folder / "samples.png") as picture:
        assert picture.size[0] > 40
    with wave.open(str(folder / "sample-0.wav")) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (8000, 1, 2)
        assert file.getnframes() == len(run.dataset.test[0].codes)
    before = config.card["metrics"]
    capsys.readouterr()
    assert main([str(folder), "--data", str(speech_folder)]) == 0
    again = read_config(folder)
    assert again.card["metrics"] == before
    assert again.digest == config.digest
    assert (folder / "README.md").read_text() == readme


def test_a_wav_file_holds_the_codes_at_full_scale(tmp_path):
    codes = np.array([0, 128, 255], np.uint8)
    audio_card.write_samples(tmp_path, [listening.Shown("a", "b", codes, codes, 8000)])
    with wave.open(str(tmp_path / "sample-0.wav")) as file:
        assert np.frombuffer(file.readframes(3), "<i2").tolist() == [-32767, 3, 32767]
