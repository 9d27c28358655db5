"""NIfTI in and out: values, world positions, orientation; damaged files are refused."""

from __future__ import annotations

import gzip
import json
import math
import struct
import tempfile
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medinv.data import (
    Volume,
    block_mean,
    crop,
    orientation_affine,
    read_nifti,
    to_ras,
    write_nifti,
)
from medinv.errors import DataError, ShapeError
from tests.data.fuzzing import assert_survives

SHAPE = (4, 5, 6)  # z, y, x: all different, so that a swapped axis shows


def rotation(angle: float) -> torch.Tensor:
    cos, sin = math.cos(angle), math.sin(angle)
    turn = torch.tensor([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]]).double()
    tilt = torch.tensor([[1.0, 0.0, 0.0], [0.0, cos, -sin], [0.0, sin, cos]]).double()
    return turn @ tilt


def oblique() -> torch.Tensor:
    affine = torch.eye(4, dtype=torch.float64)
    affine[:3, :3] = rotation(0.3) @ torch.diag(torch.tensor([-0.7, 0.7, 2.5]).double())
    affine[:3, 3] = torch.tensor([11.0, -22.0, 33.0])
    return affine


def sheared() -> torch.Tensor:
    affine = oblique()
    affine[0, 2] += 0.8
    return affine


AFFINES = {
    "ras": orientation_affine("RAS", (1.0, 2.0, 3.0), SHAPE[::-1]),
    "las": orientation_affine("LAS", (0.7, 0.7, 2.5), SHAPE[::-1]),
    "sagittal": orientation_affine("PSR", (1.0, 1.0, 2.0), SHAPE[::-1]),
    "oblique": oblique(),
    "sheared": sheared(),
}


def volume(affine: torch.Tensor, dtype: torch.dtype = torch.float32) -> Volume:
    return Volume(torch.randn(SHAPE, dtype=dtype), affine)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
@pytest.mark.parametrize("name", AFFINES)
def test_round_trip(tmp_path, name, dtype, suffix):
    written = volume(AFFINES[name], dtype)
    path = tmp_path / f"volume{suffix}"
    written.to_nifti(path)
    read = Volume.from_nifti(path)
    assert read.data.dtype == dtype
    assert torch.equal(read.data, written.data)
    # The header stores the affine in float32.
    torch.testing.assert_close(read.affine, written.affine, rtol=1e-6, atol=1e-5)
    assert read.orientation == written.orientation


def test_nibabel_agrees_on_a_voxel_and_its_position(tmp_path):
    """A nibabel user finds voxel (i, j, k) = (x, y, z) with our value at our place."""
    written = volume(AFFINES["oblique"])
    written.to_nifti(tmp_path / "volume.nii.gz")
    image = nibabel.load(tmp_path / "volume.nii.gz")
    x, y, z = 5, 3, 1
    assert image.get_fdata()[x, y, z] == written.data[z, y, x].item()
    np.testing.assert_allclose(
        image.affine @ [x, y, z, 1], [*written.world_mm((x, y, z)), 1], rtol=1e-5
    )


@pytest.mark.parametrize("name", ["ras", "las", "sagittal", "oblique"])
def test_both_header_transforms_agree(tmp_path, name):
    volume(AFFINES[name]).to_nifti(tmp_path / "volume.nii")
    header = nibabel.load(tmp_path / "volume.nii").header
    assert int(header["sform_code"]) == int(header["qform_code"]) == 1
    # A quaternion in float32 keeps an angle to about 1e-6.
    np.testing.assert_allclose(header.get_qform(), header.get_sform(), atol=1e-4)


def test_qform_is_unknown_where_it_cannot_hold_the_grid(tmp_path):
    volume(AFFINES["sheared"]).to_nifti(tmp_path / "volume.nii")
    header = nibabel.load(tmp_path / "volume.nii").header
    assert int(header["qform_code"]) == 0
    assert int(header["sform_code"]) == 1


