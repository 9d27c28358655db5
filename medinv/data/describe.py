"""What a file or folder is: shape, place, units, acquisition, range of values, findings.

One function per format takes the path and returns plain values; `FORMATS` pairs it with a test of
the path. No patient's name, ID, birth date or UID is among them unless the caller asks for it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from medinv.data.ct.projections import read_sinogram
from medinv.data.ct.projections_dicom import is_projection_dicom
from medinv.data.ct.projections_yaml import GEOMETRY_FILE
from medinv.data.dicom import list_series, read_dicom
from medinv.data.dicom.identifiers import identifiers
from medinv.data.dicom.reader import choose_series
from medinv.data.itk import SUFFIXES, read_itk
from medinv.data.mri.bart import is_cfl
from medinv.data.mri.describe import array_facts, bart_facts, fastmri_facts, ismrmrd_facts
from medinv.data.mri.ismrmrd import is_ismrmrd
from medinv.data.mri.matlab import mat_arrays
from medinv.data.nifti import read_nifti
from medinv.data.safety import hdf5_listing, open_hdf5
from medinv.data.volume import Volume
from medinv.errors import DataError, MedinvWarning

Facts = dict[str, object]

_MAX_LISTED = 50


def describe(path: str | Path, *, show_identifiers: bool = False) -> Facts:
    """What a file or folder is.

    Args:
        path: NIfTI, DICOM (folder, zip or file), HDF5, BART, NumPy or MATLAB.
        show_identifiers: add the patient's name, ID, birth date and UIDs of a DICOM file.

    Raises:
        DataError: nothing there, a kind that medinv does not read, or a damaged file.

    >>> import numpy, tempfile
    >>> name = Path(tempfile.mkdtemp(), "scan.npy")
    >>> numpy.save(name, numpy.zeros((2, 3), numpy.float32))
    >>> describe(name)
    {'format': 'NumPy', 'arrays': {'': '(2, 3) float32'}}
    """
    path = Path(path)
    if not path.exists() and not is_cfl(path):
        raise DataError(f"{path}: expected a file or folder, found nothing; check the path")
    name, facts = next((name, facts) for name, matches, facts in FORMATS if matches(path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MedinvWarning)  # they are among the findings
        found = {"format": name, **facts(path)}
    if show_identifiers and name == "DICOM":
        found["identifiers"] = identifiers(list_series(path)[0])
    return found


def _volume(volume: Volume) -> Facts:
    data = volume.data.abs() if volume.data.is_complex() else volume.data
    notes = volume.metadata.get("notes", ())
    findings = list(notes) if isinstance(notes, tuple) else []
    if data.min() == data.max():
        findings.append("all voxels are equal")
    return {
        "shape (z, y, x)": list(volume.data.shape),
        "spacing (x, y, z), mm": [round(value, 6) for value in volume.spacing_mm],
        "orientation (x, y, z)": volume.orientation,
        "space": volume.metadata.get("space", "unknown"),
        "unit": volume.metadata.get("unit", "unknown"),
        "smallest value": float(data.min()), "largest value": float(data.max()),
        **volume.acquisition.known(), "findings": findings,
    }


def _nifti(path: Path) -> Facts:
    return _volume(read_nifti(path))


def _itk(path: Path) -> Facts:
    return _volume(read_itk(path))


def _dicom(path: Path) -> Facts:
    """The only volume of the only series; else what there is to choose from."""
    series = list_series(path)
    listed: Facts = {"series": [str(item) for item in series]}
    try:
        choose_series(series, None, str(path))
    except DataError:
        return {**listed, "findings": ["several series: choose one by its index"]}
    try:
        return {**listed, **_volume(read_dicom(path))}
    except DataError as error:
        return {**listed, "findings": [str(error)]}


def _hdf5(path: Path) -> Facts:
    """The layout and the data sets of an HDF5 file; their numbers stay on the disk."""
    with open_hdf5(path) as file:
        arrays = {name: f"{node.shape} {node.dtype}"
                  for name, node in islice(hdf5_listing(file), _MAX_LISTED)}
        names = set(file)
    layout = "unknown"
    if "kspace" in names:
        return {"layout": "fastMRI", "arrays": arrays, **fastmri_facts(path)}
    if "exchange" in names:
        layout = "DXchange"
    elif is_ismrmrd(path):
        try:
            return {"layout": "ISMRMRD", **ismrmrd_facts(path)}
        except DataError as error:
            return {"layout": "ISMRMRD", "arrays": arrays, "findings": [str(error)]}
    facts: Facts = {"layout": layout, "arrays": arrays}
    return {**facts, **_sinogram(path, (0, 1))} if layout == "DXchange" else facts


def _sinogram(path: Path, rows: tuple[int, int] | None = None) -> Facts:
    """The scan of projections, or why it cannot be read."""
    try:
        sinogram = read_sinogram(path, rows=rows)
    except DataError as error:
        return {"findings": [str(error)]}
    notes = sinogram.metadata.get("notes", ())
    findings = list(notes) if isinstance(notes, tuple) else []
    return {
        "line integrals (view, row, col)": list(sinogram.data.shape),
        "geometry": str(sinogram.geometry).splitlines(),
        "smallest value": float(sinogram.data.min()), "largest value": float(sinogram.data.max()),
        **sinogram.acquisition.known(), "findings": findings + sinogram.geometry.check(),
    }


def _numpy(path: Path) -> Facts:
    from medinv.data.mri.arrays import numpy_arrays

    found = dict(islice(numpy_arrays(path).items(), _MAX_LISTED))
    scans = [facts for facts in (array_facts(*array) for array in found.values()) if facts]
    return {"arrays": {name: f"{shape} {dtype}" for name, (shape, dtype) in found.items()},
            **(scans[0] if len(scans) == 1 else {})}


def _matlab(path: Path) -> Facts:
    found = mat_arrays(path)
    arrays: Facts = {"arrays": {name: f"{shape} {kind}" for name, (shape, kind) in found.items()}}
    is_scan = any(name.startswith("CtData") for name in found)
    return {**arrays, **_sinogram(path)} if is_scan else arrays


def _ends(*suffixes: str) -> Callable[[Path], bool]:
    return lambda path: path.is_file() and path.name.lower().endswith(suffixes)


def _is_scan(path: Path) -> bool:
    return path.name.lower().endswith((".yaml", ".yml")) or (path / GEOMETRY_FILE).is_file()


FORMATS: tuple[tuple[str, Callable[[Path], bool], Callable[[Path], Facts]], ...] = (
    ("NIfTI", _ends(".nii", ".nii.gz"), _nifti),
    ("NRRD or MetaImage", _ends(*SUFFIXES), _itk),
    ("HDF5", _ends(".h5", ".hdf5"), _hdf5),
    ("BART", is_cfl, bart_facts),
    ("NumPy", _ends(".npy", ".npz"), _numpy),
    ("MATLAB", _ends(".mat"), _matlab),
    ("projections in NumPy arrays", _is_scan, _sinogram),
    ("DICOM-CT-PD", is_projection_dicom, _sinogram),
    ("DICOM", lambda _: True, _dicom),
)
