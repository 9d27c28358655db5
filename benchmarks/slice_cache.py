"""How fast a random slice of a cached volume is: MONAI's caches against memory maps.

    python benchmarks/slice_cache.py [--volumes 3] [--size 256 256 128]

Volumes are noise (int16, gzip), so that compression is as hard as it gets. Every cache is filled
before it is timed, and every timing is of the same random slices. CacheDataset holds every
decoded volume in memory, in every process; the others hold them on the disk.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import torch
from monai.data import CacheDataset, PersistentDataset
from monai.transforms import Transform
from torch import Tensor

from medinv.data.sets.slices import PlaneOf, SliceStack


class Decode(Transform):
    """A NIfTI file as an array (z, y, x); MONAI caches the results of `Transform` only."""

    def __call__(self, path: str) -> Tensor:
        voxels = np.asarray(nibabel.load(path).dataobj, dtype=np.float32)
        return torch.from_numpy(np.ascontiguousarray(voxels.T))


def milliseconds(read: Callable[[int, int], Tensor], picks: list[tuple[int, int]]) -> float:
    """Time of one random slice, in contiguous memory."""
    for volume, i in picks[:3]:
        read(volume, i)
    start = time.perf_counter()
    for volume, i in picks:
        read(volume, i).clone(memory_format=torch.contiguous_format)
    return 1e3 * (time.perf_counter() - start) / len(picks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--volumes", type=int, default=3)
    parser.add_argument("--size", type=int, nargs=3, default=(256, 256, 128))
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = []
        for n in range(options.volumes):
            files.append(str(folder / f"{n}.nii.gz"))
            voxels = rng.normal(0, 20, options.size).astype(np.int16)
            nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), files[-1])
        picks = [(int(rng.integers(options.volumes)), int(rng.integers(min(options.size))))
                 for _ in range(40)]
        persistent = PersistentDataset(files, Decode(), cache_dir=folder / "monai")
        memory = CacheDataset(files, Decode(), progress=False)
        axial, sagittal = (
            [SliceStack(file, PlaneOf(plane), folder / "medinv") for file in files]
            for plane in ("axial", "sagittal"))
        flat = [np.load(next((folder / "medinv").glob(f"{stack._name()}.npy")), mmap_mode="r")
                for stack in axial if len(stack)]
        for stack in sagittal:
            len(stack)  # fills the cache
        rows: dict[str, tuple[Callable[[int, int], Tensor], Callable[[int, int], Tensor]]] = {
            "decode the file": (lambda v, i: Decode()(files[v])[i],
                                lambda v, i: Decode()(files[v])[..., i]),
            "monai PersistentDataset": (lambda v, i: persistent[v][i],
                                        lambda v, i: persistent[v][..., i]),
            "monai CacheDataset": (lambda v, i: memory[v][i], lambda v, i: memory[v][..., i]),
            "memory map, axial first": (lambda v, i: torch.from_numpy(np.array(flat[v][i])),
                                        lambda v, i: torch.from_numpy(np.array(flat[v][..., i]))),
            "memory map, plane first": (lambda v, i: axial[v][i], lambda v, i: sagittal[v][i]),
        }
        print(f"{'ms per slice':26} {'axial':>9} {'sagittal':>9}")
        for label, (read_axial, read_sagittal) in rows.items():
            times = milliseconds(read_axial, picks), milliseconds(read_sagittal, picks)
            print(f"{label:26} {times[0]:9.3f} {times[1]:9.3f}")


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        main()
