"""Projections of a known object, written in each format that is read."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pydicom
import torch
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from torch import Tensor

from medinv.data.ct import projections_dicom as tags

VR = {tags.ROWS: "US", tags.COLUMNS: "US", tags.SPECTRUM: "US", tags.SHAPE: "CS", tags.KIND: "CS",
      tags.LOG: "CS", tags.WATER: "DS"}
SCALE = 1e-4


def ball_integrals(sources: Tensor, elements: Tensor, centre: Tensor, radius: float, mu: float
                   ) -> Tensor:
    """Line integrals of a ball along rays from sources (view, 3) to elements (view, ..., 3)."""
    start = sources.reshape(len(sources), *[1] * (elements.ndim - 2), 3)
    rays = elements - start
    rays = rays / torch.linalg.vector_norm(rays, dim=-1, keepdim=True)
    away = centre - start
    distance2 = (away**2).sum(-1) - (away * rays).sum(-1) ** 2
    return 2 * mu * (radius**2 - distance2).clamp(min=0).sqrt()


def write_dxchange(path: Path, integrals: Tensor, degrees: np.ndarray, **extra: object) -> Path:
    """Counts of ``integrals`` (view, row, col), with uneven flat and dark fields."""
    n_rows, n_cols = integrals.shape[1:]
    flat = 1000 + 50 * np.sin(np.arange(n_rows * n_cols)).reshape(n_rows, n_cols)
    dark = np.full((n_rows, n_cols), 20.0)
    counts = dark + (flat - dark) * np.exp(-integrals.numpy())
    with h5py.File(path, "w") as file:
        file["exchange/data"] = counts.astype(np.float32)
        file["exchange/data_white"] = np.stack([flat, flat]).astype(np.float32)
        file["exchange/data_dark"] = np.stack([dark, dark]).astype(np.float32)
        file["exchange/theta"] = degrees
        for name, value in extra.items():
            file[f"measurement/instrument/detector/{name}"] = value
    return path


def write_htc(path: Path, sinogram: np.ndarray, degrees: np.ndarray, *, packed: bool = False,
              **changed: object) -> Path:
    """The Helsinki challenge's struct; ``None`` leaves a parameter out."""
    from scipy.io import savemat

    parameters = {"distanceSourceOrigin": 400.0, "distanceSourceDetector": 500.0, "voltage": "45",
                  "pixelSizePost": 2.0, "angles": degrees, **changed}
    kept = {name: value for name, value in parameters.items() if value is not None}
    savemat(path, {"CtDataFull": {"type": "2d", "sinogram": sinogram, "parameters": kept}},
            do_compression=packed)
    return path


class Scanner:
    """A helical scan of a ball, with rays worked out in the format's own coordinates.

    x to the right, y up, z away, as seen from the table; left-handed.
    """

    n_rows, n_cols, row_mm, col_mm = 4, 24, 3.0, 4.0
    rho, radius, centre = 200.0, 360.0, (11.75, 2.5)
    n_views, per_turn, pitch_mm, start_mm = 40, 16, 8.0, 500.0
    ball = torch.tensor([14.0, 9.0, 506.0], dtype=torch.float64)

    def __init__(self, shifts: tuple[tuple[float, float, float], ...] = ((0, 0, 0),),
                 shape: str = "CYLINDRICAL") -> None:
        self.shape = shape
        view = torch.arange(self.n_views, dtype=torch.float64)
        self.phi = 2 * torch.pi * view / self.per_turn
        self.z = self.start_mm + self.pitch_mm * view / self.per_turn
        cycle = [shifts[i % len(shifts)] for i in range(self.n_views)]
        self.shift = torch.tensor(cycle, dtype=torch.float64)

    def sources(self) -> Tensor:
        rho, phi = self.rho + self.shift[:, 0], self.phi + self.shift[:, 1]
        return torch.stack([-rho * phi.sin(), rho * phi.cos(), self.z + self.shift[:, 2]], 1)

    def elements(self) -> Tensor:
        """(view, row, col, 3): rows from the farthest on, columns from the left at 6 o'clock."""
        along = (torch.arange(1, self.n_cols + 1) - self.centre[0]) * self.col_mm
        height = (self.centre[1] - torch.arange(1, self.n_rows + 1)) * self.row_mm
        inwards = torch.stack([self.phi.sin(), -self.phi.cos()], 1)[:, None]
        across = torch.stack([self.phi.cos(), self.phi.sin()], 1)[:, None]
        angle = (along / self.radius)[:, None]
        arc = self.radius * (angle.cos() * inwards + angle.sin() * across)
        if self.shape == "FLAT":
            arc = self.radius * inwards + along[:, None] * across
        flat = -self.rho * inwards + arc  # the focal centre is at -rho * inwards
        z = self.z[:, None] + height
        grid = flat[:, None].expand(-1, self.n_rows, -1, -1)
        return torch.cat([grid, z[:, :, None, None].expand(*grid.shape[:3], 1)], -1)

    def integrals(self) -> Tensor:
        return ball_integrals(self.sources(), self.elements(), self.ball, 6.0, 0.02)

    def write(self, folder: Path, *, transposed: bool = False, position: str | None = "HFS",
              **changed: object) -> Path:
        """One file per view, their names in another order than their numbers."""
        folder.mkdir()
        series, integrals = generate_uid(), self.integrals().numpy()
        for i in range(self.n_views):
            values = {tags.ROWS: self.n_rows, tags.COLUMNS: self.n_cols, tags.ROW_MM: self.row_mm,
                      tags.COL_MM: self.col_mm, tags.SHAPE: self.shape, tags.RHO: self.rho,
                      tags.PHI: float(self.phi[i]) % (2 * np.pi), tags.Z: float(self.z[i]),
                      tags.RADIUS: self.radius, tags.CENTRE: list(self.centre),
                      tags.D_RHO: float(self.shift[i, 0]), tags.D_PHI: float(self.shift[i, 1]),
                      tags.D_Z: float(self.shift[i, 2]), tags.KIND: "HELICAL", tags.LOG: "YES",
                      tags.PHOTONS: [1e5] * self.n_cols, tags.WATER: "0.0192"}
            values |= {getattr(tags, name): value for name, value in changed.items()}
            dataset = _file(integrals[i], transposed, position, i + 1, series)
            for tag, value in values.items():
                if value is not None:
                    dataset.add_new(tag, VR.get(tag, "FL"), value)
            dataset.save_as(folder / f"{(7 * i) % self.n_views:03d}.dcm",
                            enforce_file_format=True)
        return folder


def _file(integrals: np.ndarray, transposed: bool, position: str | None, number: int, series: str
          ) -> pydicom.Dataset:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset = pydicom.Dataset()
    dataset.file_meta = meta
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, generate_uid()
    dataset.SeriesInstanceUID, dataset.InstanceNumber = series, number
    dataset.Modality, dataset.PatientName, dataset.KVP = "CT", "Doe^Jane", "120"
    if position is not None:
        dataset.PatientPosition = position
    stored = np.round(integrals / SCALE).astype(np.uint16)
    stored = stored.T if transposed else stored
    dataset.Rows, dataset.Columns = stored.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 0
    dataset.RescaleSlope, dataset.RescaleIntercept = str(SCALE), "0"
    dataset.PixelData = np.ascontiguousarray(stored).tobytes()
    return dataset
