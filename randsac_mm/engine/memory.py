"""Memory of a process that trains on a CPU."""

import ctypes
import platform

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # names of options in glibc's malloc.h
_MOST = 2**31 - 1  # bytes


def keep_freed_memory() -> bool:
    """Let this process keep what it frees, instead of giving it back to the system and asking again in every step.

    A training step frees and asks for the same gigabytes again and again, and each time the system hands out pages full
    of zeros, 4 KiB by 4 KiB. The price: the process holds its greatest amount of memory until it ends. Only glibc can
    be told so, that is Linux other than Alpine.

    Returns:
        Whether it was possible.

    Example:
        >>> keep_freed_memory() in (True, False)
        True
    """
    if platform.system() != 'Linux' or platform.libc_ver()[0] != 'glibc':
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_MMAP_THRESHOLD, _MOST) and mallopt(_TRIM_THRESHOLD, _MOST))
