import shutil
from dataclasses import replace

import pytest
import torch

from models import checkpoint
from models.config import read_config, with_card, write_config
from models.text_to_image import TextToImage
from models.vq import VQVAE
from tests.training import captions
from training import illustrator as module
from training.captioned import load_captioned
from training.data_recipe import CaptionedRecipe
from training.errors import TrainingError
from training.illustrator import Illustrator, Manner, check_fit, decoder_of, load_decoder

PLAIN = Manner(2.0, 1.0)


@pytest.fixture
def illustrator():
    torch.manual_seed(0)
    network = TextToImage(**captions.TEXT_TO_IMAGE["config"]).eval()
    for parameter in network.parameters():
        parameter.data.mul_(6 if parameter.ndim == 2 else 1)
    return Illustrator(network, VQVAE(**captions.VQ["config"]).eval())


@pytest.fixture
def asked():
    return torch.randint(captions.CODES, captions.CODES + captions.WORDS, (5, captions.LENGTH))


def test_pictures_are_those_of_the_seed(illustrator, asked):
    first, again = (illustrator.draw(asked, PLAIN, seed=1) for _ in range(2))
    assert first.shape == (5, 3, 32, 32)
    assert torch.equal(first, again)
    assert not torch.equal(first, illustrator.draw(asked, PLAIN, seed=2))
    assert not torch.equal(first, illustrator.draw(asked, Manner(0.0, 1.0), seed=1)), "the scale counts"
    assert not torch.equal(first, illustrator.draw(asked, Manner(2.0, 0.5), seed=1)), "the temperature counts"


def test_many_captions_are_drawn_in_parts(illustrator, asked, monkeypatch):
    monkeypatch.setattr(module, "ROWS", 2)
    drawn = illustrator.draw(asked, PLAIN, seed=1)
    assert drawn.shape == (5, 3, 32, 32)
    assert torch.equal(drawn[:2], illustrator.draw(asked[:2], PLAIN, seed=1))


def test_the_best_of_several_is_the_one_that_its_caption_makes_likelier(illustrator, asked):
    """Scored one by one, with and without the caption, by what the uncached network says of each code."""
    told = asked.repeat_interleave(3, 0)
    codes = illustrator.write(told, PLAIN, seed=1)
    scores = []
    for caption, own in zip(told, codes, strict=True):
        likely = []
        for words in (caption, torch.full_like(caption, captions.CODES)):
            logits = illustrator.network(torch.cat([words, own[:-1]])[None])[0, captions.LENGTH - 1 :]
            likely.append(logits.log_softmax(-1)[range(64), own].sum())
        scores.append((likely[0] - likely[1]).item())
    best = torch.tensor(scores).view(5, 3).argmax(1) + torch.arange(5) * 3
    found = illustrator.draw_best(asked, PLAIN, seed=1, candidates=3)
    assert torch.equal(found, illustrator.pictures(codes[best]))
    assert len({round(score, 3) for score in scores}) > 5, "equal scores would hide everything"


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_codes_follow_the_probabilities_that_guidance_and_temperature_give(illustrator, temperature):
    """The first code of many pictures of one caption, against what the uncached network says."""
    caption = torch.full((1, captions.LENGTH), captions.CODES + 5)
    told, untold = (illustrator.network(words)[0, -1] for words in (caption, torch.full_like(caption, captions.CODES)))
    wanted = ((untold + 1.5 * (told - untold)) / temperature).softmax(0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        codes = illustrator._write(caption.expand(4000, -1), Manner(1.5, temperature), generator)
    assert codes.shape == (4000, 64)
    shares = torch.bincount(codes[:, 0], minlength=captions.CODES) / 4000
    torch.testing.assert_close(shares, wanted.detach(), atol=0.03, rtol=0)
    assert wanted.max() < 0.9, "a sure network would hide everything"


def test_tokens_of_no_probability_are_never_drawn():
    logits = torch.tensor([-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]).expand(2000, 5)
    drawn = module._sample(logits, torch.Generator().manual_seed(0))
    assert set(drawn.tolist()) == {1, 3}
    assert 900 < int((drawn == 1).sum()) < 1100


def test_the_decoder_of_the_same_data_is_taken(caption_folder, captioned):
    loaded = load_decoder(caption_folder / "tiny-vq", captioned)
    assert decoder_of(loaded).num_codes == captions.CODES
    oftener = replace(captioned, recipe=replace(captioned.recipe, emoji_captions=7))
    assert load_decoder(caption_folder / "tiny-vq", oftener).config == loaded.config, "it reads no captions"


def test_another_decoder_is_refused(caption_folder, captioned, judge_folder, recipe, tmp_path):
    with pytest.raises(TrainingError, match=r"the decoder can't be loaded: .*nowhere.*a vq recipe trains one"):
        load_decoder(tmp_path / "nowhere", captioned)
    other = tmp_path / "other"
    shutil.copytree(caption_folder / "tiny-vq", other)
    config = read_config(other)
    changed = {"training_data": config.card["training_data"] | {"seed": 77}}
    write_config(other, with_card(config, changed))
    with pytest.raises(TrainingError, match="other: was trained on other data, or on another split"):
        load_decoder(other, captioned)
    network = TextToImage(**captions.TEXT_TO_IMAGE["config"])
    checkpoint.save(tmp_path / "words", network, **captions.TEXT_TO_IMAGE)
    with pytest.raises(TrainingError, match="text-to-image is not a discrete autoencoder"):
        load_decoder(tmp_path / "words", captioned)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_codes": 15}, "num_codes: 15 given, 16 needed"),
        ({"vocab_size": 60}, "vocab_size: 60 given, 52 needed"),
        ({"prompt_tokens": 11}, "prompt_tokens: 11 given, 12 needed"),
        ({"max_length": 80}, "max_length: 80 given, 76 needed"),
    ],
)
def test_a_network_that_does_not_fit_is_refused(illustrator, captioned, changes, said):
    network = TextToImage(**captions.TEXT_TO_IMAGE["config"] | changes)
    with pytest.raises(TrainingError, match=said):
        check_fit(network, illustrator.decoder, captioned)


def test_the_first_word_has_to_be_the_network_s_padding(illustrator, caption_folder):
    table = captions.table(caption_folder) | {"first_word": captions.CODES + 1}
    with pytest.raises(TrainingError, match=r"num_codes and data\.first_word: 16 given, 17 needed"):
        check_fit(illustrator.network, illustrator.decoder, load_captioned(CaptionedRecipe(**table)))
