import pytest
import torch

from training import depiction, scenes
from training.captioned import ANIMALS
from training.judge import Judge, Opinion, load_judge
from training.scenes import COLOURS, Combination, Scene, palette


class Eye:
    """Stands for a judge: it sees the class whose number is the count of covered rows."""

    def opinion(self, samples):
        assert samples.shape[1:] == (1, 32, 32)
        assert -1 <= samples.min() <= samples.max() <= 1
        rows = (samples[:, 0] > 0).any(2).sum(1).numpy()
        return Opinion(None, rows, None)


def picture(colour, background, rows=6, noise=0.0):
    """A bar of some rows on a background, [3, 32, 32] in [-1, 1]."""
    covered = torch.zeros(1, 32, 32, dtype=torch.uint8)
    covered[:, 10 : 10 + rows, 4:28] = 255
    named = palette()
    names = list(COLOURS)
    found = scenes.paint(covered, named[[names.index(colour)]], named[[names.index(background)]])[0] / 127.5 - 1
    return (found + noise * torch.randn(found.shape, generator=torch.Generator().manual_seed(0))).clamp(-1, 1)


PAIRS = [(a, b) for a in COLOURS for b in COLOURS if a != b]


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_every_pair_of_colours_is_found(noise):
    samples = torch.stack([picture(*pair, noise=noise) for pair in PAIRS])
    seen = depiction.look(samples, Eye())
    names = list(COLOURS)
    assert [(names[fore], names[back]) for fore, back in zip(seen.colours, seen.backgrounds, strict=True)] == PAIRS


def test_the_judge_sees_the_shape_alone():
    """A bar of six rows is a bar of six rows, whatever its colours are."""
    samples = torch.stack([picture(*pair) for pair in PAIRS])
    assert depiction.look(samples, Eye()).animals.tolist() == [6] * len(PAIRS)
    assert depiction.look(picture("red", "blue", rows=9)[None], Eye()).animals.tolist() == [9]


def test_a_pixel_between_two_colours_is_half_covered():
    samples = torch.full((1, 3, 1, 3), -1.0)
    samples[0, :, 0] = torch.tensor([[-1.0, 0.0, 1.0]]).expand(3, 3)
    shares = depiction.cut(samples, torch.ones(1, 3), -torch.ones(1, 3))
    torch.testing.assert_close(shares[0, 0, 0], torch.tensor([0.0, 0.5, 1.0]))


def test_a_picture_of_one_colour_shows_nothing():
    seen = depiction.look(torch.zeros(1, 3, 32, 32), Eye())
    assert seen.animals.tolist() == [0]
    assert torch.equal(seen.colours, seen.backgrounds)


def test_agreement_is_the_share_of_what_was_asked_for():
    asked = [
        Scene(Combination("cow", "red", "blue"), "small"),
        Scene(Combination("cow", "red", "blue"), "large"),
        Scene(Combination("bear", "pink", "black"), "small"),
        Scene(Combination("zebra", "white", "green"), "small"),
    ]
    names = list(COLOURS)
    seen = depiction.Seen(
        torch.tensor([ANIMALS.index(name) for name in ("cow", "bear", "bear", "zebra")]),
        torch.tensor([names.index(name) for name in ("red", "red", "pink", "black")]),
        torch.tensor([names.index(name) for name in ("blue", "green", "black", "green")]),
    )
    assert depiction.agreement(seen, asked, ANIMALS) == {"animal_found": 0.75, "colours_found": 0.5}


def test_a_judge_of_shapes_can_look(caption_folder):
    judge = load_judge(caption_folder / "shapes")
    assert isinstance(judge, Judge)
    seen = depiction.look(torch.stack([picture("red", "blue"), picture("black", "white")]), judge)
    assert seen.animals.shape == (2,)
