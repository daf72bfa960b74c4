"""The device that computes: which one it is, and what an exception says about it.

torch raises `RuntimeError` for nearly everything. Of its subclasses, `torch.OutOfMemoryError` leaves the device as it
was; `torch.AcceleratorError` is what a call of the CUDA runtime returned: an assertion or an illegal address in a
kernel, a fault of the hardware. Such an error sticks: the context is lost, and with it all memory of this process.
"""

import traceback

import torch

from app.engine.jobs import Runtime
from app.worker.faults import DeviceLost, RegistryError

ALLOCATION_FAILED = 2  # cudaErrorMemoryAllocation and hipErrorOutOfMemory: the one error of the runtime that passes
OUT_OF_MEMORY = (  # what those say who have no type of their own for it
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "std::bad_alloc",
)


def resolve_device(name: str) -> torch.device:
    """A usable torch device; "auto" is CUDA when there is one.

    Raises:
        RegistryError: CUDA was asked for and is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise RegistryError(f"device {name}: this torch ({torch.__version__}) sees no CUDA device")
        if (device.index or 0) >= torch.cuda.device_count():
            raise RegistryError(f"device {name}: only {torch.cuda.device_count()} CUDA devices are there")
        torch.backends.cudnn.deterministic = True  # the same bits for the same batch, run after run
        torch.backends.cudnn.benchmark = False
    return device


def describe(device: torch.device) -> Runtime:
    """What decides the bits of an output besides the model."""
    kind = "cpu" if device.type == "cpu" else torch.cuda.get_device_name(device)
    return Runtime(kind, torch.__version__)


def tell_apart(error: Exception, device: torch.device) -> None:
    """Raise something better than `error`, just caught from a network, where it says more than that the network failed.

    Raises:
        MemoryError: memory ran out; what the network had allocated is free again.
        DeviceLost: the device can't be used any more.
    """
    if is_out_of_memory(error):
        traceback.clear_frames(error.__traceback__)  # whose variables are the tensors of the batch
        if device.type == "cuda":
            torch.cuda.empty_cache()
        raise MemoryError(str(error)) from None
    if is_lost(error, device):
        raise DeviceLost(f"{type(error).__name__}: {error}") from error


def is_out_of_memory(error: Exception) -> bool:
    """Whether an allocation failed, of the device's memory or of the host's."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    if isinstance(error, torch.AcceleratorError):
        return getattr(error, "error_code", None) == ALLOCATION_FAILED
    return isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)


def is_lost(error: Exception, device: torch.device) -> bool:
    """Whether the device is lost: by the error's type, or, as libraries have their own, because a plain call fails."""
    if isinstance(error, torch.AcceleratorError):
        return True
    if device.type != "cuda":
        return False
    try:
        torch.cuda.synchronize(device)
    except RuntimeError:
        return True
    return False
