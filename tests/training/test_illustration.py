import math

import pytest
import torch
import torch.nn.functional as F

from models.text_to_image import TextToImage
from models.vq import VQVAE
from tests.training import captions
from training import depiction, illustration, reconstruction, scenes
from training.captioned import ANIMALS
from training.illustrator import Illustrator, Manner, manners
from training.judge import Opinion
from training.scenes import SIZES, Combination

BEST = Manner(3.0, 0.5)


class Painter(Illustrator):
    """Draws what it is asked for, from the words of the caption: a block in the right colours where the manner is BEST.

    In any other the background is always white. The animal is written into the width of the block.
    """

    dataset = None

    def draw(self, captions, manner, seed):
        words = [self.dataset.tokenizer.id_to_token(token) for row in captions.tolist() for token in row]
        rows = [words[start : start + captions.shape[1]] for start in range(0, len(words), captions.shape[1])]
        return torch.stack([self._paint(row, manner) for row in rows])

    def draw_best(self, captions, manner, seed, candidates):
        assert (manner, candidates) == (BEST, 4)
        return self.draw(captions, manner, seed)

    def _paint(self, row, manner):
        if "background" not in row:
            return self._emoji(row)
        _, _, colour, animal, *_, background = row[: row.index("background")]
        names = list(scenes.COLOURS)
        back = background if manner == BEST else "white" if colour != "white" else "black"
        covered = torch.zeros(1, 32, 32, dtype=torch.uint8)
        covered[:, 8:24, 4 : 6 + 2 * ANIMALS.index(animal)] = 255
        named = scenes.palette()
        return scenes.paint(covered, named[[names.index(colour)]], named[[names.index(back)]])[0] / 127.5 - 1

    def _emoji(self, row):
        """Its own picture, as a caption of words names it."""
        told = [" ".join(self.dataset.tokenizer.encode(name).tokens) for name in self.dataset.named]
        said = " ".join(word for word in row if word in set(" ".join(told).split()))
        return self.dataset.emoji.batch(torch.tensor([told.index(said)])).samples[0]


class Eye:
    """Reads the animal off the width of the block; it never finds a zebra."""

    def opinion(self, samples):
        widths = (samples[:, 0] > 0).any(1).sum(1)
        return Opinion(None, ((widths - 2) // 2).clamp(0, 8).numpy(), None)


@pytest.fixture
def networks():
    torch.manual_seed(0)
    return TextToImage(**captions.TEXT_TO_IMAGE["config"]).eval(), VQVAE(**captions.VQ["config"]).eval()


@pytest.fixture
def illustrator(networks):
    return Illustrator(*networks)


def test_the_manner_is_chosen_on_seen_combinations_and_every_held_out_one_is_drawn_in_it(networks, captioned):
    Painter.dataset = captioned
    found = illustration.measure(Painter(*networks), captioned, Eye(), manners([1.0, 3.0], [0.5, 1.0]))
    assert found.count == 180 * len(SIZES) * illustration.DRAWN
    assert found.manner == BEST
    drawn = [(point["guidance"], point["temperature"]) for point in found.curve]
    assert drawn == [(1.0, 0.5), (1.0, 1.0), (3.0, 0.5), (3.0, 1.0)]
    zebras = sum(one.animal == "zebra" for one in captioned.held_out) / 180
    assert found.metrics["animal_found"] == pytest.approx(1 - zebras)
    assert found.metrics["colours_found"] == found.metrics["colours_found_best"] == 1.0
    assert found.metrics["animal_found_best"] == pytest.approx(1 - zebras)
    tried = captioned.seen[:: illustration.TRIED]
    assert found.tried == len(tried) * len(SIZES)
    assert not set(tried) & set(captioned.held_out), "what is held out chooses nothing"
    whites = sum(one.background == ("white" if one.colour != "white" else "black") for one in tried) / len(tried)
    assert found.curve[0]["colours_found"] == pytest.approx(whites)
    assert found.metrics["emoji_found"] == 1.0
    bits = {name for name in illustration.METRICS if name.startswith("bits")}
    assert set(found.metrics) == set(illustration.METRICS) - bits
    assert set(illustration.METRICS) == set(illustration.MEANINGS)


def test_real_scenes_are_looked_at_too_and_through_the_codes(illustrator, captioned):
    class Whatever(Eye):
        pass

    found = illustration._real(illustrator, captioned, Whatever())
    real = captioned.test.batch(torch.arange(len(captioned.test))).samples
    wanted = depiction.agreement(depiction.look(real, Eye()), captioned.asked, ANIMALS)
    assert found["colours_found_real"] == wanted["colours_found"] == 1.0
    assert found["animal_found_real"] == wanted["animal_found"]
    coded = reconstruction.decode(illustrator.decoder, reconstruction.encode(illustrator.decoder, real))
    wanted = depiction.agreement(depiction.look(coded, Eye()), captioned.asked, ANIMALS)
    assert found["colours_found_codes"] == wanted["colours_found"] < 1.0


def test_bits_are_those_of_every_code_behind_its_caption(illustrator, captioned):
    found = illustration.bits_per_code(illustrator, captioned)
    batch = captioned.test.batch(torch.arange(len(captioned.test)))
    codes = reconstruction.encode(illustrator.decoder, batch.samples).long().flatten(1)
    bits = []
    for caption, own in zip(batch.labels, codes, strict=True):
        for place in range(64):
            logits = illustrator.network(torch.cat([caption, own[:place]])[None])[0, -1]
            bits.append(F.cross_entropy(logits, own[place]).item() / math.log(2))
    assert found["bits_per_code"] == pytest.approx(sum(bits) / len(bits), rel=1e-4)
    assert found["bits_per_code_emoji"] != found["bits_per_code"]
    less = illustration.bits_per_code(illustrator, captioned, limit=2)
    assert less["bits_per_code"] == pytest.approx(sum(bits[:64] + bits[-64:]) / 128, rel=1e-4)


def test_the_grid_is_of_the_captions_that_the_card_lists(illustrator, captioned):
    shown = illustration.shown(captioned)
    assert len(shown) == 80
    assert len(illustration.sample_grid(illustrator, captioned, BEST)) == 80
    held_out = {scenes.Scene(one, size).caption() for one in captioned.held_out for size in SIZES}
    assert set(shown[:40]) <= held_out
    assert set(shown[40:]) == set(captioned.named), "every emoji, where there are few"
    assert sum("small" in caption for caption in shown[:40]) == 20


def test_captions_become_tokens_as_in_the_service(captioned):
    (row,) = illustration.tokens(captioned, [scenes.Scene(Combination("cow", "red", "blue"), "small").caption()])
    said = captioned.tokenizer.encode("a small red cow on a blue background").ids
    assert row.tolist() == said + [captions.CODES] * (captions.LENGTH - len(said))


def test_the_output_says_what_the_service_needs(networks):
    assert illustration.output(networks[0], "tiny-vq") == {
        "kind": "image",
        "decoder": "tiny-vq",
        "tokens": 64,
        "prompt_tokens": captions.LENGTH,
        "pad_token_id": captions.CODES,
    }
