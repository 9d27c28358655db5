"""Arrays with declared axes from NumPy's and MATLAB's files, and damaged ones."""

from __future__ import annotations

import io
import struct
import zlib

import h5py
import numpy as np
import pytest
import torch
from scipy import sparse
from scipy.io import savemat

from medinv.data import read_array, read_array_kspace, read_kspace
from medinv.data.mri.kspace import KSpace
from medinv.errors import DataError
from tests.data.fuzzing import assert_survives

SHAPE = (2, 3, 4, 5)  # slice, coil, ky, kx


def samples():
    rng = np.random.default_rng(0)
    return (rng.normal(size=SHAPE) + 1j * rng.normal(size=SHAPE)).astype(np.complex64)


def save_7_3(path, **arrays):
    """As MATLAB -v7.3 stores them: axes reversed, complex numbers as real and imag."""
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            pair = np.empty(array.T.shape, [("real", "<f8"), ("imag", "<f8")])
            pair["real"], pair["imag"] = array.T.real, array.T.imag
            file[name] = pair


def save_7(path, **arrays):
    savemat(path, arrays, do_compression=True)


@pytest.mark.parametrize("axes", ["kx ky coil slice", "coil kx slice ky", "slice coil ky kx"])
def test_declared_axes(tmp_path, axes):
    order = [("slice", "coil", "ky", "kx").index(name) for name in axes.split()]
    np.save(tmp_path / "a.npy", samples().transpose(order))
    kspace = read_kspace(tmp_path / "a.npy", axes=axes)
    np.testing.assert_array_equal(kspace.data, samples())


def test_one_coil_and_three_dimensions(tmp_path):
    np.save(tmp_path / "a.npy", samples()[0, 0])
    assert read_array_kspace(tmp_path / "a.npy", axes="ky kx").data.shape == (1, 1, 4, 5)
    np.save(tmp_path / "b.npy", samples())
    kspace = read_array_kspace(tmp_path / "b.npy", axes="coil kz ky kx")
    assert kspace.data.shape == (1, *SHAPE)


@pytest.mark.parametrize("axes", ["coil ky kx", "slice coil ky ky", "slice coil y x",
                                  "slice coil kz ky"])
def test_wrong_axes(tmp_path, axes):
    np.save(tmp_path / "a.npy", samples())
    with pytest.raises(DataError, match="a name for each axis"):
        read_kspace(tmp_path / "a.npy", axes=axes)


@pytest.mark.parametrize("save", [save_7, save_7_3])
def test_matlab(tmp_path, save):
    path = tmp_path / "a.mat"
    save(path, raw=samples(), other=samples())
    np.testing.assert_array_equal(read_array(path, "raw"), samples())
    kspace = read_kspace(path, "raw", axes="slice coil ky kx")
    np.testing.assert_array_equal(kspace.data, samples())
    with pytest.raises(DataError, match="does not say what its axes are"):
        read_kspace(path, "raw")
    with pytest.raises(DataError, match="expected one array, found other, raw"):
        read_array(path)
    with pytest.raises(DataError, match="no array 'none'"):
        read_array(path, "none")


def test_matlab_structures(tmp_path):
    save_7(tmp_path / "a.mat", raw={"data": samples()})
    with pytest.raises(DataError, match="expected numbers in 'raw'"):
        read_array(tmp_path / "a.mat")


def test_absurd_shape(tmp_path):
    with (tmp_path / "a.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<c8", "fortran_order": False, "shape": (2**20, 2**20)})
    with pytest.raises(DataError, match="cut off: the header declares"):
        read_array(tmp_path / "a.npy")


def test_fortran_order(tmp_path):
    np.save(tmp_path / "a.npy", np.asfortranarray(samples()))
    np.testing.assert_array_equal(read_array(tmp_path / "a.npy"), samples())


def test_fuzz_numpy(tmp_path):
    for suffix, save in {".npy": np.save, ".npz": np.savez_compressed}.items():
        content = io.BytesIO()
        save(content, samples())
        assert_survives(read_kspace, suffix, [content.getvalue()], 150, answer=KSpace)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("part", "place"), [("real", 0), ("imaginary", 1)])
def test_matlab_numbers_of_no_type(tmp_path, part, place, packed):
    """SciPy would crash."""
    path = tmp_path / "raw.mat"
    savemat(path, {"raw": np.ones((3, 4), np.complex64)})
    content = bytearray(path.read_bytes())
    tag = struct.pack("<II", 7, 4 * 12)  # single precision
    at = content.index(tag) if place == 0 else content.rindex(tag)
    content[at:at + 4] = struct.pack("<I", 88)
    if packed:
        variable = zlib.compress(content[128:])
        content[128:] = struct.pack("<II", 15, len(variable)) + variable
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"the {part} part of an array has numbers of type 88"):
        read_array(path)


def test_matlab_variables_of_many_types(tmp_path):
    """What SciPy and MATLAB write beside an array disturbs no reading of it."""
    path = tmp_path / "raw.mat"
    arrays = {kind: np.arange(6).reshape(2, 3).astype(kind) for kind in (
        "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8", "?")}
    others = {"text": "abc", "cell": np.array([1, "a"], object), "struct": {"x": 1.0},
              "one": 3.0, "none": np.zeros((0, 2)), "sparse": sparse.eye_array(3, format="csc")}
    for packed in (False, True):
        savemat(path, {f"a_{name}".replace("?", "b"): array for name, array in arrays.items()}
                | others, do_compression=packed)
        for name, array in arrays.items():
            key = f"a_{name}".replace("?", "b")
            np.testing.assert_array_equal(read_array(path, key=key), array)


def test_fuzz_matlab(tmp_path):
    seeds = []
    for save in (save_7, save_7_3):
        save(tmp_path / "a.mat", raw=samples())
        seeds.append((tmp_path / "a.mat").read_bytes())
    assert_survives(read_array, ".mat", seeds, 150, answer=torch.Tensor)
