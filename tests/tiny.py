"""Inputs that take milliseconds: untrained priors, a CT volume, k-space of a disc."""

from __future__ import annotations

import hashlib
from pathlib import Path

import nibabel
import numpy as np
import torch
import yaml

from medinv.data import Volume
from medinv.operators import fourier
from medinv.priors import IntensityScale, NetworkPrior, UNet, save_prior
from medinv.recipe.mri import birdcage

CT_AFFINE = [[-2.0, 0, 0, 30], [0, 2, 0, -20], [0, 0, 3, 7], [0, 0, 0, 1]]


def write_prior(path: Path, *, complex_images: bool) -> Path:
    """An untrained prior with a few thousand weights."""
    torch.manual_seed(0)
    network = UNet(2 if complex_images else 1, (16, 16), (1, 1), 16)
    scale = IntensityScale(percentile=99) if complex_images else IntensityScale(value=0.02)
    prior = NetworkPrior(network, 0.3, complex_images=complex_images, scale=scale)
    save_prior(path, prior, "untrained, for tests")
    return path


def ct_volume(shape: tuple[int, int, int] = (4, 24, 32)) -> Volume:
    """A cylinder of water with a denser rod, in air; HU."""
    _, y, x = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in shape), indexing="ij")
    hu = torch.full(shape, -1000.0)
    hu[x**2 + y**2 < 0.7] = 0
    hu[(x - 0.3) ** 2 + y**2 < 0.05] = 500
    return Volume(hu, torch.tensor(CT_AFFINE, dtype=torch.float64))


def disc_kspace(n_coils: int = 4, size: int = 32) -> torch.Tensor:
    """k-space (coil, ky, kx) of a disc, every third column beside a sampled centre."""
    axis = torch.linspace(-1, 1, size)
    image = (axis[:, None] ** 2 + axis**2 < 0.6).to(torch.complex64)
    kspace = fourier.fft(birdcage(n_coils, (size, size)) * image, (-2, -1))
    columns = torch.arange(size)
    taken = (columns % 3 == 0) | ((columns - size // 2).abs() <= 6)
    return kspace * taken


def write_kspace(path: Path, kspace: torch.Tensor, **arrays: np.ndarray) -> Path:
    """An .npy file, or an .npz file where there are further arrays."""
    if arrays:
        np.savez(path, kspace=kspace.numpy(), **arrays)
    else:
        np.save(path, kspace.numpy())
    return path


def ct_recipe(folder: Path) -> dict[str, object]:
    """A CT recipe as plain data, on a volume and a prior that it writes."""
    ct_volume().to_nifti(folder / "ct.nii.gz")
    write_prior(folder / "ct.safetensors", complex_images=False)
    return {
        "name": "tiny-ct",
        "task": "reconstruct",
        "measurement": {
            "kind": "ct-simulated", "volume": {"path": str(folder / "ct.nii.gz")}, "views": 6
        },
        "prior": str(folder / "ct.safetensors"),
        "solver": {"name": "DDS", "steps": 3, "noise_aware": True},
        "baselines": [{"name": "FBP"}, {"name": "TV", "weight": 0.001, "max_iter": 3}],
    }


def mri_recipe(folder: Path) -> dict[str, object]:
    """An MRI recipe as plain data, on k-space and a prior that it writes."""
    write_kspace(folder / "scan.npy", disc_kspace())
    write_prior(folder / "mr.safetensors", complex_images=True)
    return {
        "name": "tiny-mri",
        "task": "reconstruct",
        "measurement": {"kind": "mri-file", "kspace": {"path": str(folder / "scan.npy")}},
        "prior": str(folder / "mr.safetensors"),
        "solver": {"name": "DDS", "steps": 3, "noise_aware": True},
        "baselines": [{"name": "ZeroFilled"}],
    }


def write_recipe(path: Path, content: dict[str, object]) -> Path:
    """A recipe file."""
    path.write_text(yaml.safe_dump(content))
    return path


def write_boxes(folder: Path) -> Path:
    """A CT volume of boxes (40, 36, 10) and its manifest, whose path is returned.

    Slices 0-5 are for training, 6-7 for validation, and 8-9, of another density, for tests.
    """
    rng = np.random.default_rng(0)
    hu = np.full((40, 36, 10), -1000.0, np.float32)
    for _ in range(30):
        i, j, k = rng.integers(0, (30, 26, 8))
        hu[i : i + 10, j : j + 10, k : k + 2] = rng.uniform(-200, 400)
    hu[..., 8:] = 1234
    path = folder / "boxes.nii.gz"
    nibabel.save(nibabel.Nifti1Image(hu, np.eye(4)), path)
    splits = {"train": (0, 6), "validation": (6, 8), "test": (8, 10)}
    manifest = folder / "boxes.yaml"
    manifest.write_text(yaml.safe_dump({
        "name": "boxes", "title": "boxes", "modality": "CT", "licence": "CC0-1.0",
        "source": "here", "access": {"kind": "manual", "steps": ["none"]},
        "files": {"image": {"path": path.name, "size": path.stat().st_size,
                            "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}},
        "geometry": {"shape": [40, 36, 10], "unit": "HU"},
        "splits": {name: {"axis": "k", "start": start, "stop": stop}
                   for name, (start, stop) in splits.items()},
    }))
    return manifest
