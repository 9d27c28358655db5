"""Everything that reads a file of others, with sound files to damage.

`READERS` makes the table; `tests/data/test_fuzz_readers.py` reads a few damaged files of each row,
``benchmarks/fuzz.py`` thousands.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from pydicom.uid import JPEG2000Lossless, RLELossless
from scipy.io import savemat

from medinv.data import (
    load_manifest,
    read_array,
    read_dicom,
    read_fastmri,
    read_ismrmrd,
    read_nifti,
    read_sinogram,
    read_volume,
    write_cfl,
    write_nifti,
)
from medinv.data.describe import describe
from medinv.data.readers import read_scan
from medinv.data.volume import Volume
from medinv.priors import load_prior
from medinv.recipe import load_recipe
from tests.data.ct.projection_files import Scanner, write_dxchange, write_htc
from tests.data.dicom.dicom_phantom import Grid, enhanced, mosaic, slices
from tests.tiny import write_prior

RNG = np.random.default_rng(0)
SAMPLES = (RNG.normal(size=(2, 3, 8, 6)) + 1j * RNG.normal(size=(2, 3, 8, 6))).astype(np.complex64)
VOXELS = np.arange(4 * 6 * 5, dtype=np.int16).reshape(4, 6, 5)
GEOMETRY = """kind: fan
data: scan.npy
angles: {start: 0, stop: 360, count: 5}
source_mm: 90
detector_mm: 30
col_mm: 0.7
"""
_SPLIT = b"\0--second file--\0"


@dataclass(frozen=True)
class Reader:
    """A reader, the ending of its files, and contents of sound ones."""

    name: str
    suffix: str
    read: Callable[[Path], object]
    seeds: Callable[[Path], Sequence[bytes]]


def readers() -> list[Reader]:
    """The table; each row's seeds are made in an empty folder when they are asked for."""
    return [
        Reader("NIfTI", ".nii", read_nifti, lambda folder: nifti(folder, ".nii")),
        Reader("NIfTI, gz", ".nii.gz", read_nifti, lambda folder: nifti(folder, ".nii.gz")),
        Reader("NIfTI, described", ".nii.gz", describe, lambda folder: nifti(folder, ".nii.gz")),
        Reader("DICOM", ".dcm", read_dicom, dicom),
        Reader("DICOM, described", ".dcm", describe, dicom),
        Reader("fastMRI", ".h5", read_fastmri, fastmri),
        Reader("ISMRMRD", ".h5", read_ismrmrd, ismrmrd_files),
        Reader("HDF5, described", ".h5", describe,
               lambda folder: [*fastmri(folder), *ismrmrd_files(folder), *dxchange(folder)]),
        Reader("BART", ".cfl", read_bart, bart),
        Reader("NumPy", ".npy", read_scan, lambda _: numpy_files(np.save)),
        Reader("NumPy, npz", ".npz", read_scan, lambda _: numpy_files(np.savez_compressed)),
        Reader("NumPy, described", ".npz", describe, lambda _: numpy_files(np.savez_compressed)),
        Reader("MATLAB", ".mat", read_array, matlab),
        Reader("MATLAB, described", ".mat", describe,
               lambda folder: [*matlab(folder), *htc(folder)]),
        Reader("DXchange", ".h5", read_sinogram, dxchange),
        Reader("HTC 2022", ".mat", read_sinogram, htc),
        Reader("projections, YAML", ".yaml", read_geometry, lambda _: [GEOMETRY.encode()]),
        Reader("DICOM-CT-PD", ".dcm", read_sinogram, projections),
        Reader("NRRD", ".nrrd", read_volume, nrrd),
        Reader("recipe", ".yaml", load_recipe, lambda _: packaged("recipes", "mri", "ct")),
        Reader("training recipe", ".yaml", load_recipe, lambda _: packaged("recipes", "prior")),
        Reader("manifest", ".yaml", load_manifest, lambda _: packaged("data_manifests", "")),
        Reader("checkpoint card", ".json", read_card_of_tiny, card),
        Reader("checkpoint weights", ".safetensors", read_weights_of_tiny, weights),
    ]


def nifti(folder: Path, suffix: str) -> list[bytes]:
    paths = [folder / f"{dtype}{suffix}" for dtype in ("float32", "complex64")]
    for path in paths:
        dtype = getattr(torch, path.name.split(".")[0])
        write_nifti(Volume(torch.ones(2, 3, 4, dtype=dtype), torch.eye(4).double()), path)
    return [path.read_bytes() for path in paths]


