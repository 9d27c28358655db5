"""Recipes on fastMRI-layout files: the own image as reference, undersampled in retrospect."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from medinv.data import KSpace, NonCartesianKSpace
from medinv.errors import DataError
from medinv.operators import fourier
from medinv.recipe import run_recipe
from medinv.recipe.blocks import Columns, PoissonDisc
from medinv.recipe.load import validate_recipe
from medinv.recipe.mri import birdcage
from medinv.recipe.mri_scan import undersampled
from medinv.recipe.outputs import draw
from medinv.recipe.run import Run
from tests.operators.ct_objects import disc_image

SLICES, COILS, READOUT, COLUMNS, CROP = 3, 4, 64, 40, 32


def write_scan(path: Path, *, coils: int = COILS, reference: str = "reconstruction_rss") -> Path:
    """Discs of another brightness in each slice; the file's image is the crop of its own size."""
    disc = disc_image((READOUT, COLUMNS), 1.0, x0=1.0, y0=-2.0, radius=12.0, mu=1.0)
    images = disc * torch.arange(1, SLICES + 1)[:, None, None]
    maps = birdcage(coils, (READOUT, COLUMNS)) if coils > 1 else torch.ones(1, READOUT, COLUMNS)
    kspace = fourier.fft(maps * images[:, None].to(torch.complex64), (-2, -1))
    noise = 1e-3 * torch.randn(kspace.shape, dtype=torch.complex64)
    with h5py.File(path, "w") as file:
        file["kspace"] = (kspace + noise)[:, 0 if coils == 1 else slice(None)].numpy()
        centre = images[:, READOUT // 2 - CROP // 2:, COLUMNS // 2 - CROP // 2:][:, :CROP, :CROP]
        file[reference] = centre.numpy().astype(np.float32)
    return path


def run(path: Path, **changes: object) -> Run:
    return run_recipe(validate_recipe({
        "name": "test", "task": "reconstruct", "solver": {"name": "CGSENSE", "max_iter": 15},
        "measurement": {"kind": "mri-file", "kspace": {"path": str(path)}, **changes},
    }, "test"))


def test_the_files_own_image_is_the_reference(tmp_path):
    result = run(write_scan(tmp_path / "scan.h5"))
    metrics = result.metrics()["CGSENSE"]
    assert result.measured.reference.shape == (SLICES, CROP, CROP)
    assert metrics["PSNR (dB)"] > 40  # ringing of the disc and noise of 0.1 % are left
    assert result.volume().data.shape == (SLICES, READOUT, COLUMNS)
    assert any("the file's own image" in note for note in result.measured.notes)
    assert draw(result)[1:4] == b"PNG"


def test_of_some_slices_and_of_one_coil(tmp_path):
    part = run(write_scan(tmp_path / "scan.h5"), slices=[1, 3])
    assert part.measured.reference.amax((1, 2)).tolist() == [2, 3]
    assert part.metrics()["CGSENSE"]["PSNR (dB)"] > 40
    one = run(write_scan(tmp_path / "one.h5", coils=1, reference="reconstruction_esc"))
    assert one.metrics()["CGSENSE"]["PSNR (dB)"] > 40


def test_whitened_coils_are_of_another_scale(tmp_path):
    result = run(write_scan(tmp_path / "scan.h5"), prewhiten="corners")
    assert result.measured.reference is None
    assert "PSNR (dB)" not in result.metrics()["CGSENSE"]


def test_retrospective_undersampling(tmp_path):
    path = write_scan(tmp_path / "scan.h5")
    mask = {"kind": "equispaced", "acceleration": 3, "center_fraction": 0.3}
    full, part = run(path), run(path, mask=mask)
    assert part.measured.facts["acceleration"] == pytest.approx(40 / 21, abs=0.2)
    assert "in retrospect (equispaced)" in part.measured.origin
    measured = (part.measured.y != 0).any(0).any(0)
    assert torch.equal(measured, measured[:1].expand_as(measured))  # whole readouts, along y
    assert 25 < part.metrics()["CGSENSE"]["PSNR (dB)"] < full.metrics()["CGSENSE"]["PSNR (dB)"]
    assert torch.equal(run(path, mask=mask).measured.y, part.measured.y)


@pytest.mark.parametrize("readout_axis", [-1, -2])
def test_lines_run_along_the_readout(readout_axis):
    data = torch.ones(1, 2, 30, 20, dtype=torch.complex64)
    kspace = KSpace(data, torch.ones(30, 20) > 0, readout_axis=readout_axis)
    kept = undersampled(kspace, Columns(kind="uniform1d", acceleration=2), 0)
    assert kept.acceleration == 2
    assert torch.equal(kept.mask.any(readout_axis), kept.mask.all(readout_axis))
    assert torch.equal(kept.data != 0, kept.mask.expand(1, 2, 30, 20))


def test_a_volume_is_sampled_in_the_plane_of_its_phase_encodings():
    data = torch.ones(1, 2, 24, 30, 20, dtype=torch.complex64)
    kspace = KSpace(data, torch.ones(24, 30, 20) > 0, readout_axis=-1)
    kept = undersampled(kspace, PoissonDisc(kind="poisson-disc", acceleration=3,
                                            calibration_width=6), 0)
    assert kept.acceleration == pytest.approx(3, abs=0.2)
    assert torch.equal(kept.mask.any(-1), kept.mask.all(-1))


def test_what_was_not_measured_stays_so():
    measured = torch.zeros(30, 20, dtype=torch.bool)
    measured[:, 5:15] = True
    kspace = KSpace(torch.ones(1, 2, 30, 20, dtype=torch.complex64), measured)
    kept = undersampled(kspace, Columns(kind="uniform1d", acceleration=2), 0)
    assert not (kept.mask & ~measured).any()
    scan = NonCartesianKSpace(torch.ones(1, 1, 2, 4) + 0j, torch.zeros(2, 4, 2), (1, 8, 8))
    with pytest.raises(DataError, match="measurement.mask: expected samples on a grid"):
        undersampled(scan, Columns(kind="uniform1d", acceleration=2), 0)
