"""Arguments: NumPy arrays are taken, what is wrong is told in medinv's words."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor

import medinv
from medinv import operators
from medinv.arguments import checked, fitted
from medinv.errors import InputError, ShapeError
from tests import wrong_calls


def test_wrong_calls_end_in_errors_of_medinv():
    """Without pytest's type checks, as users call; thousands of calls."""
    done = subprocess.run([sys.executable, "-m", "tests.wrong_calls"], capture_output=True,
                          text=True, check=True, cwd=Path(__file__).parent.parent)
    *bad, last = done.stdout.splitlines()
    assert not bad, "\n".join(bad[:20])
    assert int(last.split()[0]) > 8000


def test_every_public_name_is_called(tmp_path):
    medinv.Volume(torch.ones(1, 2, 2), torch.eye(4).double()).to_nifti(tmp_path / "sound.nii")
    called = {getattr(call.function, "__name__", "") for call in wrong_calls.calls(tmp_path)}
    abstract = {"Diffusion", "Guidance", "LinearOperator", "Operator", "Prior"}
    rules = {"Guided", "Jensen", "MMPS", "Peng", "PiGDM"}  # of guidance, not in the table yet
    for room in (medinv, operators):
        assert {name for name in room.__all__ if callable(getattr(room, name))} <= (
            called | abstract | rules)


def test_the_harness_notices():
    def broken(n: int) -> Tensor:
        return torch.full((1,), float("nan")) if n == 1 else [][n]

    call = wrong_calls.Call(broken, {"n": 1})
    assert wrong_calls.outcome(call, {"n": 1}) == "a result that is not finite"
    assert "IndexError" in str(wrong_calls.outcome(call, {"n": 2}))


def test_numpy_arrays_are_taken():
    rng = np.random.default_rng(0)
    maps = (rng.normal(size=(2, 4, 6)) + 0j).astype(np.complex64)
    x = (rng.normal(size=(4, 6)) + 0j).astype(np.complex64)
    A = operators.CartesianMRI(maps, np.ones((4, 6)))
    expected = A(torch.from_numpy(x))
    torch.testing.assert_close(A(x), expected)
    torch.testing.assert_close(A(x[::-1].copy()[::-1]), expected)  # any strides
    torch.testing.assert_close(A.adjoint(expected.numpy()), A.adjoint(expected))
    with pytest.raises(ShapeError, match=r"in NumPy with \.astype\('complex64'\)"):
        A(x.astype(np.complex128))
    beam = operators.ParallelBeam((4, 4), [0.0, 0.5, 1.0], np.float32(0.7))
    assert beam.angles.tolist() == [0.0, 0.5, 1.0]


def test_numpy_volumes_are_written(tmp_path):
    data = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    volume = medinv.Volume(data, np.eye(4)).with_data(2 * data)
    volume.to_nifti(tmp_path / "volume.nii")
    read = medinv.Volume.from_nifti(tmp_path / "volume.nii")
    np.testing.assert_array_equal(read.data, 2 * data)
    with pytest.raises(ShapeError, match="Volume.with_data: data: expected a tensor or a NumPy"):
        volume.with_data("text")


@pytest.mark.parametrize(("hint", "value", "expected"), [
    (int, np.int64(3), 3), (float, 3, 3), (float, np.float32(0.5), 0.5), (bool, np.True_, True),
    (float | None, None, None), (tuple[int, ...], [4, 5], (4, 5)), (float, torch.tensor(2.0), 2.0),
    (tuple[int, int], torch.Size([4, 5]), (4, 5)), (tuple[float, ...], np.array([1.5]), (1.5,)),
    (Sequence[str], ("a",), ["a"]), (Literal["a", "b"], "a", "a"), (object, 1j, 1j),
    (Mapping[str, int], {}, {}), (str | Path, "x", "x"),
    (float | tuple[float, ...], [1.0], (1.0,)),
])
def test_what_fits(hint, value, expected):
    found = fitted(value, hint, "f: x")
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(("hint", "value", "message"), [
    (int, 3.0, "a whole number, got 3.0"), (int, "3", "a whole number, got '3'"),
    (float, None, "a number, got None"), (float, 1j, "a number, got 1j"),
    (float | None, "x", "a number or None, got 'x'"), (tuple[int, int], (1, 2, 3), "whole number"),
    (Literal["a", "b"], "c", "'a' or 'b', got 'c'"), (Sequence[str], "abc", "strs, got 'abc'"),
    (torch.dtype, np.float32, "dtype, got type"), (bool, 1, "True or False, got 1"),
    (Callable[[int], int], 3, "Callable, got 3"), (tuple[int, ...], "23", "whole numbers"),
    (float, np.zeros(3), r"a number, got an array \(3,\) of float64"),
])
def test_what_does_not_fit(hint, value, message):
    with pytest.raises(InputError, match=f"^f: x: expected .*{message}"):
        fitted(value, hint, "f: x")


def test_signatures_and_python_s_own_errors_stay():
    @checked
    def f(x: Tensor, *more: int, key: int = 0) -> Tensor:
        """Doc."""
        return x + key + sum(more)

    assert str(inspect.signature(f)).startswith("(x: ")
    assert f.__doc__ == "Doc."
    assert f([1.0], 2, key=3).tolist() == [6.0]
    with pytest.raises(TypeError, match="unexpected keyword"):
        f([1.0], other=1)
    with pytest.raises(ShapeError, match="f: x: expected a tensor or a NumPy array, got 'x'"):
        f("x")
