"""Linear algebra on batched, possibly complex tensors, through plain callables.

Every inner product conjugates its first argument. Leading ``batch_ndim`` axes are items: scalars
(step sizes, norms, stopping) are per item, so that no item influences another.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

_Map = Callable[[Tensor], Tensor]


def _inner(a: Tensor, b: Tensor, batch_ndim: int) -> Tensor:
    """Real part of ``<a, b>`` per item, ``(*items,)``."""
    items = a.shape[:batch_ndim]
    if a.is_complex():
        a, b = torch.view_as_real(a.resolve_conj()), torch.view_as_real(b.resolve_conj())
    inner: Tensor = torch.linalg.vecdot(a.reshape(*items, -1), b.reshape(*items, -1))
    return inner


def _per_item(values: Tensor, like: Tensor) -> Tensor:
    """``values`` of shape ``(*items,)``, ready to multiply ``like``."""
    return values.reshape(*values.shape, *(1,) * (like.ndim - values.ndim)).to(like.dtype)


def cg(matvec: _Map, b: Tensor, x0: Tensor | None = None, *, max_iter: int, tol: float = 0.0,
       batch_ndim: int = 0, on_step: Callable[[int, Tensor], None] | None = None,
       overwrite: bool = False) -> Tensor:
    """Solve ``M x = b`` for a Hermitian positive semidefinite ``M`` by conjugate gradients.

    Items stop one by one, when ``||b - M x|| <= tol ||b||``, and don't change afterwards. Where
    ``b`` or ``x0`` requires a gradient, it passes through every step (`LinearOperator.solve` has
    the gradient of the converged solution, in constant memory). Memory otherwise: three tensors
    like ``b`` besides what ``matvec`` allocates.

    Args:
        matvec: ``M``; must not mix items.
        b: right-hand side ``(*items, ...)``; not modified.
        x0: start, zero if None; not modified.
        max_iter: largest number of products with ``M``, without the one that ``x0`` costs.
        tol: relative residual at which an item stops; 0 runs ``max_iter`` steps.
        batch_ndim: number of leading axes that count items.
        on_step: called after step ``i`` (from 0) with a copy of ``x``.
        overwrite: work in the memory of ``b`` and ``x0``, which are lost; saves two tensors where
            no gradient is recorded.

    Returns:
        ``x``, shaped like ``b``. An item with ``b = 0`` and no ``x0`` gives 0.

    Source:
        Hestenes and Stiefel, J. Res. Natl. Bur. Stand. 49 (1952), 409.

    Example:
        >>> M = torch.tensor([[2.0, 1.0], [1.0, 3.0]])
        >>> cg(lambda v: M @ v, torch.tensor([3.0, 4.0]), max_iter=2).round(decimals=4).tolist()
        [1.0, 1.0]
    """
    recorded = torch.is_grad_enabled() and (
        b.requires_grad or (x0 is not None and x0.requires_grad))
    with torch.set_grad_enabled(recorded):
        return _cg(matvec, b, x0, max_iter, tol, batch_ndim, on_step,
                   recorded=recorded, owned=overwrite and not recorded)


def _cg(matvec: _Map, b: Tensor, x0: Tensor | None, max_iter: int, tol: float, batch_ndim: int,
        on_step: Callable[[int, Tensor], None] | None, *, recorded: bool, owned: bool) -> Tensor:
    """`cg`, in place unless its steps are ``recorded``; in the arguments if they are ``owned``."""
    add = torch.addcmul if recorded else Tensor.addcmul_
    x = torch.zeros_like(b) if x0 is None else x0
    size = _inner(b, b, batch_ndim)
    if recorded:
        r = b if x0 is None else b - matvec(x)
        p = r
    else:
        x = x if owned or x0 is None else x.clone()
        r = b if owned else b.clone()
        if x0 is not None:
            r.sub_(matvec(x))
        p = r.clone()
    rr = _inner(r, r, batch_ndim)
    rounding = (10 * torch.finfo(b.dtype).eps) ** 2 * torch.maximum(size, rr)
    target = torch.maximum(tol**2 * size, rounding).detach()  # below rounding, steps are noise
    for i in range(max_iter):
        active = rr > target
        if not active.any():
            break
        q = matvec(p)
        curvature = _inner(p, q, batch_ndim)
        step = _quotient(rr, curvature, active & (curvature > 0))
        x = add(x, p, _per_item(step, p))
        r = add(r, q, _per_item(-step, q))
        rr, previous = _inner(r, r, batch_ndim), rr
        share = _per_item(_quotient(rr, previous, active), p)
        p = torch.addcmul(r, p, share) if recorded else p.mul_(share).add_(r)
        del q  # the next product takes its memory
        if on_step is not None:
            on_step(i, x.detach().clone())
    return x


def _quotient(a: Tensor, b: Tensor, where: Tensor) -> Tensor:
    """``a / b`` there, 0 elsewhere, with finite gradients."""
    return torch.where(where, a / torch.where(where, b, 1.0), 0.0)


@torch.no_grad()
def spectral_norm(normal: _Map, shape: tuple[int, ...], dtype: torch.dtype, *,
                  device: torch.device | None = None, max_iter: int = 100,
                  tol: float = 2e-3) -> float:
    """Spectral norm ``||A||`` from ``A^H A``, by Lanczos steps from a fixed random start.

    The estimate is never above the norm, but for rounding. When the iteration stops, its square
    is within ``tol`` (relative) of an eigenvalue of ``A^H A``; on MRI and CT operators it was
    within ``tol / 5`` of the largest. Memory: three tensors like ``x`` besides what ``normal``
    allocates.

    Args:
        normal: ``A^H A``.
        shape: shape of its argument.
        dtype: dtype of its argument.
        device: where to run.
        max_iter: largest number of products.
        tol: residual of the largest Ritz pair, relative to its value, at which to stop.

    Source:
        Lanczos, J. Res. Natl. Bur. Stand. 45 (1950), 255.

    Example:
        >>> round(spectral_norm(lambda x: 9 * x, (4,), torch.float64), 6)
        3.0
    """
    start = torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(0)).to(device)
    v, previous = start / torch.linalg.vector_norm(start), torch.zeros_like(start)
    diagonal: list[float] = []
    beside: list[float] = [0.0]
    largest = 0.0
    for _ in range(max_iter):
        w = normal(v) - beside[-1] * previous
        diagonal.append(float(_inner(v.expand_as(w), w, 0)))
        w = w - diagonal[-1] * v
        norm = float(torch.linalg.vector_norm(w))
        tridiagonal = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
        tridiagonal += torch.diag(torch.tensor(beside[1:], dtype=torch.float64), -1)
        values, vectors = torch.linalg.eigh(tridiagonal)  # of the lower triangle
        largest = max(0.0, float(values[-1]))
        if norm * abs(float(vectors[-1, -1])) <= tol * largest:
            break
        beside.append(norm)
        v, previous = w / norm, v
    return math.sqrt(largest)


def standard_normal(like: Tensor, rng: torch.Generator | None = None) -> Tensor:
    """Noise shaped like ``like``; every real component has standard deviation 1.

    Args:
        like: gives shape, dtype (real or complex) and device.
        rng: source of randomness; torch's global one if None.

    Example:
        >>> standard_normal(torch.zeros(3, dtype=torch.complex64)).dtype
        torch.complex64
    """
    device = like.device if rng is None else rng.device
    noise = torch.randn(like.shape, dtype=like.dtype, generator=rng, device=device)
    return (noise * math.sqrt(2) if like.is_complex() else noise).to(like.device)


def gaussian_draw(normal: _Map, adjoint: _Map, y: Tensor, mean: Tensor, *, sigma: float,
                  rho: float, rng: torch.Generator | None = None, max_iter: int = 50,
                  tol: float = 1e-6, batch_ndim: int = 0) -> Tensor:
    """A draw from the Gaussian posterior of ``y = A x + sigma n``, ``x ~ N(mean, rho^2 I)``.

    Perturb and solve: with fresh noise ``n'`` on ``y`` and ``n''`` on ``mean``, the solution of
    ``(A^H A + (sigma/rho)^2 I) x = A^H (y + sigma n') + (sigma/rho)^2 (mean + rho n'')`` has
    exactly the posterior's mean and covariance ``(A^H A / sigma^2 + I / rho^2)^-1``, as far as
    the conjugate gradients have converged.

    Args:
        normal: ``A^H A``.
        adjoint: ``A^H``.
        y: measurement, ``(*items, ...)``.
        mean: prior mean, ``(*items, ...)``; also where the solver starts.
        sigma: standard deviation of each real component of the noise on ``y``.
        rho: standard deviation of each real component of ``x`` around ``mean``.
        rng: source of randomness; torch's global one if None.
        max_iter: largest number of conjugate gradient steps.
        tol: relative residual at which they stop.
        batch_ndim: number of leading axes that count items.

    Source:
        Papandreou and Yuille, "Gaussian sampling by local perturbations", NIPS 2010.

    Example:
        >>> y, mean = torch.ones(2, 2), torch.zeros(2, 2)
        >>> gaussian_draw(lambda x: x, lambda y: y, y, mean, sigma=0.1, rho=1.0).shape
        torch.Size([2, 2])
    """
    weight = (sigma / rho) ** 2
    measured = y + sigma * standard_normal(y, rng)
    expected = mean + rho * standard_normal(mean, rng)
    return cg(lambda v: normal(v) + weight * v, adjoint(measured) + weight * expected, mean,
              max_iter=max_iter, tol=tol, batch_ndim=batch_ndim)


def soft_threshold(x: Tensor, threshold: float | Tensor) -> Tensor:
    """Shrink the magnitude of ``x`` by ``threshold``, down to 0; phase or sign stays.

    It is the proximal map of ``threshold * sum |x|``.

    Example:
        >>> soft_threshold(torch.tensor([3 + 4j, 0.1j]), 1.0)
        tensor([2.4000+3.2000j, 0.0000+0.0000j])
    """
    return x - clip_magnitude(x, threshold)


def clip_magnitude(x: Tensor, limit: float | Tensor) -> Tensor:
    """Bring the magnitude of ``x`` down to at most ``limit``; phase or sign stays.

    Example:
        >>> clip_magnitude(torch.tensor([3 + 4j, 0.1j]), 1.0)
        tensor([0.6000+0.8000j, 0.0000+0.1000j])
    """
    if not x.is_complex() and not isinstance(limit, Tensor):
        return x.clamp(-limit, limit)
    magnitude = x.abs()
    return x * (limit / magnitude.clamp_(min=torch.finfo(magnitude.dtype).tiny)).clamp_(max=1)


def finite_difference(x: Tensor, axis: int, periodic: bool = False) -> Tensor:
    """Forward difference ``x[i + 1] - x[i]`` along ``axis``, shaped like ``x``.

    The last row is 0 (Neumann), or ``x[0] - x[-1]`` where ``periodic``.

    Example:
        >>> finite_difference(torch.tensor([1.0, 3.0, 6.0]), 0).tolist()
        [2.0, 3.0, 0.0]
    """
    if periodic:
        return x.roll(-1, axis) - x
    n = x.shape[axis]
    out = torch.zeros_like(x)
    here, there = x.narrow(axis, 0, n - 1), x.narrow(axis, 1, n - 1)
    inner = out.narrow(axis, 0, n - 1)
    if torch.is_grad_enabled() and x.requires_grad:
        inner.add_(there).sub_(here)
    else:  # in one pass
        torch.sub(there, here, out=inner)
    return out


def finite_difference_adjoint(v: Tensor, axis: int, periodic: bool = False) -> Tensor:
    """Adjoint of `finite_difference`: minus a backward difference.

    Example:
        >>> finite_difference_adjoint(torch.tensor([2.0, 3.0, 0.0]), 0).tolist()
        [-2.0, -1.0, 3.0]
    """
    if periodic:
        return v.roll(1, axis) - v
    n = v.shape[axis]
    inner = v.narrow(axis, 0, n - 1)
    out = torch.zeros_like(v)
    out.narrow(axis, 1, n - 1).add_(inner)
    out.narrow(axis, 0, n - 1).sub_(inner)
    return out
