import gzip
import shutil
import wave

import numpy as np
import pytest
import torch

from models import mu_law
from training.errors import TrainingError
from training.speech import load_speech_dataset, read_text, read_transcripts, trimmed

LETTERS = " !',-.?abcdefghijklmnopqrstuvwxyz"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("Press 1 to mute, 2 to lock.", "press one to mute, two to lock."),
        ("Use the 7 key; it works: always", "use the seven key, it works, always"),
        ('a polite "don\'t call"  menu', "a polite don't call menu"),
        ("... is now in the conference...", "is now in the conference"),
        ("press 5. then 6", "press five. then six"),
        ("dial 500 now", ""),
        ("at least a 28.8 kilobit modem", ""),
        ("3D audio enabled", ""),
        ("at [@]", ""),
        ("(1 second of silence)", ""),
        ("press # to exit", ""),
        ("", ""),
    ],
)
def test_a_transcript_is_what_can_be_read_aloud(words, text):
    assert read_text(words, LETTERS) == text


def test_lines_name_files_and_comments_are_passed_over(tmp_path):
    path = tmp_path / "words.gz"
    path.write_bytes(gzip.compress(b"; all of it\n\ndeep/a: Alpha: one.\nb:two\n"))
    assert read_transcripts(path, LETTERS) == {"deep/a": "alpha, one.", "b": "two"}


def test_transcripts_that_are_no_gzip_are_refused(tmp_path):
    path = tmp_path / "words.gz"
    path.write_bytes(b"a: b")
    with pytest.raises(TrainingError, match="not gzipped text"):
        read_transcripts(path, LETTERS)


def test_silence_is_cut_off_but_for_a_margin_and_frames_are_whole():
    samples = np.zeros(1000)
    samples[405:590] = 0.5
    kept = trimmed(samples, 10, 50)
    assert len(kept) == 50 + 190 + 50  # frames 40 to 58 are loud
    assert (kept[:55] == 0).all()
    assert (kept[55:240] == 0.5).all()
    assert len(trimmed(np.full(1000, 0.001), 10, 50)) == 0


def test_every_clip_is_in_one_split_and_the_same_words_are_together(speech, recipe):
    splits = {"train": speech.train.clips, "validation": speech.validation, "test": speech.test}
    words = {name: {clip.text for clip in clips} for name, clips in splits.items()}
    assert sum(map(len, splits.values())) == 16
    assert all(words.values())
    assert not words["train"] & (words["validation"] | words["test"])
    assert not words["validation"] & words["test"]
    again = load_speech_dataset(recipe("audio").data)
    assert [clip.name for clip in again.test] == [clip.name for clip in speech.test]


def test_punctuation_does_not_part_two_readings(speech_folder, raw_recipe, recipe, tmp_path):
    folder = tmp_path / "prompts"
    shutil.copytree(speech_folder, folder)
    names = sorted(path.stem for path in (folder / "sounds/deep").iterdir())
    lines = [f"deep/{name}: {'abc' if i % 2 else 'a B c'}" for i, name in enumerate(names[:-2])]
    lines += [f"deep/{name}: {name}" for name in ("x",)]
    (folder / "words.txt.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    data = raw_recipe("audio")["data"] | {"path": str(folder)}
    with pytest.raises(TrainingError, match="too few"):
        load_speech_dataset(recipe("audio", data=data).data)


def test_clips_hold_what_the_files_hold(speech, speech_folder):
    clip = speech.train.clips[0]
    with wave.open(str(speech_folder / "sounds" / f"{clip.name}.wav")) as file:
        stored = np.frombuffer(file.readframes(file.getnframes()), "<i2") / 2**15
    kept = mu_law.decode(clip.codes)
    assert len(kept) == clip.frames * clip.hop
    place = int(np.argmax(np.correlate(stored, kept, "valid")))
    assert np.abs(stored[place : place + len(kept)] - kept).max() < 0.02
    assert clip.inputs.tolist() == [mu_law.SILENCE, *clip.targets[:-1].tolist()]
    assert ["abcde"[number - 2] for number in clip.characters.tolist()] == list(clip.text)
    assert clip.bands.shape == (clip.frames, 24)


def test_windows_are_cut_from_clips_one_after_another(speech):
    stream = speech.train
    frames = [(clip.name, frame) for clip in stream.clips for frame in range(clip.frames)]
    assert len(stream) == len(frames) - stream.window + 1
    for first in (0, 7, len(stream) - 1):
        pieces = list(stream.pieces(first))
        found = [
            (piece.clip.name, frame) for piece in pieces for frame in range(piece.first, piece.first + piece.frames)
        ]
        assert found == frames[first : first + stream.window]
        assert sum(piece.clip.targets[piece.samples].numel() for piece in pieces) == stream.window * 40
    assert len(list(stream.pieces(7))) < len(list(stream.pieces(0))) + 2
    index = torch.tensor([3, 1])
    assert torch.equal(stream.batch(index).samples, index)


def test_missing_files_are_named_with_where_to_get_them(recipe, raw_recipe, tmp_path):
    data = raw_recipe("audio")["data"] | {"path": str(tmp_path), "name": "asterisk-core-sounds-en"}
    with pytest.raises(TrainingError, match="apt-get download asterisk-core-sounds-en-wav"):
        load_speech_dataset(recipe("audio", data=data).data)
    with pytest.raises(TrainingError, match=r"set data\.path"):
        load_speech_dataset(recipe("audio", data=data | {"name": "mine"}).data)


def test_files_that_are_not_the_published_ones_are_refused(recipe, raw_recipe):
    data = raw_recipe("audio")["data"] | {"name": "asterisk-core-sounds-en"}
    with pytest.raises(TrainingError, match="give data of your own another"):
        load_speech_dataset(recipe("audio", data=data).data)


@pytest.mark.parametrize(("parameters", "said"), [((2, 2, 8000), "2 channels"), ((1, 2, 16000), "16000 Hz")])
def test_other_formats_are_refused(recipe, raw_recipe, speech_folder, tmp_path, parameters, said):
    folder = tmp_path / "prompts"
    shutil.copytree(speech_folder, folder)
    with wave.open(str(folder / "sounds/deep/3.wav"), "wb") as file:
        file.setparams((*parameters, 0, "NONE", ""))
        file.writeframes(bytes(400))
    data = raw_recipe("audio")["data"] | {"path": str(folder)}
    with pytest.raises(TrainingError, match=said):
        load_speech_dataset(recipe("audio", data=data).data)


def test_a_file_that_is_no_wav_is_refused(recipe, raw_recipe, speech_folder, tmp_path):
    folder = tmp_path / "prompts"
    shutil.copytree(speech_folder, folder)
    (folder / "sounds/deep/3.wav").write_bytes(b"RIFF?")
    data = raw_recipe("audio")["data"] | {"path": str(folder)}
    with pytest.raises(TrainingError, match="not a WAV file"):
        load_speech_dataset(recipe("audio", data=data).data)