def test_equal_volumes_give_equal_files(tmp_path):
    written = volume(AFFINES["ras"])
    for name in ("a.nii.gz", "b.nii.gz"):
        written.to_nifti(tmp_path / name)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_space_is_kept(tmp_path):
    Volume(torch.zeros(SHAPE), AFFINES["ras"], {"space": "mni"}).to_nifti(tmp_path / "a.nii")
    assert Volume.from_nifti(tmp_path / "a.nii").metadata["space"] == "mni"


def test_scaled_integers_and_metres(tmp_path):
    image = nibabel.Nifti1Image(np.full((2, 3, 4), 7, np.int16), np.diag([0.001, 0.002, 0.003, 1]))
    image.header.set_slope_inter(2.0, -1000.0)
    image.header.set_xyzt_units("meter")
    nibabel.save(image, tmp_path / "metres.nii")
    stored = nibabel.load(tmp_path / "metres.nii").get_fdata()[0, 0, 0]
    read = Volume.from_nifti(tmp_path / "metres.nii")
    assert read.data[0, 0, 0].item() == stored
    assert read.spacing_mm == pytest.approx((1.0, 2.0, 3.0))


@settings(max_examples=48, deadline=None)  # there are 48 orientations
@given(
    order=st.permutations(["RL", "AP", "SI"]),
    signs=st.tuples(*[st.integers(0, 1)] * 3),
    index=st.tuples(st.integers(0, 5), st.integers(0, 4), st.integers(0, 3)),
)
def test_to_ras_moves_no_voxel(order, signs, index):
    letters = "".join(pair[sign] for pair, sign in zip(order, signs, strict=True))
    affine = orientation_affine(letters, (1.0, 2.0, 3.0), SHAPE[::-1])
    assert volume(affine).orientation == letters
    data = torch.arange(float(math.prod(SHAPE))).reshape(SHAPE)
    before = Volume(data, affine)
    after = to_ras(before)
    assert after.orientation == "RAS"
    x, y, z = index
    place = torch.tensor([*before.world_mm(index), 1.0], dtype=torch.float64)
    i, j, k = torch.linalg.solve(after.affine, place)[:3].round().long().tolist()
    assert after.data[k, j, i] == data[z, y, x]


def test_crop_keeps_places():
    before = volume(AFFINES["oblique"])
    after = crop(before, (slice(1, 4), slice(2, None), slice(None, -1)))
    assert after.data.shape == (3, 3, 5)
    assert after.world_mm((0, 0, 0)) == pytest.approx(before.world_mm((0, 2, 1)))
    with pytest.raises(ShapeError, match="steps of 1"):
        crop(before, (slice(None, None, 2), slice(None), slice(None)))
    with pytest.raises(ShapeError, match="not empty"):
        crop(before, (slice(4, 4), slice(None), slice(None)))


def test_block_mean_keeps_the_centre():
    before = volume(AFFINES["oblique"], torch.complex64)
    after = block_mean(before, (2, 1, 3))
    torch.testing.assert_close(after.data[0, 0, 0], before.data[:2, 0, :3].mean())
    assert after.world_mm((0, 0, 0)) == pytest.approx(before.world_mm((1, 0, 0.5)))
    with pytest.raises(ShapeError, match="do not fit"):
        block_mean(before, (5, 1, 1))


@pytest.mark.parametrize(
    ("data", "affine", "message"),
    [
        (torch.zeros(1, *SHAPE), torch.eye(4).double(), "one volume at a time"),
        (torch.zeros(SHAPE), torch.eye(4), "float64 affine"),
        (torch.zeros(SHAPE), torch.zeros(4, 4).double(), "not invertible"),
    ],
)
def test_volume_refuses(data, affine, message):
    with pytest.raises(ShapeError, match=message):
        Volume(data, affine)


