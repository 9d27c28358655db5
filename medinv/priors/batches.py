"""Where memory runs out, go on with half as many images at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

T = TypeVar("T")
_MESSAGES = ("not enough memory", "can't allocate memory", "out of memory")


def halving(prior: nn.Module, compute: Callable[[], T]) -> T:
    """``compute()``; while its memory does not suffice, again with every ``chunk`` halved.

    The smaller chunks stay, in the prior and in all that it wraps, so that later calls fit. Where
    gradients are recorded the error passes: a graph is computed again with the chunks that it was
    made with, so whoever asked for the gradient starts anew.

    Args:
        prior: whose modules' ``chunk`` bounds how many images are computed at once.
        compute: uses the prior, and may be called several times.

    Raises:
        MemoryError, RuntimeError: that of the last try, with chunks of one image.

    Example:
        >>> prior = nn.Module()
        >>> prior.chunk = 8
        >>> def compute():
        ...     if prior.chunk > 2:
        ...         raise MemoryError
        ...     return "done"
        >>> with torch.no_grad():
        ...     halving(prior, compute), prior.chunk
        ('done', 2)
    """
    while not torch.is_grad_enabled():
        try:
            return compute()
        except (MemoryError, RuntimeError) as error:
            if not (_is_out_of_memory(error) and _halve(prior)):
                raise
        if torch.cuda.is_available():  # after the error, with all that it held on to, is gone
            torch.cuda.empty_cache()
    return compute()


def in_parts(compute: Callable[..., Tensor],
             parts: Sequence[Sequence[Any]]) -> Tensor:
    """``compute`` of each part, joined; where gradients are recorded, in the memory of one part.

    Several parts are then computed again on the way back, one by one, instead of keeping what the
    network remembers of each. A single part keeps it, so that further gradients cost no forward.

    Args:
        compute: gives a tensor for the arguments of a part.
        parts: the arguments of each.

    Example:
        >>> in_parts(lambda x, y: x * y, [(torch.ones(2), 2), (torch.ones(1), 3)])
        tensor([2., 2., 3.])
    """
    if len(parts) == 1 or not torch.is_grad_enabled():
        return torch.cat([compute(*part) for part in parts])
    return torch.cat([checkpoint(compute, *part, use_reentrant=False) for part in parts])


def raise_chunks(prior: nn.Module, factor: int) -> None:
    """Multiply every module's ``chunk``, for a device that works best on many images at once.

    Example:
        >>> prior = nn.Module()
        >>> prior.chunk = 8
        >>> raise_chunks(prior, 4)
        >>> prior.chunk
        32
    """
    _change_chunks(prior, lambda chunk: factor * chunk)


def limit_chunks(prior: nn.Module, most: int) -> None:
    """Let no module's ``chunk`` be above ``most``.

    Example:
        >>> prior = nn.Module()
        >>> prior.chunk = 8
        >>> limit_chunks(prior, 3)
        >>> prior.chunk
        3
    """
    _change_chunks(prior, lambda chunk: min(chunk, most))


def largest_chunk(prior: nn.Module) -> int:
    """The largest ``chunk`` of the modules, 1 if none has one."""
    chunks = [getattr(module, "chunk", 1) for module in prior.modules()]
    return max(chunk for chunk in chunks if isinstance(chunk, int))


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    return any(message in str(error) for message in _MESSAGES)


def _halve(prior: nn.Module) -> bool:
    """Halve all chunks above 1; whether there was one."""
    found = largest_chunk(prior) > 1
    _change_chunks(prior, lambda chunk: max(1, chunk // 2))
    return found


def _change_chunks(prior: nn.Module, change: Callable[[int], int]) -> None:
    for module in prior.modules():
        chunk = getattr(module, "chunk", None)
        if isinstance(chunk, int):
            module.chunk = change(chunk)  # type: ignore[assignment]
