"""Time read_dicom against pydicom's plain pixel reads, on the same files in the same run.

    python benchmarks/dicom.py FOLDER

FOLDER holds a compressed CT series. Its slices, uncompressed and repeated at new positions, make
the second series of 500, in a temporary folder. The peer reads every file with
``dcmread(path).pixel_array`` and keeps the stored 16-bit numbers; medinv also sorts, rescales and
places the slices, and keeps 32-bit values. Sides take turns and the fastest of the repeats counts.
Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pydicom
from pydicom.uid import generate_uid

from medinv.data import list_series, read_dicom

N_SLICES, SPACING_MM = 500, 2.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    print("| series | medinv | pydicom, pixels | ratio | headers only |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        uncompressed = write_uncompressed(arguments.folder, Path(temporary))
        for name, folder in (("as given", arguments.folder), ("uncompressed", uncompressed)):
            print(row(name, folder, arguments.repeats))


def write_uncompressed(source: Path, folder: Path) -> Path:
    """A long series of the source's slices, one after the other."""
    slices = [pydicom.dcmread(path) for path in sorted(source.iterdir())]
    for dataset in slices:
        dataset.decompress(generate_instance_uid=False)
    for number in range(N_SLICES):
        dataset = slices[number % len(slices)]
        x, y, _ = dataset.ImagePositionPatient
        dataset.ImagePositionPatient = [x, y, number * SPACING_MM]
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        dataset.save_as(folder / f"{number:04d}.dcm")
    return folder


def row(name: str, folder: Path, repeats: int) -> str:
    files = sorted(folder.iterdir())

    def plain() -> list[object]:
        return [pydicom.dcmread(path).pixel_array for path in files]

    turns = [(seconds(lambda: read_dicom(folder)), seconds(plain),
              seconds(lambda: list_series(folder))) for _ in range(repeats)]
    ours, peer, headers = (min(times) for times in zip(*turns, strict=True))
    return (f"| {name}, {len(files)} slices | {1e3 * ours:.0f} ms | {1e3 * peer:.0f} ms | "
            f"{ours / peer:.2f} | {1e3 * headers:.0f} ms |")


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
