"""The arithmetic of networks: single precision, or bfloat16 where that is faster.

In bfloat16 a network's layers compute with 8 bits of mantissa; its weights, what surrounds it
(preconditioning, solvers, operators) and everything that is not a network stay in single
precision. Who does not choose gets what the environment variable MEDINV_PRECISION says (float32
or bfloat16), and where that is not set, bfloat16 if a convolution is faster in it. A GPU tells by
its generation. No public call of torch tells of a CPU, so there a small convolution is timed once
per process, in processor time of one thread, which other programs do not disturb: with the
instructions for it bfloat16 takes half the time, without them at least twice as long.
"""

from __future__ import annotations

import os
import time
from functools import lru_cache

import torch
import torch.nn.functional as F

from medinv.errors import InputError

DTYPES = {"auto": None, "float32": torch.float32, "bfloat16": torch.bfloat16}
"""What a user may choose, in a recipe or in the environment variable."""

VARIABLE = "MEDINV_PRECISION"
_FASTER = 1.3  # times that bfloat16 must be faster on a CPU: between 2 and 1 / 2, where none lies


def default_dtype(device: torch.device) -> torch.dtype:
    """What the layers of a network compute in where nobody chose.

    Raises:
        InputError: the environment variable holds something else than a precision.

    Example:
        >>> default_dtype(torch.device("cpu")) in (torch.float32, torch.bfloat16)
        True
    """
    name = os.environ.get(VARIABLE) or "auto"
    if name not in DTYPES:
        raise InputError(f"{VARIABLE}: expected {', '.join(DTYPES)}, got {name!r}; set it to one "
                         "of them, or unset it")
    return DTYPES[name] or (torch.bfloat16 if _bfloat16_is_faster(device) else torch.float32)


@lru_cache(maxsize=8)
def _bfloat16_is_faster(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _seconds(torch.float32) > _FASTER * _seconds(torch.bfloat16)
    finally:
        torch.set_num_threads(threads)


@torch.no_grad()
def _seconds(dtype: torch.dtype) -> float:
    """Processor time of a 3x3 convolution of 64 channels of 32 x 32 pixels; the best of five."""
    x = torch.ones(1, 64, 32, 32, dtype=dtype).contiguous(memory_format=torch.channels_last)
    weight = torch.ones(64, 64, 3, 3, dtype=dtype).contiguous(memory_format=torch.channels_last)
    times = []
    for _ in range(5):
        start = time.thread_time()
        F.conv2d(x, weight, padding=1)
        times.append(time.thread_time() - start)
    return min(times)
