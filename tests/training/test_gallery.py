"""The pages of all generators: from tiny weights and a real service, and those of this repository."""

import io
import wave
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import models
from models import checkpoint
from models.config import read_config
from models.files import CONFIG_FILE
from models.gpt import GPT
from models.mlp_gan import MLPGenerator
from tests import fake_sequences
from tests.conftest import COMMITTED
from tests.serving import serving
from training import catalogue, exhibits, gallery
from training.catalogue import PAPERS
from training.errors import TrainingError
from training.exhibits import Exhibit

GAN = {"latent_dim": 4, "num_classes": 0, "widths": [8], "image_shape": [1, 4, 4]}
TEXT = {"vocab_size": fake_sequences.VOCAB, "max_length": 160, "width": 8, "layers": 1, "heads": 1}
KINDS = (catalogue.CODES, catalogue.CAPTIONED, catalogue.SPEECH)
CARD = {
    "description": "Tiny.",
    "steps": 12_000,
    "seconds": 600,
    "machine": "some processor, 1 thread, torch 2",
    "metrics": {"fd_clf": 3.14159, "class_accuracy": 0.9},
    "gates": {"fd_clf": {"max": 5.0}, "class_accuracy": {"min": 0.85}, "recall": {"min": 0.5}},
}


def write(root):
    """A repository with a generator of pictures and one of text, the latter first."""
    torch.manual_seed(0)
    checkpoint.save(root / "weights/small", MLPGenerator(**GAN), architecture="mlp-gan", config=GAN, card=CARD)
    checkpoint.save(
        root / "weights/writer",
        GPT(**TEXT),
        architecture="gpt",
        config=TEXT,
        card={"description": "Tiny too.", "license": "none"},
        tokenizer=fake_sequences.tokenizer_file(),
        eos_token_id=fake_sequences.EOS,
    )
    (root / "weights/order.txt").write_text("writer\ngone\n")
    (root / "README.md").write_text(f"Before.\n\n{gallery.BEGIN}\nold\n{gallery.END}\n\nAfter.\n")


@pytest.fixture(scope="module")
def fetched(tmp_path_factory):
    """The same with its gallery, from a service of those weights."""
    root = tmp_path_factory.mktemp("root")
    write(root)
    (root / gallery.SAMPLES).mkdir(parents=True)
    (root / gallery.SAMPLES / "gone-0.png").write_bytes(b"of a generator that is no more")
    with serving("--weights", str(root / "weights")) as server:
        assert gallery.main(["--root", str(root), "--url", server.url]) == 0
    return root


@pytest.fixture
def root(tmp_path):
    write(tmp_path)
    return tmp_path


def rows(text):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]


def test_a_line_a_generator(root):
    digest = read_config(root / "weights/small").digest
    served = {"small": {"digest": digest, "value": 1234.5, "unit": "pictures/s"}}
    head, _, writer, small = rows(catalogue.table(catalogue.generators(root / "weights"), served, "weights"))
    assert len(head) == len(small) == len(writer) == 7
    assert writer[:3] == ["[`writer`](weights/writer/README.md)", "text", PAPERS["gpt"]]
    assert writer[4:] == ["", "", ""]
    parameters = sum(p.numel() for p in MLPGenerator(**GAN).parameters())
    assert small[1:] == [
        *("pictures", PAPERS["mlp-gan"], str(parameters), "10 min, 12,000 steps"),
        "FD-clf 3.14 (at most 5); class accuracy 0.9 (at least 0.85); recall not measured (at least 0.5)",
        "1,234 pictures/s",
    ]


def test_speed_is_that_of_the_same_weights(root):
    (_, small) = catalogue.generators(root / "weights")
    other = {"small": {"digest": "0" * 64, "value": 1234.5, "unit": "pictures/s"}}
    assert rows(catalogue.table([small], other, "weights"))[-1][-1] == ""
    slow = {"small": {"digest": small.config.digest, "value": 1.2345, "unit": "s of speech/s"}}
    assert rows(catalogue.table([small], slow, "weights"))[-1][-1] == "1.23 s of speech/s"


@pytest.mark.parametrize(
    ("count", "said"), [(7, "7"), (611_000, "611 thousand"), (819_900, "820 thousand"), (5_250_000, "5.25 million")]
)
def test_numbers_of_parameters(count, said):
    assert catalogue._short(count) == said


def test_more_than_one_thread_is_told():
    assert catalogue.training({**CARD, "machine": "a card"}) == "10 min, 12,000 steps, a card"


def test_of_which_paper_every_architecture_is(root):
    known = {**models.LATENT_MODELS, **models.SEQUENCE_MODELS}
    assert {name for name, network in known.items() if network.__module__.startswith("models.")} == set(PAPERS)
    (_, small) = catalogue.generators(root / "weights")
    strange = replace(small, config=replace(small.config, architecture="strange"))
    with pytest.raises(TrainingError, match="small: no paper is known of the architecture strange"):
        catalogue.table([strange], {}, "weights")


