"""Choose a reader by the file's name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from medinv.arguments import checked
from medinv.data.dicom import read_dicom
from medinv.data.itk import SUFFIXES, read_itk
from medinv.data.mri.arrays import read_array_kspace
from medinv.data.mri.bart import SUFFIXES as BART
from medinv.data.mri.bart import is_cfl
from medinv.data.mri.bart_kspace import read_bart_kspace
from medinv.data.mri.fastmri import read_fastmri
from medinv.data.mri.ismrmrd import is_ismrmrd, read_ismrmrd
from medinv.data.mri.ismrmrd_lines import ReversedReadouts
from medinv.data.mri.kspace import KSpace
from medinv.data.mri.noncartesian import NonCartesianKSpace
from medinv.data.nifti import read_nifti
from medinv.data.volume import Volume
from medinv.errors import DataError

HDF5 = (".h5", ".hdf5")
_ARRAYS = (".npy", ".npz", ".mat")


@checked
def read_volume(path: str | Path) -> Volume:
    """A volume from NIfTI, NRRD or MetaImage, or from a DICOM folder, zip or file.

    Raises:
        DataError: what the reader of this kind raises.

    >>> read_volume("nothing.nii.gz")
    Traceback (most recent call last):
    medinv.errors.DataError: nothing.nii.gz: expected a NIfTI file, found no file; check the path
    """
    name = Path(path).name.lower()
    if name.endswith(SUFFIXES):
        return read_itk(path)
    return read_nifti(path) if name.endswith((".nii", ".nii.gz")) else read_dicom(path)


@checked
def read_kspace(
    path: str | Path, key: str | None = None, *, slices: slice | None = None,
    axes: str | None = None, select: Mapping[str, int] | None = None,
    reversed_readouts: ReversedReadouts = "auto", trajectory: str | Path | None = None,
) -> KSpace:
    """Cartesian k-space; see `read_scan`, which takes trajectories too.

    Raises:
        DataError: another kind of file, a trajectory, or what the reader of this kind raises.
        ShapeError: the mask has another size than k-space.

    >>> import numpy as np, tempfile
    >>> name = Path(tempfile.mkdtemp(), "scan.npy")
    >>> np.save(name, np.ones((8, 64, 48), np.complex64))
    >>> read_kspace(name).n_coils
    8
    """
    scan = read_scan(path, key, slices=slices, axes=axes, select=select,
                     reversed_readouts=reversed_readouts, trajectory=trajectory)
    if not isinstance(scan, KSpace):
        raise DataError(f"{path}: expected Cartesian readouts, found a trajectory "
                        f"({scan.metadata['trajectory']}); read it with `read_scan`")
    return scan


@checked
def read_scan(
    path: str | Path, key: str | None = None, *, slices: slice | None = None,
    axes: str | None = None, select: Mapping[str, int] | None = None,
    reversed_readouts: ReversedReadouts = "auto", trajectory: str | Path | None = None,
) -> KSpace | NonCartesianKSpace:
    """k-space from ``.npy``, ``.npz``, ``.mat``, BART's ``.cfl``, fastMRI's or ISMRMRD's ``.h5``.

    Args:
        path: the file.
        key: array or data set to read, where the file holds several.
        slices: which slices to keep; a fastMRI file reads no other from the disk. Volumes of a
            3D scan stay whole.
        axes: of an array file, such as ``"kx ky coil"``; see `read_array_kspace`.
        select: counters of an ISMRMRD file, such as ``{"contrast": 1}``; see `read_ismrmrd`.
        reversed_readouts: of an ISMRMRD file: where their centre is; see `read_ismrmrd`.
        trajectory: of a BART file: the file of its trajectory; see `read_bart_kspace`.

    Raises:
        DataError: another kind of file, an option that this kind does not have, or what its
            reader raises.
        ShapeError: the mask has another size than k-space.

    >>> import numpy as np, tempfile
    >>> name = Path(tempfile.mkdtemp(), "scan.npy")
    >>> np.save(name, np.ones((3, 8, 64, 48), np.complex64))
    >>> read_scan(name, slices=slice(1, 2)).shape
    (1, 64, 48)
    """
    suffix = Path(path).suffix.lower()
    is_bart, is_raw = is_cfl(path), suffix in HDF5 and is_ismrmrd(path)
    if trajectory is not None and not is_bart:
        raise DataError(f"{path}: a trajectory is declared for BART's files only; this kind of "
                        "file has its own; leave it out")
    if axes is not None and suffix not in _ARRAYS:
        raise DataError(f"{path}: axes are declared for {', '.join(_ARRAYS)} only; this kind of "
                        "file has its own; leave them out")
    if select and not is_raw:
        raise DataError(f"{path}: expected ISMRMRD raw data to select {dict(select)} from, found "
                        "another kind of file; leave `select` out")
    scan: KSpace | NonCartesianKSpace
    if is_bart:
        scan = read_bart_kspace(path, trajectory)
    elif is_raw:
        scan = read_ismrmrd(path, select=select, reversed_readouts=reversed_readouts)
    elif suffix in HDF5:
        return read_fastmri(path, key, slices)
    elif suffix in _ARRAYS:
        scan = read_array_kspace(path, key, axes)
    else:
        known = ", ".join((*_ARRAYS, *HDF5, *BART))
        raise DataError(f"{path}: expected k-space as {known}, got {suffix!r}; convert the file")
    return scan if slices is None else scan.part(slices)
