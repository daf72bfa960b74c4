"""Which device computes, and errors that mean more than a failed network: no memory left, a device that is lost."""

import subprocess
import sys
import weakref

import pytest
import torch

from app.worker.device import describe, is_lost, is_out_of_memory, resolve_device, tell_apart
from app.worker.faults import DeviceLost, RegistryError, reason
from tests.serving import ROOT

CPU = torch.device("cpu")


def allocation_failed():
    """What the runtime says when it, and not torch's allocator, finds no memory."""
    error = torch.AcceleratorError("CUDA error: out of memory")
    error.error_code = 2
    return error


def illegal_address():
    error = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    error.error_code = 700
    return error


MEMORY = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried to ..."),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("std::bad_alloc"),
    allocation_failed(),
]
LOST = [torch.AcceleratorError("CUDA error: device-side assert triggered"), illegal_address()]
OTHERS = [ValueError("DefaultCPUAllocator: can't allocate memory"), RuntimeError("a shape does not fit"), IndexError()]


@pytest.mark.parametrize("error", MEMORY, ids=repr)
def test_memory_that_ran_out(error):
    assert is_out_of_memory(error)
    with pytest.raises(MemoryError) as caught:
        tell_apart(error, CPU)
    assert reason(caught.value) == "out of memory"


@pytest.mark.parametrize("error", LOST, ids=repr)
def test_a_lost_device(error):
    assert is_lost(error, CPU)
    with pytest.raises(DeviceLost, match=str(error)):
        tell_apart(error, CPU)


@pytest.mark.parametrize("error", OTHERS, ids=repr)
def test_other_errors_are_the_network_s_own(error):
    assert not is_out_of_memory(error)
    assert not is_lost(error, CPU)
    tell_apart(error, CPU)
    assert reason(error) == f"the model raised {type(error).__name__}"


@pytest.mark.parametrize("lost", [True, False])
def test_a_library_s_own_error_hides_no_lost_device(monkeypatch, lost):
    """cuBLAS and cuDNN raise plain errors; a call that has nothing to do shows how things are."""
    asked = []

    def synchronize(device):
        asked.append(device)
        if lost:
            raise torch.AcceleratorError("CUDA error: unspecified launch failure")

    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    device, error = torch.device("cuda:1"), RuntimeError("CUBLAS_STATUS_EXECUTION_FAILED")
    assert is_lost(error, device) == lost
    assert asked == [device]


def test_memory_that_a_device_has_cached_is_given_back(monkeypatch):
    emptied = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(1))
    with pytest.raises(MemoryError):
        tell_apart(torch.OutOfMemoryError("CUDA out of memory"), torch.device("cuda"))
    assert emptied == [1]


def test_nobody_who_isolates_failures_takes_a_lost_device_for_one():
    assert not issubclass(DeviceLost, Exception)


def test_a_real_allocation_that_is_too_large():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


def test_the_tensors_of_what_failed_are_free_when_it_is_told():
    held = []

    def compute():
        activations = torch.zeros(4)
        held.append(weakref.ref(activations))
        raise torch.OutOfMemoryError("CUDA out of memory")

    try:
        compute()
    except RuntimeError as error:
        with pytest.raises(MemoryError):
            tell_apart(error, CPU)
        assert held[0]() is None


ON_A_GPU = """
import torch
from app.worker.device import is_lost, tell_apart
from app.worker.faults import DeviceLost
device = torch.device("cuda")
try:
    torch.empty(1 << 50, dtype=torch.uint8, device=device)
except Exception as error:
    try:
        tell_apart(error, device)
    except MemoryError:
        print("memory", flush=True)
assert not is_lost(ValueError(), device)
try:
    torch.zeros(4, device=device)[torch.tensor([9], device=device)].cpu()
except Exception as error:
    try:
        tell_apart(error, device)
    except DeviceLost:
        print("lost", is_lost(ValueError(), device), flush=True)
"""


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_real_device():
    """In a process of its own, which can't use the device afterwards."""
    command = [sys.executable, "-c", ON_A_GPU]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=110, cwd=ROOT)
    assert done.stdout == "memory\nlost True\n", done.stderr


def test_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == CPU
    assert resolve_device("cpu") == CPU
    with pytest.raises(RegistryError, match=r"device cuda:1: this torch .* sees no CUDA device"):
        resolve_device("cuda:1")


def test_cuda_devices_are_deterministic_and_counted(monkeypatch):
    """Played with a torch that claims to see one device."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"Fake {device}")
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    device = resolve_device("auto")
    assert device.type == "cuda"
    assert torch.backends.cudnn.deterministic
    assert describe(device).device == "Fake cuda"
    with pytest.raises(RegistryError, match="only 1 CUDA devices"):
        resolve_device("cuda:1")
