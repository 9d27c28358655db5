"""sigpy's operators in torch, and ours in sigpy."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import sigpy
import sigpy.app
import sigpy.mri
import torch

from medinv.errors import InputError, ShapeError
from medinv.operators import Blur, CartesianMRI, check
from medinv.operators.sigpy_bridge import from_sigpy, to_sigpy
from tests.cases import DOUBLE, OPERATORS, SINGLE, mri, random_maps, random_mask
from tests.operators.test_operator_properties import close, noise

MIXED = {"mri-known-phase"}  # from real to complex; the way back takes one dtype

LINOPS = {
    "fft": sigpy.linop.FFT((5, 6)),
    "identity": sigpy.linop.Identity((5, 6)),
    "flip": sigpy.linop.Flip((5, 6), axes=[0]),
    "slice": sigpy.linop.Slice((5, 6), (slice(1, 4), slice(None))),
    "wavelet": sigpy.linop.Wavelet((8, 8), wave_name="haar"),
    "difference": sigpy.linop.FiniteDifference((4, 5)),
}


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize("name", LINOPS)
def test_a_linop_becomes_a_proven_operator(name, dtype):
    report = check(from_sigpy(LINOPS[name], dtype))
    assert report.passed, str(report)


def test_real_linops_stay_real(rng):
    A = from_sigpy(LINOPS["difference"], SINGLE)
    x = noise(A.domain, (2,), rng)
    assert A(x).dtype == SINGLE
    with pytest.raises(ShapeError, match=r"FFT gives complex64 where torch.float32.*complex64"):
        from_sigpy(LINOPS["fft"], SINGLE)(torch.ones(5, 6))


def test_results_do_not_share_memory_with_the_input(rng):
    A = from_sigpy(LINOPS["identity"])
    x = noise(A.domain, (), rng)
    before = x.clone()
    A(x).zero_()
    assert torch.equal(x, before)


def test_sense_of_sigpy_is_ours(rng):
    maps, mask = random_maps((3, 6, 8), SINGLE, 0), random_mask(6, 8)
    sense = sigpy.mri.linop.Sense(maps.numpy(), weights=mask.numpy().astype(np.float32))
    A, B = CartesianMRI(maps, mask), from_sigpy(sense)
    x, y = noise(A.domain, (2,), rng), noise(A.codomain, (2,), rng)
    close(B(x), A(x), 1e-5)
    close(B.adjoint(y), A.adjoint(y), 1e-5)
    close(pickle.loads(pickle.dumps(B))(x), A(x), 1e-5)


@pytest.mark.parametrize("batch", [(), (2, 3)])
@pytest.mark.parametrize("case", [case for case in OPERATORS[::5] if case.name not in MIXED],
                         ids=lambda case: case.name)
def test_there_and_back(case, batch, rng):
    A = case.make(DOUBLE)
    linop = to_sigpy(A, batch)
    B = from_sigpy(linop, A.domain.dtype)
    x, y = noise(A.domain, batch, rng), noise(A.codomain, batch, rng)
    assert (linop.ishape, linop.oshape) == (list(x.shape), list(y.shape))
    close(B(x), A(x), 1e-12)
    close(B.adjoint(y), A.adjoint(y), 1e-12)
    close(B.normal(x), A.normal(x), 1e-12)
    close(torch.from_numpy(linop.H.H * x.numpy()), A(x), 1e-12)


def test_sigpy_solves_with_our_operator(rng):
    A = mri((4, 8, 8), (8, 8))(DOUBLE)
    x = noise(A.domain, (2,), rng)
    y = A(x)
    app = sigpy.app.LinearLeastSquares(to_sigpy(A, (2,)), y.numpy(), max_iter=200, tol=1e-12,
                                       show_pbar=False)
    close(torch.from_numpy(app.run()), A.solve(y, max_iter=200, tol=1e-12), 1e-6)


def test_arrays_with_negative_strides_and_of_another_dtype():
    linop = to_sigpy(Blur(torch.ones(1, 3), (2, 4)))
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    np.testing.assert_allclose(linop(x[:, ::-1]), linop(x)[:, ::-1])
    with pytest.raises(RuntimeError, match="Blur") as raised:
        linop(x.astype(np.float64))
    assert isinstance(raised.value.__cause__, InputError)


@pytest.mark.cuda
def test_on_cuda_through_dlpack(rng):
    cupy = pytest.importorskip("cupy", reason="needs cupy")
    A = from_sigpy(sigpy.linop.FFT((5, 6)))
    x = noise(A.domain, (2,), rng)
    close(A(x.cuda()).cpu(), A(x), 1e-5)
    B = mri((3, 5, 6), (5, 6))(SINGLE)
    x = noise(B.domain, (), rng)
    expected = B(x)
    y = to_sigpy(B.cuda())(cupy.asarray(x.numpy()))
    close(torch.from_numpy(cupy.asnumpy(y)), expected, 1e-5)
