"""Mode collapse on a ring of eight Gaussians: seen, and mended by looking ahead."""

import pytest
import torch

from training import ring
from training.ring import Game, Outcome


def test_the_mixture_covers_all_of_its_modes():
    torch.manual_seed(0)
    found = ring.look(ring.draw(2000))
    assert found.modes == ring.MODES
    assert found.share > 0.98  # three deviations in two dimensions: 98.9 %


def test_modes_are_counted_where_points_are_many_and_near():
    few = ring.centres()[[0, 3]]
    assert ring.look(few.repeat(100, 1)) == Outcome(2, 1.0)
    assert ring.look(few.repeat(100, 1) + torch.tensor([0.0, 4 * ring.DEVIATION])) == Outcome(0, 0.0)
    stray = torch.cat([few.repeat(100, 1), ring.centres()])  # one point of 208 is no mode
    assert ring.look(stray) == Outcome(2, 1.0)


def test_collapse_is_seen_and_mended_by_looking_ahead():
    """Equal steps from equal weights: the plain game chases round the ring, the other settles on it."""
    plain, ahead = (ring.play(Game("non-saturating", unrolled, 300, seed=0)) for unrolled in (0, 3))
    assert plain.modes <= 3
    assert ahead.modes >= 6


def test_a_game_is_its_seed_s_and_leaves_the_generator_alone():
    before = torch.get_rng_state()
    first, second = (ring.play(Game("hinge", 2, 5, 1)) for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    assert first == second
    players = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        players.append(ring.Players(Game("hinge", 0, 5, seed)).make(3))
    assert not torch.equal(*players)


def test_looking_ahead_moves_the_generator_alone():
    found = []
    for unrolled in (0, 3):
        torch.manual_seed(0)
        players = ring.Players(Game("non-saturating", unrolled, 1, 0))
        players.step()
        found.append(players)
    plain, ahead = found
    for one, other in zip(plain._discriminator.parameters(), ahead._discriminator.parameters(), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(plain.generator[0].weight, ahead.generator[0].weight)


def test_the_table_has_a_line_for_each_kind_of_game(capsys):
    assert ring.main(["--losses", "hinge,saturating", "--unrolled", "0,1", "--steps", "2", "--seeds", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[:2] for line in lines[2:]] == [
        [f"| {loss}", k] for loss in ("hinge", "saturating") for k in ("0", "1")
    ]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--losses", "hinge,best"], "--losses best: one of saturating"),
        (["--unrolled", "0,x"], "--unrolled 0,x: whole numbers up to 100"),
        (["--unrolled", "101"], "--unrolled 101"),
        (["--steps", "0"], "--steps and --seeds: at least 1"),
    ],
)
def test_wrong_flags_are_named(flags, said, capsys):
    assert ring.main(flags) == 1
    assert said in capsys.readouterr().err
