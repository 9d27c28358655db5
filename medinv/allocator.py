"""Freed memory that the process keeps, so that the kernel need not clear it again.

The C library asks the kernel for every array above 128 KiB to 32 MiB anew, and gives it back when
it is freed: each page is then cleared and mapped again at its first use. Solvers and networks
make and free such arrays all the time, and on small machines up to a third of their time went
there (`benchmarks/page_faults.py`). The commands of medinv keep the memory instead. A library
must not decide that for its host: ``import medinv`` changes nothing, and `keep_memory` is there
for scripts.
"""

from __future__ import annotations

import ctypes
import sys

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_NEVER = 2**31 - 1
_GROWTH = 64 * 2**20  # bytes taken from the kernel at once


def keep_memory() -> bool:
    """Let this process keep the memory that it frees, for what it makes next.

    Call it before the work, once. It holds for the whole process and for all libraries in it:
    what the process holds does not fall when arrays are freed, and its peak may rise by a third,
    since free memory is in pieces. The commands of medinv call it themselves.

    Returns:
        Whether the C library took the setting; other libraries than glibc (macOS, Windows,
        Alpine) know none, and nothing happens there.

    Example:
        >>> import medinv
        >>> kept = medinv.keep_memory()  # doctest: +SKIP
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _NEVER), (_M_TOP_PAD, _GROWTH))
    return all([mallopt(name, value) == 1 for name, value in settings])