def test_with_data_refuses_another_grid():
    with pytest.raises(ShapeError, match="this grid only"):
        volume(AFFINES["ras"]).with_data(torch.zeros(1, 1, 1))


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match="found no file"):
        Volume.from_nifti(tmp_path / "none.nii.gz")


def test_not_nifti(tmp_path):
    (tmp_path / "text.nii").write_text("hello")
    with pytest.raises(DataError, match="cannot be read"):
        Volume.from_nifti(tmp_path / "text.nii")


def test_cut_off_file(tmp_path):
    path = tmp_path / "volume.nii"
    volume(AFFINES["ras"]).to_nifti(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="cut off or damaged"):
        Volume.from_nifti(path)


def test_nan_voxels(tmp_path):
    voxels = np.zeros((2, 2, 2), np.float32)
    voxels[0, 0, 0] = np.nan
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / "nan.nii")
    with pytest.raises(DataError, match="1 NaN or Inf"):
        Volume.from_nifti(tmp_path / "nan.nii")


def test_series_of_volumes(tmp_path):
    nibabel.save(nibabel.Nifti1Image(np.zeros((2, 2, 2, 3), np.float32), np.eye(4)),
                 tmp_path / "series.nii")
    with pytest.raises(DataError, match=r"choose one with index=0 to 2"):
        Volume.from_nifti(tmp_path / "series.nii")


def test_wrong_suffix(tmp_path):
    with pytest.raises(DataError, match="ends in .nii"):
        write_nifti(volume(AFFINES["ras"]), tmp_path / "volume.dcm")


def test_one_volume_of_a_series(tmp_path):
    voxels = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / "series.nii.gz")
    read = read_nifti(tmp_path / "series.nii.gz", index=3)
    np.testing.assert_array_equal(read.data.numpy().T, voxels[..., 3])
    with pytest.raises(DataError, match="index from 0 to 4, got 5"):
        read_nifti(tmp_path / "series.nii.gz", index=5)


def test_one_slice_is_a_volume(tmp_path):
    nibabel.save(nibabel.Nifti1Image(np.ones((2, 3), np.float32), np.eye(4)), tmp_path / "a.nii")
    assert read_nifti(tmp_path / "a.nii").data.shape == (1, 3, 2)


def test_nifti_2(tmp_path):
    voxels = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    nibabel.save(nibabel.Nifti2Image(voxels, AFFINES["oblique"].numpy()), tmp_path / "a.nii")
    read = read_nifti(tmp_path / "a.nii")
    np.testing.assert_array_equal(read.data.numpy().T, voxels)
    torch.testing.assert_close(read.affine, AFFINES["oblique"])


@pytest.mark.parametrize(("sform", "qform", "expected"), [
    (1, 1, "sform"), (1, 0, "sform"), (0, 1, "qform"), (0, 0, None),
])
def test_sform_counts_before_qform(tmp_path, sform, qform, expected):
    """Two transforms that differ: whichever code is set counts, the sform's first."""
    image = nibabel.Nifti1Image(np.zeros((2, 3, 4), np.float32), None)
    places = {"sform": np.diag([2.0, 2, 2, 1]), "qform": np.diag([3.0, 3, 3, 1])}
    image.set_sform(places["sform"], sform)
    image.set_qform(places["qform"], qform)
    nibabel.save(image, tmp_path / "a.nii")
    read = read_nifti(tmp_path / "a.nii")
    if expected is None:
        assert "neither sform nor qform" in str(read.metadata["position"])
    else:
        np.testing.assert_array_equal(read.affine, places[expected])
        assert "position" not in read.metadata


