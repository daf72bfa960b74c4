"""A worker whose parent is gone computes for nobody."""

import ctypes
import logging
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h

log = logging.getLogger("genserve.worker")


def end_with(parent: int) -> bool:
    """Have the kernel kill this process when its parent dies; False when that is the case already.

    The closed link ends a worker too, but only once it reads it: not while it loads, computes or hangs. The signal
    comes with the end of the *thread* that started this process. Elsewhere than on Linux the link has to do.
    """
    if sys.platform != "linux":
        return True
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        log.warning("the kernel won't end this worker with its parent: %s", os.strerror(ctypes.get_errno()))
    return os.getppid() == parent  # it may have died before the kernel was asked