def dicom(folder: Path) -> list[bytes]:  # noqa: ARG001  (made in memory)
    grid = Grid()
    files = [slices(VOXELS[:1])[0], enhanced(VOXELS, grid), mosaic(VOXELS, grid)]
    for syntax in (RLELossless, JPEG2000Lossless):
        packed = slices(np.tile(VOXELS[:1], (1, 6, 8)))[0]
        packed.compress(syntax, generate_instance_uid=False)
        files.append(packed)
    contents = []
    for file in files:
        stream = io.BytesIO()
        file.save_as(stream, enforce_file_format=True)
        contents.append(stream.getvalue())
    return contents


def fastmri(folder: Path) -> list[bytes]:
    from tests.data.mri.test_fastmri import write

    return [write(folder / "fastmri.h5").read_bytes()]


def ismrmrd_files(folder: Path) -> list[bytes]:
    from tests.data.mri.test_ismrmrd import COILS, NX, NY, header, lines, readout, samples, write

    t = (np.arange(NX) - NX // 2) / NX
    spoke = readout(samples(COILS, NX), trajectory=np.stack([t, t], -1).astype(np.float32))
    return [write(folder / "cartesian.h5", lines(samples(COILS, NY, NX))).read_bytes(),
            write(folder / "radial.h5", [spoke], header(trajectory="radial")).read_bytes()]


def bart(folder: Path) -> list[bytes]:
    """Header and numbers as one content."""
    write_cfl(torch.from_numpy(SAMPLES[0]), folder / "scan", "coil ky kx")
    header = (folder / "scan.hdr").read_bytes()
    return [header + _SPLIT + (folder / "scan.cfl").read_bytes()]


def read_bart(path: Path) -> object:
    header, _, numbers = path.read_bytes().partition(_SPLIT)
    path.with_suffix(".hdr").write_bytes(header)
    path.write_bytes(numbers)
    return read_scan(path)


def numpy_files(save: Callable[..., None]) -> list[bytes]:
    stream = io.BytesIO()
    save(stream, SAMPLES)
    return [stream.getvalue()]


def matlab(folder: Path) -> list[bytes]:
    from tests.data.mri.test_arrays import save_7_3

    savemat(folder / "packed.mat", {"raw": SAMPLES}, do_compression=True)
    savemat(folder / "plain.mat", {"raw": SAMPLES})
    save_7_3(folder / "hdf5.mat", raw=SAMPLES)
    return [(folder / f"{name}.mat").read_bytes() for name in ("packed", "plain", "hdf5")]


def dxchange(folder: Path) -> list[bytes]:
    integrals = torch.full((6, 2, 10), 0.1)
    return [write_dxchange(folder / "dx.h5", integrals, np.arange(0, 180, 30.0)).read_bytes()]


def htc(folder: Path) -> list[bytes]:
    return [write_htc(folder / f"htc{packed}.mat", np.ones((4, 9)), 30 * np.arange(4.0),
                      packed=packed).read_bytes() for packed in (False, True)]


def read_geometry(path: Path) -> object:
    np.save(path.parent / "scan.npy", np.zeros((5, 16), np.float32))
    return read_sinogram(path)


def projections(folder: Path) -> list[bytes]:
    return [(Scanner().write(folder / "scan") / "000.dcm").read_bytes()]


def nrrd(folder: Path) -> list[bytes]:
    import SimpleITK as itk  # noqa: N813

    for packed in (False, True):
        itk.WriteImage(itk.GetImageFromArray(VOXELS), str(folder / f"{packed}.nrrd"), packed)
    return [(folder / f"{packed}.nrrd").read_bytes() for packed in (False, True)]


def packaged(room: str, *starts: str) -> list[bytes]:
    """The YAML files of medinv whose names start so."""
    entries = sorted(resources.files(f"medinv.{room}").iterdir(), key=lambda entry: entry.name)
    return [entry.read_bytes() for entry in entries
            if entry.name.endswith(".yaml") and entry.name.startswith(starts)]


def card(folder: Path) -> list[bytes]:
    """The card of a small prior, and one of the shipped ones."""
    write_prior(folder / "tiny.safetensors", complex_images=False)
    return [(folder / "tiny.json").read_bytes()]


def read_card_of_tiny(path: Path) -> object:
    """The damaged card beside sound weights."""
    write_prior(path.parent / "tiny.safetensors", complex_images=False)
    path.rename(path.parent / "tiny.json")
    return load_prior(path.parent / "tiny.safetensors")


def weights(folder: Path) -> list[bytes]:
    return [write_prior(folder / "tiny.safetensors", complex_images=False).read_bytes()]


def read_weights_of_tiny(path: Path) -> object:
    """The damaged weights beside a sound card."""
    content = path.read_bytes()
    tiny = write_prior(path.parent / "tiny.safetensors", complex_images=False)
    tiny.write_bytes(content)
    return load_prior(tiny)
