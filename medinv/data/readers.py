"""Choose a reader by the file's name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from medinv.data.arrays import read_array_kspace
from medinv.data.bart import read_bart_kspace
from medinv.data.dicom import read_dicom
from medinv.data.fastmri import read_fastmri
from medinv.data.ismrmrd import is_ismrmrd, read_ismrmrd
from medinv.data.kspace import KSpace
from medinv.data.nifti import read_nifti
from medinv.data.volume import Volume
from medinv.errors import DataError

_BART = (".cfl", ".hdr")
_HDF5 = (".h5", ".hdf5")
_ARRAYS = (".npy", ".npz", ".mat")


def read_volume(path: str | Path) -> Volume:
    """A volume from a NIfTI file, or from a DICOM folder, zip or file.

    Raises:
        DataError: what the reader of this kind raises.

    >>> read_volume("nothing.nii.gz")
    Traceback (most recent call last):
    medinv.errors.DataError: nothing.nii.gz: expected a NIfTI file, found no file; check the path
    """
    is_nifti = Path(path).name.lower().endswith((".nii", ".nii.gz"))
    return read_nifti(path) if is_nifti else read_dicom(path)


def read_kspace(
    path: str | Path, key: str | None = None, *, slices: slice | None = None,
    axes: str | None = None,
) -> KSpace:
    """k-space from ``.npy``, ``.npz``, ``.mat``, BART's ``.cfl``, fastMRI's or ISMRMRD's ``.h5``.

    Args:
        path: the file.
        key: array or data set to read, where the file holds several.
        slices: which slices to keep; an HDF5 file reads no other from the disk.
        axes: of an array file, such as ``"kx ky coil"``; see `read_array_kspace`.

    Raises:
        DataError: another kind of file, or what the reader of this kind raises.
        ShapeError: the mask has another size than k-space.
    """
    suffix = Path(path).suffix.lower()
    if suffix in _BART:
        kspace = read_bart_kspace(path)
        return kspace if slices is None else kspace.part(slices)
    if suffix in _HDF5:
        return _read_raw(path, slices) if is_ismrmrd(path) else read_fastmri(path, key, slices)
    if suffix not in _ARRAYS:
        known = ", ".join((*_ARRAYS, *_HDF5, *_BART))
        raise DataError(f"{path}: expected k-space as {known}, got {suffix!r}; convert the file")
    kspace = read_array_kspace(path, key, axes)
    if slices is None:
        return kspace
    mask = kspace.mask[slices] if kspace.mask.ndim == 3 else kspace.mask
    return replace(kspace, data=kspace.data[slices], mask=mask)


def _read_raw(path: str | Path, slices: slice | None) -> KSpace:
    kspace = read_ismrmrd(path)
    if not isinstance(kspace, KSpace):
        raise DataError(f"{path}: expected Cartesian readouts, found a trajectory "
                        f"({kspace.metadata['trajectory']}); read it with `read_ismrmrd`")
    return kspace if slices is None else kspace.part(slices)
