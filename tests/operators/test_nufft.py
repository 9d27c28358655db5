from __future__ import annotations

import copy
import math
import pickle
import sys

import pytest
import torch

from medinv.errors import DependencyError, InputError
from medinv.operators import fourier, nufft
from medinv.operators.nufft import NUFFT, toeplitz_normal, toeplitz_spectrum

GRIDS = [(9,), (8, 6), (7, 9), (5, 1), (6, 5, 4)]


def samples(grid, rng, n=40):
    unit = torch.rand(n, len(grid), generator=rng, dtype=torch.float64) - 0.5
    return unit * torch.tensor(grid)


def direct(points, grid):
    """The Fourier sum as a matrix, ``(sample, pixel)``."""
    axes = [(torch.arange(n, dtype=torch.float64) - n // 2) / n for n in grid]
    pixels = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(grid))
    return torch.exp(-2j * math.pi * (points @ pixels.T)) / math.sqrt(math.prod(grid))


def error(a, b):
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("eps", [1e-2, 1e-3, 1e-4, 1e-6, 1e-9, 1e-12])
def test_equals_the_direct_sum_to_the_asked_accuracy(grid, eps, rng):
    points, x = samples(grid, rng), torch.randn(2, *grid, dtype=torch.complex128, generator=rng)
    matrix, transform = direct(points, grid), NUFFT(points, grid, eps)
    y = transform.forward(x)
    assert error(y, x.flatten(1) @ matrix.T) < eps
    assert error(transform.adjoint(y).flatten(1), y @ matrix.conj()) < eps


@pytest.mark.parametrize("eps", [1e-3, 1e-4, 1e-5, 1e-6])
def test_single_precision_data_meet_the_accuracy_on_a_large_grid(eps, rng):
    grid = (320, 320)
    points, x = samples(grid, rng), torch.randn(1, *grid, dtype=torch.complex64, generator=rng)
    expected = x.flatten(1).to(torch.complex128) @ direct(points, grid).T
    y = NUFFT(points, grid, eps).forward(x)
    assert y.dtype == torch.complex64
    assert error(y, expected) < eps


@pytest.mark.parametrize(("eps", "dtype"), [(1e-4, torch.complex64), (1e-5, torch.complex128)])
def test_plans_are_double_only_where_single_cannot_reach_the_accuracy(eps, dtype):
    transform = NUFFT(torch.zeros(1, 2), (320, 320), eps)
    transform.forward(torch.zeros(1, 320, 320, dtype=torch.complex64))
    assert [key[1] for key in transform._plans] == [dtype]


@pytest.mark.parametrize("grid", [(8,), (7, 6), (4, 5, 3)])
def test_whole_numbers_are_the_fft(grid, rng):
    numbers = [torch.arange(n, dtype=torch.float64) - n // 2 for n in grid]
    points = torch.stack(torch.meshgrid(*numbers, indexing="ij"), -1).reshape(-1, len(grid))
    x = torch.randn(1, *grid, dtype=torch.complex128, generator=rng)
    expected = fourier.fft(x, range(1, x.ndim)).flatten(1)
    torch.testing.assert_close(NUFFT(points, grid, 1e-13).forward(x), expected)


def test_frequencies_are_periodic_beyond_the_edge(rng):
    x = torch.randn(1, 6, 8, dtype=torch.complex128, generator=rng)
    points = samples((6, 8), rng)
    moved = points + torch.tensor([6.0, -8.0])
    torch.testing.assert_close(NUFFT(moved, (6, 8), 1e-12).forward(x),
                               NUFFT(points, (6, 8), 1e-12).forward(x))


def test_adjoint_is_exact_whatever_the_accuracy(rng):
    transform = NUFFT(samples((9, 8), rng), (9, 8), 1e-2)
    x = torch.randn(2, 9, 8, dtype=torch.complex128, generator=rng)
    y = torch.randn(2, 40, dtype=torch.complex128, generator=rng)
    forward, adjoint = transform.forward(x), transform.adjoint(y)
    torch.testing.assert_close(torch.vdot(y.flatten(), forward.flatten()),
                               torch.vdot(adjoint.flatten(), x.flatten()), rtol=1e-13, atol=0)


def test_plans_are_made_once_per_number_of_transforms(rng, monkeypatch):
    made = []
    make = nufft._cpu_plan
    monkeypatch.setattr(nufft, "_cpu_plan",
                        lambda points, grid, n, eps: made.append(n) or make(points, grid, n, eps))
    transform = NUFFT(samples((6, 8), rng), (6, 8))
    for n in (1, 3, 3, 1):
        y = transform.forward(torch.ones(n, 6, 8, dtype=torch.complex128))
        transform.adjoint(y)
    assert made == [1, 3]


@pytest.mark.parametrize("duplicate", [lambda a: pickle.loads(pickle.dumps(a)), copy.deepcopy],
                         ids=["pickle", "deepcopy"])
def test_plans_are_not_copied(duplicate, rng):
    transform = NUFFT(samples((6, 8), rng), (6, 8))
    x = torch.randn(1, 6, 8, dtype=torch.complex128, generator=rng)
    y = transform.forward(x)
    copied = duplicate(transform)
    assert copied._plans == {}
    assert transform._plans != {}
    assert torch.equal(copied.forward(x), y)


def test_conjugate_and_strided_views(rng):
    transform = NUFFT(samples((6, 6), rng), (6, 6))
    x = torch.randn(1, 6, 6, dtype=torch.complex128, generator=rng)
    for view in (x.conj(), x.mT):
        torch.testing.assert_close(transform.forward(view),
                                   transform.forward(view.clone().resolve_conj()))


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("block", [1, 2, 3])
def test_toeplitz_equals_the_direct_sum(grid, block, rng):
    points, weights = samples(grid, rng), torch.rand(40, generator=rng, dtype=torch.float64)
    maps = torch.randn(3, *grid, dtype=torch.complex128, generator=rng)
    x = torch.randn(grid, dtype=torch.complex128, generator=rng)
    matrix, axes = direct(points, grid), tuple(range(-len(grid), 0))
    signal = weights * ((maps * x).flatten(1) @ matrix.T)
    expected = (maps.conj() * (signal @ matrix.conj()).reshape(3, *grid)).sum(0)
    spectrum = toeplitz_spectrum(points, weights, grid, 1e-12)
    assert spectrum.dtype == torch.float64
    result = toeplitz_normal(x, maps, spectrum, axes=axes, shifted=axes, block=block)
    assert error(result, expected) < 1e-11  # convolution and sum each add some eps


@pytest.mark.parametrize("eps", [0.0, 1e-16, 0.5, math.nan])
def test_an_accuracy_out_of_reach_is_refused(eps):
    with pytest.raises(InputError, match="pass an accuracy between 1e-13 and 0.1"):
        NUFFT(torch.zeros(1, 2), (4, 4), eps)


def test_cuda_without_cufinufft_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cufinufft", None)
    with pytest.raises(DependencyError, match=r"cufinufft.*pip install 'medinv\[cuda\]'"):
        nufft._cuda_plan(torch.zeros(2, 1), (4, 4), 1, 1e-6)


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_cuda_equals_cpu(dtype, rng):
    transform = NUFFT(samples((8, 6), rng), (8, 6))
    x = torch.randn(2, 8, 6, dtype=dtype, generator=rng)
    y = transform.forward(x)
    torch.testing.assert_close(transform.forward(x.cuda()).cpu(), y, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(transform.adjoint(y.cuda()).cpu(), transform.adjoint(y),
                               rtol=1e-4, atol=1e-5)
