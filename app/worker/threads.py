"""How many threads compute one batch or step: a setting of the calling thread, where the libraries have several."""

import torch


def compute_with(threads: int) -> None:
    """Have torch's operations on this thread use so many threads of the CPU."""
    torch.get_num_threads()  # its first call on a thread takes over the whole process's number: not after ours is set
    torch.set_num_threads(threads)
