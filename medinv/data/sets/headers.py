"""Names and shapes of the arrays in a file, from its header alone.

One small function per format, by suffix; none reads an array or runs code from the file.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medinv.data.mri.matlab import mat_arrays
from medinv.data.safety import hdf5_listing, open_hdf5
from medinv.errors import DataError

Shapes = dict[str, tuple[int, ...]]


def array_shapes(path: str | Path) -> Shapes | None:
    """Shapes by name (``""`` for a file that holds one array); None for an unknown suffix.

    Args:
        path: ``.h5``, ``.hdf5``, ``.npy``, ``.npz``, ``.mat``, ``.nii``,
            ``.nii.gz`` or ``.dcm`` (frames, rows, columns).

    Raises:
        DataError: the file cannot be opened as what its suffix says, or it is cut off.

    >>> import numpy, tempfile
    >>> path = Path(tempfile.mkdtemp(), "maps.npy")
    >>> numpy.save(path, numpy.zeros((8, 6, 4)))
    >>> array_shapes(path)
    {'': (8, 6, 4)}
    """
    path = Path(path)
    reader = next((read for suffix, read in _READERS.items()
                   if path.name.lower().endswith(suffix)), None)
    if reader is None:
        return None
    try:
        return reader(path)
    except DataError:
        raise
    except Exception as error:  # a broken file may raise anything from any format's library
        raise DataError(
            f"{path}: its header cannot be read ({type(error).__name__}: {error}); the file is "
            "damaged, incomplete or of another kind. Fetch it again."
        ) from error


def _hdf5(path: Path) -> Shapes:
    with open_hdf5(path) as file:
        return {name: tuple(node.shape or ()) for name, node in hdf5_listing(file)}


def _npy(path: Path) -> Shapes:
    import numpy as np

    array = np.lib.format.open_memmap(path, mode="r")  # checks the file's length
    return {"": array.shape}


def _npz(path: Path) -> Shapes:
    import numpy as np

    shapes: Shapes = {}
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            with archive.open(name) as member:
                version = np.lib.format.read_magic(member)
                read = (np.lib.format.read_array_header_1_0 if version == (1, 0)
                        else np.lib.format.read_array_header_2_0)
                shapes[name.removesuffix(".npy")] = read(member)[0]
    return shapes


def _mat(path: Path) -> Shapes:
    return {name: shape for name, (shape, _) in mat_arrays(path).items()}


def _nifti(path: Path) -> Shapes:
    import nibabel

    image: Any = nibabel.load(path)
    return {"": tuple(int(n) for n in image.shape)}


def _dicom(path: Path) -> Shapes:
    import pydicom

    tags = ["Rows", "Columns", "NumberOfFrames"]
    header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=tags)
    return {"": (int(header.get("NumberOfFrames", 1) or 1), int(header.Rows),
                 int(header.Columns))}


_READERS: dict[str, Callable[[Path], Shapes]] = {
    ".h5": _hdf5, ".hdf5": _hdf5, ".npy": _npy, ".npz": _npz, ".mat": _mat,
    ".nii": _nifti, ".nii.gz": _nifti, ".dcm": _dicom,
}
