"""What a block of code costs: seconds and peak memory."""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch

_KIB = 1024


@dataclass
class Resources:
    """Filled in when the block of `measure` ends.

    Attributes:
        seconds: wall-clock time.
        peak_bytes: most memory held during the block beyond what was held on entry; of the process
            on a CPU, of the allocator on a CUDA device.
    """

    seconds: float = 0.0
    peak_bytes: int = 0


@contextmanager
def measure(device: torch.device | str = "cpu") -> Iterator[Resources]:
    """Measure the block, on the CPU or on one CUDA device. Blocks must not be nested.

    Linux resets the process's peak on entry. Elsewhere the peak since the process started stands
    in, so that ``peak_bytes`` is a lower bound.

    >>> with measure() as cost:
    ...     x = torch.ones(1000)
    >>> cost.seconds > 0 and cost.peak_bytes >= 0
    True
    """
    cost, gauge = Resources(), _gauge(torch.device(device))
    held = gauge.reset()
    start = time.perf_counter()
    try:
        yield cost
    finally:
        peak = gauge.peak()
        cost.seconds = time.perf_counter() - start
        cost.peak_bytes = max(peak - held, 0)


@dataclass(frozen=True)
class _ProcessGauge:
    def reset(self) -> int:
        """Forget the peak so far; bytes held now."""
        try:
            _give_back()
            Path("/proc/self/clear_refs").write_text("5")
            return _status_bytes("VmRSS")
        except OSError:
            return self.peak()

    def peak(self) -> int:
        """Most bytes held since the reset (since the start, where it could not be reset)."""
        try:
            return _status_bytes("VmHWM")
        except OSError:
            import resource

            unit = 1 if sys.platform == "darwin" else _KIB
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@dataclass(frozen=True)
class _CudaGauge:
    device: torch.device

    def reset(self) -> int:
        """Forget the peak so far; bytes held now."""
        torch.cuda.synchronize(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        return torch.cuda.memory_allocated(self.device)

    def peak(self) -> int:
        """Most bytes held since the reset, after all queued work is done."""
        torch.cuda.synchronize(self.device)
        return torch.cuda.max_memory_allocated(self.device)


def _gauge(device: torch.device) -> _ProcessGauge | _CudaGauge:
    return _CudaGauge(device) if device.type == "cuda" else _ProcessGauge()


def _give_back() -> None:
    """Return freed memory to the system (glibc), so that using it again is seen."""
    with suppress(AttributeError, TypeError):  # other C libraries have no such call
        ctypes.CDLL(None).malloc_trim(0)


def _status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * _KIB
    raise OSError(f"/proc/self/status has no {field}")
