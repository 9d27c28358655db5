"""Time medinv's reading of fastMRI slices against plain h5py, in the same run.

    python benchmarks/reading.py --folder /path/on/the/disk --repeats 9

A synthetic file of fastMRI's size (knee, 15 coils) is written first. "cold" drops the file from
the page cache before each read, so the disk counts; "warm" reads from memory, where medinv's one
pass over the samples (are they finite? which were measured?) shows. The median counts.
Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from medinv.data import FastMRIFile

SLICES, COILS, ROWS, COLUMNS = 12, 15, 640, 368


def write(path: Path) -> None:
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        stored = file.create_dataset("kspace", (SLICES, COILS, ROWS, COLUMNS), np.complex64)
        for i in range(SLICES):
            parts = rng.standard_normal((COILS, ROWS, COLUMNS, 2), np.float32)
            stored[i] = parts.view(np.complex64)[..., 0]


def drop(path: Path) -> None:
    """Drop the file from the page cache."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def seconds(read: Callable[[int], object], path: Path, repeats: int, cold: bool) -> float:
    times = []
    for i in range(repeats):
        if cold:
            drop(path)
        start = time.perf_counter()
        read(i % SLICES)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        path = Path(folder, "scan.h5")
        write(path)
        with FastMRIFile(path) as scan, h5py.File(path, "r") as plain:
            readers = {
                "plain h5py": lambda i: plain["kspace"][i],
                "medinv": lambda i: scan.kspace(slice(i, i + 1)),
            }
            print("| slice of 15 x 640 x 368 | cold (ms) | warm (ms) |\n|---|---|---|")
            for name, read in readers.items():
                read(0)
                cold, warm = (1e3 * seconds(read, path, arguments.repeats, c)
                              for c in (True, False))
                print(f"| {name} | {cold:.1f} | {warm:.1f} |")


if __name__ == "__main__":
    main()
