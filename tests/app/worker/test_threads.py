"""One thread leads whatever several compute, whoever asks."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from app.worker.threads import on_threads


def where(threads):
    return on_threads(threads, lambda: (threading.get_ident(), torch.get_num_threads()))


def test_alone_it_is_computed_here():
    assert where(1) == (threading.get_ident(), 1)


def test_everybody_s_company_has_the_same_leader():
    with ThreadPoolExecutor(3) as pool:
        leaders = {*pool.map(where, [2, 2, 3, 2]), where(2)}
    assert {threads for _, threads in leaders} == {2, 3}
    assert len({leader for leader, _ in leaders}) == 1
    assert threading.get_ident() not in {leader for leader, _ in leaders}
    assert torch.get_num_threads() == 1 or where(1)[1] == 1, "who asked computes as before"


def test_the_leader_does_not_wait_for_itself():
    assert on_threads(2, lambda: on_threads(3, torch.get_num_threads)) == 3


class Unusual(BaseException):
    """What no `except Exception` catches."""


@pytest.mark.parametrize("kind", [ValueError, MemoryError, Unusual])
def test_what_it_raises_is_raised_where_it_was_asked_for(kind):
    def fail():
        raise kind("told")

    with pytest.raises(kind, match="told"):
        on_threads(2, fail)
    assert on_threads(2, lambda: 5) == 5, "it goes on"
