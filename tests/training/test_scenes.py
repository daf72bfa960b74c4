import numpy as np
import pytest
import torch

from training import scenes
from training.captioned import ANIMALS
from training.scenes import COLOURS, FULL, SIDE, SIZES, Combination, Scene

BLOCK = torch.zeros(1, 1, 28, 28, dtype=torch.uint8)
BLOCK[0, 0, 4:12, 10:26] = 255  # 8 high, 16 wide


def test_every_combination_is_there_once_and_none_is_of_one_colour():
    found = scenes.combinations(ANIMALS)
    assert len(set(found)) == len(found) == 10 * 10 * 9
    assert all(one.colour != one.background for one in found)


def test_a_fifth_is_held_out_by_a_rule_that_anybody_can_apply():
    seen, held_out = scenes.split_combinations(ANIMALS, 0.2, 8)
    assert (len(seen), len(held_out)) == (720, 180)
    assert set(seen) | set(held_out) == set(scenes.combinations(ANIMALS))
    assert scenes.split_combinations(ANIMALS, 0.2, 8) == (seen, held_out)
    assert set(scenes.split_combinations(ANIMALS, 0.2, 9)[1]) != set(held_out)
    for part in ("animal", "colour", "background"):
        assert len({getattr(one, part) for one in seen}) == 10, "every word is learnt"


@pytest.mark.parametrize(
    ("form", "said"),
    [
        (FULL, "a small red elephant on an orange background"),
        ("a {colour} {animal} on a {background} background", "a red elephant on an orange background"),
        ("{colour} {animal}, {background} background", "red elephant, orange background"),
        ("a {animal}", "an elephant"),
    ],
)
def test_captions_have_the_right_article(form, said):
    assert Scene(Combination("elephant", "red", "orange"), "small").caption(form) == said


def test_silhouettes_are_cut_scaled_and_put_into_the_middle():
    small, large = scenes.coverage(BLOCK)[:, 0]
    for found, size in ((small, SIZES["small"]), (large, SIZES["large"])):
        assert found.shape == (SIDE, SIDE)
        rows, columns = (found > 127).any(1).nonzero()[:, 0], (found > 127).any(0).nonzero()[:, 0]
        assert len(columns) == size
        assert abs(len(rows) - size / 2) <= 1
        assert abs((columns[0] + columns[-1]) - (SIDE - 1)) <= 1, "in the middle"
        assert abs((rows[0] + rows[-1]) - (SIDE - 1)) <= 1


def test_a_picture_of_nothing_stays_one():
    assert not scenes.coverage(torch.zeros(1, 1, 28, 28, dtype=torch.uint8)).any()


def test_paint_mixes_by_how_far_a_pixel_is_covered():
    covered = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 1, 3)
    found = scenes.paint(covered, torch.tensor([[200, 0, 100]]), torch.tensor([[0, 50, 100]]))
    torch.testing.assert_close(found[0, :, 0], torch.tensor([[0.0, 40, 200], [50, 40, 0], [100, 100, 100]]))


@pytest.fixture
def labels():
    return torch.arange(10).repeat(3)


def test_drawn_scenes_show_what_their_captions_say(labels):
    chosen, held_out = scenes.split_combinations(ANIMALS, 0.2, 8)
    drawn = scenes.draw(300, labels, ANIMALS, chosen, seed=1)
    found = drawn.scenes(labels, ANIMALS)
    assert {scene.combination for scene in found} <= set(chosen)
    assert not {scene.combination for scene in found} & set(held_out)
    assert np.bincount(drawn.silhouettes, minlength=30).tolist() == [10] * 30
    assert {scene.size for scene in found} == set(SIZES)
    assert 100 < int(drawn.mirrored.sum()) < 200
    covered = torch.full((2, 30, SIDE, SIDE), 255, dtype=torch.uint8)
    covered[:, :, :, 0] = 0
    pictures = drawn.pictures(covered, torch.arange(300))
    for scene, picture, mirrored in zip(found, pictures, drawn.mirrored, strict=True):
        edge = -1 if mirrored else 0
        assert tuple(picture[:, 5, edge].tolist()) == COLOURS[scene.combination.background]
        assert tuple(picture[:, 5, 5].tolist()) == COLOURS[scene.combination.colour]


def test_scenes_depend_on_their_seed_alone(labels):
    chosen = scenes.combinations(ANIMALS)
    first, again = (scenes.draw(50, labels, ANIMALS, chosen, seed=1) for _ in range(2))
    other = scenes.draw(50, labels, ANIMALS, chosen, seed=2)
    assert torch.equal(first.colours, again.colours)
    assert not torch.equal(first.colours, other.colours)
    assert len(scenes.draw(0, labels, ANIMALS, chosen, seed=1).sizes) == 0


def test_softened_shapes_are_blurred_and_no_brighter():
    shapes = scenes.coverage(BLOCK)[0]
    soft = scenes.soften(shapes, 1.0)
    assert torch.equal(scenes.soften(shapes, 0.0), shapes)
    assert soft.shape == shapes.shape
    assert abs(soft.float().sum() / shapes.float().sum() - 1) < 0.02
    assert soft.float().diff(dim=-1).abs().max() < shapes.float().diff(dim=-1).abs().max() / 2


def test_shapes_for_a_judge_stand_at_every_size_and_sharpness(monkeypatch, tmp_path):
    random = np.random.default_rng(0)
    train, test = (random.integers(0, 256, (count, 28, 28), dtype=np.uint8) for count in (6, 4))
    arrays = train, np.arange(6, dtype=np.uint8), test, np.arange(4, dtype=np.uint8)
    monkeypatch.setattr(scenes, "read_animals", lambda folder, contents: arrays)
    shapes, labels, tested, test_labels = scenes.read_shapes(tmp_path, {})
    assert shapes.shape == (3 * 2 * 6, SIDE, SIDE)
    assert labels.tolist() == [*range(6)] * 6
    assert (tested.shape, test_labels.tolist()) == ((8, SIDE, SIDE), [*range(4)] * 2)
    sharp = scenes.coverage(torch.from_numpy(train).unsqueeze(1))
    assert np.array_equal(shapes[:6], sharp[0].numpy()), "first small ones as they are"
    assert np.array_equal(shapes[18:24], scenes.soften(sharp[1], 0.6).numpy()), (
        "then softer ones: the large of the second"
    )
