"""The crude mask: the front goes, the brain stays; a head that is cut off is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from medinv.cli import app
from medinv.data import Volume, read_nifti, to_ras
from medinv.data.defacing import deface
from medinv.errors import DataError

COLIN = Path.home() / ".cache" / "medinv" / "colin27"


def head(scale: float = 1.0, top: float = 120) -> Volume:
    """An ellipsoid of 150 x 190 x 220 mm, 6 mm voxels, axes LPS."""
    axes = [torch.arange(-120.0, limit + 1, 6) for limit in (top, 120, 120)]
    z, y, x = torch.meshgrid(*axes, indexing="ij")
    tissue = (x / 75) ** 2 + (y / 95) ** 2 + (z / 110) ** 2 < scale**2
    affine = torch.diag(torch.tensor([-6.0, -6, 6, 1]).double())
    affine[:3, 3] = torch.tensor([120.0, 120, -120])
    return Volume(100 * tissue.float() + 1, affine)


def test_the_front_below_the_brow_goes_and_nothing_else():
    before, after = to_ras(head()), deface(head())
    changed = before.data != after.data
    z, y, _ = torch.nonzero(changed, as_tuple=True)
    world_y, world_z = -120 + 6.0 * y, -120 + 6.0 * z
    assert changed.any()
    assert world_z.max() < 110 - 80  # mm: above the brow everything stays
    assert world_y.min() > 95 - 110  # mm: so does the back half
    assert torch.unique(after.data[changed]).tolist() == [1.0]
    assert "crude" in str(after.metadata["notes"])


@pytest.mark.parametrize(("volume", "message"), [
    (head(top=60), "air above the head"),
    (head(scale=0.5), "from front to back"),
    (Volume(torch.zeros(4, 4, 4), torch.eye(4).double()), "empty volume"),
])
def test_what_is_no_whole_head_is_refused(volume, message):
    with pytest.raises(DataError, match=message):
        deface(volume)


def test_command(tmp_path):
    head().to_nifti(tmp_path / "head.nii.gz")
    done = CliRunner().invoke(app, ["deface", str(tmp_path / "head.nii.gz"),
                                    str(tmp_path / "out.nii.gz")])
    assert done.exit_code == 0, done.output
    assert torch.equal(read_nifti(tmp_path / "out.nii.gz").data, deface(head()).data)


def test_real_brain_stays():
    if not (COLIN / "ch2bet.nii.gz").is_file():
        pytest.skip("Colin27 is absent; medinv data fetch colin27")
    whole = to_ras(read_nifti(COLIN / "ch2.nii.gz"))
    brain = to_ras(read_nifti(COLIN / "ch2bet.nii.gz")).data > 0
    changed = deface(whole).data != whole.data
    assert float((brain & changed).sum() / brain.sum()) < 0.005  # 0.23 % at the frontal base
    assert float(changed.float().mean()) > 0.03
