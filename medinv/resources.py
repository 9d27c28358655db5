"""What a block of code costs: seconds, peak memory, and tensors alive at once."""

from __future__ import annotations

import ctypes
import sys
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from medinv.errors import InputError

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


class TensorCount(TorchDispatchMode):
    """Bytes of the tensors that a block makes, alive at once, whatever memory they lie in.

    Exact and free of noise, for comparing algorithms. What a kernel needs inside one operation is
    not counted, nor is what exists before the block.

    Attributes:
        peak_bytes: most bytes alive at once, since the start or since it was last set.
        alive_bytes: bytes alive now.

    Example:
        >>> with TensorCount() as count:
        ...     x = torch.ones(1000)
        ...     x = x + x + x
        >>> count.alive_bytes, count.peak_bytes  # x and a sum, then two sums beside x
        (4000, 12000)
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.alive_bytes = self.peak_bytes = 0
        self._known: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(self, func: Callable[..., Any], types: object,  # noqa: ARG002, D105
                           args: tuple[Any, ...] = (),
                           kwargs: Mapping[str, Any] | None = None) -> object:
        given = {_storage_key(x) for x in tree_leaves((args, kwargs)) if _is_dense(x)}
        result = func(*args, **(kwargs or {}))
        for x in tree_leaves(result):
            if _is_dense(x) and _storage_key(x) not in given:
                self._add(x.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._known:
            return
        n_bytes = storage.nbytes()

        def gone(_: object) -> None:
            del self._known[key]
            self.alive_bytes -= n_bytes

        self._known[key] = weakref.ref(storage, gone)
        self.alive_bytes += n_bytes
        self.peak_bytes = max(self.peak_bytes, self.alive_bytes)


def _is_dense(x: object) -> bool:
    return isinstance(x, Tensor) and x.layout == torch.strided


def _storage_key(x: Tensor) -> int:
    key: int = x.untyped_storage()._cdata
    return key


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


def available_bytes(root: Path = Path("/")) -> int | None:
    """Memory that this process may still take: of its control group, if that is less.

    Args:
        root: where ``proc`` and ``sys`` are.

    Returns:
        Bytes, or None where the system does not say (it is not Linux).
    """
    found = [room for room in (_machine_room(root), *_group_rooms(root)) if room is not None]
    return min(found, default=None)


def choose_device(name: str) -> torch.device:
    """The device called ``name``; ``"auto"`` is the first CUDA device, or the CPU without one.

    Raises:
        InputError: no such device.

    Example:
        >>> choose_device("cpu")
        device(type='cpu')
    """
    there = torch.cuda.is_available()
    if name == "auto":
        name = "cuda" if there else "cpu"
    if name == "cuda" and not there:
        raise InputError("device: cuda is asked for, but torch finds no CUDA device; take auto or "
                         "cpu, or install torch with CUDA")
    return torch.device("cuda", 0) if name == "cuda" else torch.device(name)


def device_bytes(device: torch.device) -> tuple[int, int] | None:
    """What torch's tensors hold on a CUDA device, and what they may still take; None on a CPU."""
    if device.type != "cuda":
        return None
    held = torch.cuda.memory_allocated(device)
    unused = torch.cuda.memory_reserved(device) - held
    return held, torch.cuda.mem_get_info(device)[0] + unused


def held_bytes() -> int:
    """Memory that this process holds now (its largest so far, where the system says no more)."""
    _give_back()
    try:
        return _status_bytes("VmRSS")
    except OSError:
        return _ProcessGauge().peak()


def _machine_room(root: Path) -> int | None:
    with suppress(OSError, ValueError, IndexError):
        for line in (root / "proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * _KIB
    return None


def _group_rooms(root: Path) -> Iterator[int | None]:
    """Of control groups, version 2 and 1; without what only caches files."""
    groups = root / "sys/fs/cgroup"
    for folder, limit, usage, cache in (
        (groups, "memory.max", "memory.current", "inactive_file"),
        (groups / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes",
         "total_inactive_file"),
    ):
        with suppress(OSError, ValueError):
            pairs = (line.split() for line in (folder / "memory.stat").read_text().splitlines())
            cached = int(dict(pairs).get(cache, 0))
            used = int((folder / usage).read_text()) - cached
            yield int((folder / limit).read_text()) - used
