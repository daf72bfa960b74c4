import copy

import torch
from torch import nn

from training.best import Best


def filled(value):
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, value)
    return layer


def test_keeps_the_closest_and_says_whether_there_is_one():
    best = Best(filled(0))
    assert not best.found
    for value, distance in ((1, 9.0), (2, 4.0), (3, 5.0), (4, 4.0)):
        best.offer(filled(value), distance)
    assert best.found
    assert best.model.weight.item() == 2


def test_a_state_dict_carries_the_distance_too():
    best, other = Best(filled(0)), Best(filled(0))
    best.offer(filled(2), 4.0)
    other.load_state_dict(copy.deepcopy(best.state_dict()))
    other.offer(filled(3), 5.0)
    assert other.model.weight.item() == 2
    assert all(torch.isfinite(value).all() for value in Best(filled(0)).state_dict().values())
