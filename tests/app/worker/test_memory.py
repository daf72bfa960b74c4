"""What there is of memory."""

import torch

from app.worker import memory

CPU = torch.device("cpu")


def test_available_memory_heeds_the_control_group(tmp_path, monkeypatch):
    total = memory.available_bytes(CPU)
    assert 0 < total < 1 << 50
    limit, used = tmp_path / "max", tmp_path / "current"
    monkeypatch.setattr(memory, "CGROUP_LIMIT", limit)
    monkeypatch.setattr(memory, "CGROUP_USED", used)
    limit.write_text("5000\n")
    used.write_text("1000\n")
    assert memory.available_bytes(CPU) == 4000
    limit.write_text("max\n")
    assert memory.available_bytes(CPU) > 4000


def test_a_gpu_says_itself_what_is_free(monkeypatch):
    """Played with a torch that claims to see one device."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (7, 9))
    assert memory.available_bytes(torch.device("cuda")) == 7
