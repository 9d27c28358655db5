"""Files appear whole or not at all, also where the disk is full."""

from __future__ import annotations

import errno
import json
import math
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from medinv.data import Volume
from medinv.data.atomic import replacing, replacing_folder, write_json, write_text
from medinv.errors import OutputError


@contextmanager
def files_of_at_most(n_bytes: int) -> Iterator[None]:
    """The kernel refuses larger files, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_full_disk_leaves_nothing(tmp_path, suffix):
    path = tmp_path / f"volume{suffix}"
    volume = Volume(torch.rand(16, 16, 16), torch.eye(4, dtype=torch.float64))
    with files_of_at_most(4096), pytest.raises(OutputError, match="nothing was left"):
        volume.to_nifti(path)
    assert list(tmp_path.iterdir()) == []


def test_full_disk_keeps_the_old_file(tmp_path):
    path = tmp_path / "note.txt"
    write_text(path, "old")
    with files_of_at_most(100), pytest.raises(OutputError, match="Free some space"):
        write_text(path, "new" * 1000)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_error_in_the_block_leaves_nothing(tmp_path):
    def fail() -> None:
        with replacing(tmp_path / "note.txt") as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="could not be written"):
        write_text(tmp_path / "file" / "note.txt", "text")


def test_json_has_no_nan(tmp_path):
    write_json(tmp_path / "new" / "metrics.json", {"psnr": math.inf, "rows": [1.5, math.nan]})
    assert json.loads((tmp_path / "new" / "metrics.json").read_text()) == {
        "psnr": None, "rows": [1.5, None]
    }


@pytest.mark.parametrize(("number", "advice"), [
    (errno.EACCES, "read-only"), (errno.EROFS, "read-only"), (errno.ENOSPC, "Free some space"),
    (errno.EDQUOT, "Free some space"), (errno.EIO, "Choose another output folder"),
])
def test_the_advice_fits_the_reason(number, advice, tmp_path):
    error = OSError(number, os.strerror(number))
    with pytest.raises(OutputError, match=advice), replacing(tmp_path / "x.txt"):
        raise error
    with pytest.raises(OutputError, match=advice), replacing_folder(tmp_path / "y"):
        raise error