@settings(max_examples=60, deadline=None)
@given(
    angles=st.tuples(*[st.floats(-3.0, 3.0)] * 2),
    spacing=st.tuples(*[st.floats(0.1, 10.0)] * 3),
    flips=st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3),
    origin=st.tuples(*[st.floats(-500.0, 500.0)] * 3),
    shape=st.tuples(*[st.integers(1, 5)] * 3),
    dtype=st.sampled_from([torch.float32, torch.complex64, torch.int16, torch.uint8,
                           torch.float64]),
    suffix=st.sampled_from([".nii", ".nii.gz"]),
)
def test_every_voxel_keeps_its_value_and_place(angles, spacing, flips, origin, shape, dtype,
                                               suffix):
    directions = rotation(angles[0]) @ rotation(angles[1]).T
    affine = torch.eye(4, dtype=torch.float64)
    affine[:3, :3] = directions @ torch.diag(torch.tensor(spacing) * torch.tensor(flips)).double()
    affine[:3, 3] = torch.tensor(origin)
    values = torch.randn(shape, dtype=torch.complex128) * 100
    written = Volume((values if dtype.is_complex else values.real.abs()).to(dtype), affine)
    with tempfile.TemporaryDirectory() as folder:
        written.to_nifti(Path(folder, f"volume{suffix}"))
        read = Volume.from_nifti(Path(folder, f"volume{suffix}"))
    # float64 is stored as float32; the other types are kept exactly.
    expected = written.data if dtype.is_complex else written.data.float()
    assert torch.equal(read.data, expected)
    corner = [float(n - 1) for n in reversed(shape)]
    # The header holds the affine in float32: 6e-8 of 500 mm.
    assert read.world_mm(corner) == pytest.approx(written.world_mm(corner), abs=2e-4)


@pytest.mark.parametrize("low", [-1000.0, 0.0])
def test_scaled_int16(tmp_path, low):
    """A voxel is off by at most half a step, 4000 / 65534, and the header says so."""
    written = volume(AFFINES["oblique"]).with_data(torch.rand(SHAPE) * 4000 + low)
    path = tmp_path / "volume.nii"
    write_nifti(written, path, scaled_int16=True)
    error = float((read_nifti(path).data - written.data).abs().max())
    span = float(written.data.max() - written.data.min())
    assert error <= 1.01 * span / 131068
    header = nibabel.load(path).header
    assert header.get_data_dtype() == np.int16
    assert "off by at most 0.02" in header["descrip"].item().decode()


def test_scaled_int16_of_a_constant_and_of_complex_values(tmp_path):
    constant = volume(AFFINES["ras"]).with_data(torch.full(SHAPE, -7.25))
    write_nifti(constant, tmp_path / "a.nii", scaled_int16=True)
    assert torch.equal(read_nifti(tmp_path / "a.nii").data, constant.data)
    with pytest.raises(DataError, match="expected real voxels"):
        write_nifti(volume(AFFINES["ras"], torch.complex64), tmp_path / "b.nii",
                    scaled_int16=True)


def test_provenance_stands_beside(tmp_path):
    write_nifti(volume(AFFINES["ras"]), tmp_path / "a.nii.gz", provenance={"seed": 3})
    assert json.loads((tmp_path / "a.json").read_text()) == {"seed": 3}


def test_absurd_headers(tmp_path):
    """A shape beyond the memory, and gigabytes before the voxels in a small .gz."""
    path = tmp_path / "a.nii"
    volume(AFFINES["ras"]).to_nifti(path)
    content = bytearray(path.read_bytes())
    shape = content.copy()
    struct.pack_into("<3h", shape, 42, 32767, 32767, 32767)
    path.write_bytes(shape)
    with pytest.raises(DataError, match="GiB of memory are free"):
        read_nifti(path)
    struct.pack_into("<f", content, 108, 2e9)
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(content))
    with pytest.raises(DataError, match="voxels within the first"):
        read_nifti(tmp_path / "b.nii.gz")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_fuzz(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    seeds = []
    for dtype in (torch.float32, torch.complex64):
        volume(AFFINES["oblique"], dtype).to_nifti(path)
        seeds.append(path.read_bytes())
    assert_survives(read_nifti, suffix, seeds, 200, answer=Volume)
