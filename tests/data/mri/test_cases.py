"""Files of scanners and sequences that readers once took wrongly, each with its right value.

They lie beside the real data (``cases/``), which the project does not hold.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from medinv.data import read_kspace, read_scan
from medinv.errors import DataError
from medinv.operators import NonCartesianMRI, fourier
from medinv.operators.coils import espirit


@pytest.fixture
def cases(shared_data: Path) -> Path:
    folder = shared_data.parent / "cases"
    if not folder.is_dir():
        pytest.skip(f"the cases are absent: {folder}")
    return folder


def ghost(image: torch.Tensor) -> float:
    """Mean of half a field of view beside the object over the mean of the object."""
    inside = image > 0.3 * image.max()
    beside = inside.roll(image.shape[0] // 2, 0) & ~inside
    return float(image[beside].mean() / image[inside].mean())


@pytest.mark.parametrize(("name", "share"), [("bipolar", 1), ("epi_partial", 26 / 32)])
def test_siemens_reversed_readouts(cases, name, share):
    kspace = read_kspace(cases / "siemens_reversed_readouts" / f"siemens_{name}.h5")
    assert float(kspace.mask.float().mean()) == share
    image = torch.linalg.vector_norm(fourier.ifft(kspace.data[0], (-2, -1)), dim=0)
    assert ghost(image) < 0.05
    wrong = fourier.ifft(torch.cat([kspace.data[0, :, ::2], kspace.data[0, :, 1::2].roll(1, -1)],
                                   -1).reshape(kspace.data[0].shape), (-2, -1))
    assert ghost(torch.linalg.vector_norm(wrong, dim=0)) > 0.3  # one sample makes a ghost


def test_pulseq_slices(cases):
    kspace = read_kspace(cases / "pulseq_encoded_z2" / "pulseq_z2.h5")
    assert kspace.shape == (3, 64, 64)
    assert kspace.voxel_mm == (5.0, 2.0, 2.0)
    assert kspace.mask.all()


def test_bart_plane_and_spokes(cases):
    folder = cases / "bart_hybrid_2d"
    plane = read_kspace(folder / "ksp2d")
    assert plane.data.shape == (1, 6, 96, 96)
    maps = espirit(plane.data)
    assert float((maps != 0).any(1).float().mean()) > 0.1
    with pytest.raises(DataError, match="look like 96 spokes, not a grid"):
        read_kspace(folder / "radial")
    scan = read_scan(folder / "radial", trajectory=folder / "traj")
    assert scan.shape == (1, 64, 64)
    # More samples than pixels: an image explains them with the right trajectory only.
    y = scan.data[0].unsqueeze(1)
    misfits = []
    for points in (scan.trajectory, scan.trajectory[torch.randperm(96)]):
        A = NonCartesianMRI(torch.ones(1, 64, 64, dtype=torch.complex64), points)
        misfits.append(float((A(A.solve(y, max_iter=15)) - y).norm() / y.norm()))
    assert misfits[0] < 0.1 * misfits[1]
