"""The stored numbers of a file, and the values they stand for.

Uncompressed pixels are read straight from the disk at the place where the header ends; JPEG,
JPEG 2000 and RLE go through pydicom and its codecs. Philips' precise values are
``(stored * slope + intercept) / (slope * scale slope)``, comparable between series, where the
display values are not (Chenevert et al. 2014, doi:10.1593/tlo.13811).
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from medinv.data.dicom.codestream import declared_size
from medinv.data.dicom.files import refusing
from medinv.data.dicom.frames import Frame
from medinv.data.dicom.header import Header
from medinv.data.expansion import check_expansion
from medinv.errors import DataError, DependencyError

Stored = np.ndarray[Any, np.dtype[Any]]

MAX_VOXELS = 2**31
_PIXEL_DATA = b"\xe0\x7f\x10\x00"
_UNDEFINED_LENGTH = 0xFFFFFFFF
_BIG_ENDIAN = "1.2.840.10008.1.2.2"
_NATIVE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "")


def stored_pixels(header: Header) -> Stored:
    """The stored numbers of a file, (frame, row, column).

    Raises:
        DataError: colour, pixels that are cut off, or too many of them.
        DependencyError: no codec for this compression is installed.
    """
    shape = (header.count("NumberOfFrames", 1), header.count("Rows"), header.count("Columns"))
    if header.count("SamplesPerPixel", 1) != 1 or header.text("PhotometricInterpretation") not in (
            "MONOCHROME1", "MONOCHROME2", ""):
        raise DataError(f"{header.name}: expected one number per pixel, found colours; it is a "
                        "screen capture or a fused image, choose the original series")
    n_pixels = shape[0] * shape[1] * shape[2]
    if not 0 < n_pixels <= MAX_VOXELS:
        raise DataError(f"{header.name}: its header states {shape} voxels, expected 1 to "
                        f"{MAX_VOXELS}; the header is damaged")
    stored = _native(header, shape)
    if stored is None:
        stored = _decoded(header, n_pixels)
    if stored.size != n_pixels:
        raise DataError(f"{header.name}: expected {shape} pixels, found {stored.shape}; the file "
                        "is damaged, export it again")
    return _used_bits(header, stored.reshape(shape))


def _native(header: Header, shape: tuple[int, int, int]) -> Stored | None:
    """Uncompressed little-endian pixels; None where they are anything else."""
    syntax = header.transfer_syntax
    bits, signed = header.count("BitsAllocated"), header.count("PixelRepresentation", 0)
    if syntax not in _NATIVE or bits not in (8, 16, 32):
        return None
    kind = np.dtype(f"<{'i' if signed else 'u'}{bits // 8}")
    n_bytes = kind.itemsize * shape[0] * shape[1] * shape[2]
    implicit = header.dataset.original_encoding[0]
    with header.file.open() as stream:
        stream.seek(header.offset)
        start = stream.read(8 if implicit else 12)
        length = int.from_bytes(start[-4:], "little")
        if start[:4] != _PIXEL_DATA or length == _UNDEFINED_LENGTH:
            return None
        here = stream.tell()
        found = min(length, stream.seek(0, os.SEEK_END) - here)
        if found < n_bytes:
            raise DataError(f"{header.name}: expected {n_bytes} bytes of pixels, found {found}; "
                            "the file is cut off, copy it again")
        stream.seek(here)
        content = stream.read(n_bytes)
    return np.frombuffer(content, kind).reshape(shape)


def _decoded(header: Header, n_pixels: int) -> Stored:
    """Pixels that pydicom decodes."""
    import pydicom

    with header.file.open() as stream, refusing(header.name, "the pixels cannot be decoded"):
        dataset = pydicom.dcmread(stream, force=True)
        if "PixelData" in dataset:
            n_bytes = n_pixels * max(header.count("BitsAllocated") // 8, 1)
            check_expansion(header.name, n_bytes, len(dataset.PixelData))
            _check_frames(header, dataset.PixelData)
        try:
            stored: Stored = dataset.pixel_array
        except (NotImplementedError, RuntimeError) as error:
            raise _no_decoder(header, error) from None
    return stored


def _check_frames(header: Header, pixels: bytes) -> None:
    """Refuse packed frames that declare another size than the header."""
    from pydicom.encaps import generate_frames

    expected = header.count("Rows"), header.count("Columns")
    if header.transfer_syntax in (*_NATIVE, _BIG_ENDIAN):
        return
    for frame in generate_frames(pixels, number_of_frames=header.count("NumberOfFrames", 1)):
        size = declared_size(frame)
        if size is not None and size != expected:
            raise DataError(f"{header.name}: the header states {expected} pixels, but a packed "
                            f"frame declares {size}; the file is damaged, export it again")


def _no_decoder(header: Header, error: Exception) -> DataError | DependencyError:
    from pydicom.pixels import get_decoder  # type: ignore[attr-defined]
    from pydicom.uid import UID

    syntax = UID(header.transfer_syntax)
    try:
        available = get_decoder(syntax).is_available
    except NotImplementedError:
        available = False
    if available:
        return DataError(f"{header.name}: the pixels cannot be decoded ({type(error).__name__}); "
                         "the file is damaged or cut off, export it again")
    return DependencyError(f"{header.name}: no decoder for {syntax.name}; pip install "
                           "'pylibjpeg[all]', or decompress the files first")


def _used_bits(header: Header, stored: Stored) -> Stored:
    """Clear what lies above BitsStored (old files keep overlays there)."""
    allocated = stored.dtype.itemsize * 8
    used = header.count("BitsStored", allocated)
    if stored.dtype.kind not in "iu" or not 0 < used < allocated:
        return stored
    spare = allocated - used
    if stored.dtype.kind == "u":
        return stored if int(stored.max()) < 1 << used else stored & ((1 << used) - 1)
    half = 1 << (used - 1)
    inside = -half <= int(stored.min()) and int(stored.max()) < half
    return stored if inside else (stored << spare) >> spare


def fill_values(
    out: np.ndarray[Any, np.dtype[np.float32]], stored: Stored, frame: Frame, precise: bool
) -> None:
    """Write the values of a slice, from its file's stored numbers, into a float32 image."""
    top, left = frame.tile
    rows, cols = frame.shape
    image = stored[frame.index, top : top + rows, left : left + cols]
    slope, intercept = frame.slope, frame.intercept
    if precise and frame.philips is not None:
        if not slope:
            raise DataError(f"{frame.header.name}: RescaleSlope is 0; there are no precise values")
        slope, intercept = 1 / frame.philips[0], intercept / (slope * frame.philips[0])
    _check_range(image, slope, intercept, frame.header.name)
    if slope == 1:
        np.add(image, np.float32(intercept), out=out, dtype=np.float32, casting="unsafe")
    else:
        np.multiply(image, slope, out=out, dtype=np.float64, casting="unsafe")
        np.add(out, np.float32(intercept), out=out)