def test_the_gallery_holds_what_the_service_answers(fetched):
    found = exhibits.read_index(fetched / gallery.SAMPLES)
    (sheet,) = found["small"].shown
    assert sheet.body == {"model": "small", "seed": 0, "scale": 3, "n": 16}
    with Image.open(fetched / gallery.SAMPLES / sheet.file) as picture:
        assert picture.size == (4 * 3 * 4, 4 * 3 * 4)
        assert found["small"].digest[:12] in picture.info["XML:com.adobe.xmp"]
    (texts,) = found["writer"].shown
    assert len(texts.texts) == texts.body["n"] == 3
    assert not (fetched / gallery.SAMPLES / "gone-0.png").exists()
    page = (fetched / gallery.PAGE).read_text()
    assert page.index("### writer") < page.index("### small")
    assert "![small](gallery/small-0.png)" in page
    assert f"```text\n{texts.texts[0]}\n```" in page
    readme = (fetched / gallery.README).read_text()
    assert readme.startswith(f"Before.\n\n{gallery.BEGIN}\n| generator |")
    assert readme.endswith(f"|\n{gallery.END}\n\nAfter.\n")
    assert "(../weights/small/README.md)" in page
    assert "(weights/small/README.md)" in readme


def test_what_is_written_is_up_to_date_until_something_changes(fetched, capsys):
    check = ["--root", str(fetched), "--check"]
    assert gallery.main(check) == 0
    readme = fetched / gallery.README
    before = readme.read_text()
    readme.write_text(before.replace("10 min", "9 min"))
    assert gallery.main(check) == 1
    assert capsys.readouterr().err.splitlines() == [f"{readme}: out of date"]
    assert gallery.main(["--root", str(fetched)]) == 0
    assert readme.read_text() == before
    sheet = fetched / gallery.SAMPLES / "small-0.png"
    content = sheet.read_bytes()
    sheet.unlink()
    assert gallery.main(check) == 1
    assert capsys.readouterr().err.splitlines() == ["docs/gallery/small-0.png: missing"]
    sheet.write_bytes(content)


def test_samples_of_other_weights_are_out_of_date(root, capsys):
    assert gallery.main(["--root", str(root)]) == 1
    said = capsys.readouterr().err.splitlines()
    assert [line.partition(": ")[2].partition("@")[0] for line in said] == [
        "no samples of writer",
        "no samples of small",
    ]


def test_what_can_t_be_written(root, capsys):
    (root / "README.md").write_text("no place")
    assert gallery.main(["--root", str(root)]) == 1
    assert "README.md: the table belongs between the lines" in capsys.readouterr().err
    assert gallery.main(["--root", str(root), "--url", "http://127.0.0.1:9"]) == 1
    assert "can't be reached" in capsys.readouterr().err
    assert gallery.main(["--root", str(root / "weights")]) == 1
    assert "holds no weights folder" in capsys.readouterr().err
    (root / "benchmarks/results").mkdir(parents=True)
    (root / gallery.THROUGHPUT).write_text('{"small": 3}')
    assert gallery.main(["--root", str(root)]) == 1
    assert "not what benchmarks.throughput writes" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        gallery.main(["--check", "--url", "http://127.0.0.1:9"])


def test_a_service_of_other_weights_is_refused(fetched, root):
    (_, small) = catalogue.generators(root / "weights")
    other = replace(small, config=replace(small.config, config={**GAN, "latent_dim": 5}))
    with serving("--weights", str(fetched / "weights")) as server, pytest.raises(TrainingError, match="answered"):
        exhibits.fetch(server.url, other, root)


def sound(samples):
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return out.getvalue()


def test_a_spectrogram_shows_a_tone_in_its_place():
    """2 kHz of 4: half way up, all the time; silence is black."""
    tone = np.sin(2 * np.pi * 2000 / 8000 * np.arange(8000))
    picture = np.asarray(Image.open(io.BytesIO(exhibits.spectrogram(sound(tone)))))
    assert picture.shape == (129 * exhibits.ZOOM, 8000 // exhibits.HOP)
    brightest = picture[:, 10:-10].argmax(axis=0)
    assert np.abs(brightest - 64 * exhibits.ZOOM).max() <= exhibits.ZOOM
    assert picture[:20, 10:-10].max() < 30
    assert not np.asarray(Image.open(io.BytesIO(exhibits.spectrogram(sound(np.zeros(800)))))).any()


def test_every_kind_is_asked_and_shown_in_its_own_way(root):
    (_, small) = catalogue.generators(root / "weights")
    kinds = {makes: exhibits.requests(replace(small, makes=makes)) for makes in KINDS}
    assert kinds[catalogue.CODES] == []
    assert [body["prompt"] for _, _, body in kinds[catalogue.CAPTIONED]] == list(exhibits.CAPTIONS)
    assert {accept for _, accept, _ in kinds[catalogue.SPEECH]} == {"audio/wav"}
    heard = Exhibit("/v1/audio/generate", {"prompt": "a"}, file="small-0.wav", picture="small-0.png")
    assert gallery._shown(small, heard)[1:] == [
        "[listen](gallery/small-0.wav)", "![spectrogram](gallery/small-0.png)",
    ]  # fmt: skip
    quoting = Exhibit("/v1/text/complete", {}, texts=("a ```` b",))
    assert gallery._shown(small, quoting)[1] == "`````text\na ```` b\n`````"


def test_the_pages_of_this_repository_are_up_to_date(capsys):
    assert gallery.main(["--check"]) == 0, capsys.readouterr().err


def test_every_weights_folder_has_its_line():
    found = {one.name for one in catalogue.generators(COMMITTED)}
    assert found == {path.parent.name for path in COMMITTED.glob(f"*/{CONFIG_FILE}")}