def _check_range(image: Stored, slope: float, intercept: float, name: str) -> None:
    """Refuse values beyond float32: integers by what their type can hold, without a look."""
    if image.dtype.kind == "f":
        largest = float(np.abs(image).max())
    else:
        largest = float(2 ** (8 * image.dtype.itemsize))
    if not largest * abs(slope) + abs(intercept) < float(np.finfo(np.float32).max):
        raise DataError(f"{name}: values of {slope:g} * stored + {intercept:g} are NaN or too "
                        "large for float32; the header is damaged, export the series again")


def fill_padding(
    out: np.ndarray[Any, np.dtype[np.float32]], stored: Stored, frame: Frame, value: float
) -> int:
    """Set a slice's padding, as its header marks it, to a value; returns how many voxels."""
    header = frame.header
    limits = [number for key in ("PixelPaddingValue", "PixelPaddingRangeLimit")
              if (number := header.number(key)) is not None]
    if not limits:
        return 0
    if stored.dtype.kind == "i":  # some writers give -2000 as the unsigned number 63536
        half = 2 ** (stored.dtype.itemsize * 8 - 1)
        limits = [number - 2 * half if number >= half else number for number in limits]
    low, high = min(limits), max(limits)
    top, left = frame.tile
    rows, cols = frame.shape
    image = stored[frame.index, top : top + rows, left : left + cols]
    padding = (image >= low) & (image <= high)
    out[padding] = value
    return int(padding.sum())
