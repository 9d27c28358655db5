"""The size that a packed frame itself declares, from JPEG's or JPEG 2000's own header.

A codec takes memory by this size, not by the one in the DICOM header. Sources: ITU-T T.81 B.2.2
(JPEG's frame header; JPEG-LS, T.87, has the same), T.800 A.5.1 (JPEG 2000's image size).
"""

from __future__ import annotations

import struct

_JPEG, _JPEG_2000 = b"\xff\xd8", b"\xff\x4f\xff\x51"
_FRAME_HEADERS = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF,
                  0xF7}
_SCAN = 0xDA


def declared_size(frame: bytes) -> tuple[int, int] | None:
    """Rows and columns; None where the frame is neither JPEG nor JPEG 2000, or is broken.

    >>> declared_size(bytes.fromhex("ff4fff51 0029 0000 00000060 00000040 00000000 00000020"))
    (32, 96)
    >>> declared_size(bytes.fromhex("ffd8 fff7 000b 08 0020 0060 01"))
    (32, 96)
    """
    at = frame.find(_JPEG_2000)  # a .jp2 file wraps the stream in boxes
    try:
        if at >= 0:
            right, bottom, left, top = struct.unpack_from(">4I", frame, at + 8)
            return bottom - top, right - left
        return _jpeg_size(frame) if frame.startswith(_JPEG) else None
    except (struct.error, IndexError):
        return None


def _jpeg_size(frame: bytes) -> tuple[int, int] | None:
    at = len(_JPEG)
    while frame[at] == 0xFF and frame[at + 1] != _SCAN:
        if frame[at + 1] in _FRAME_HEADERS:
            rows, columns = struct.unpack_from(">2H", frame, at + 5)
            return rows, columns
        at += 2 + int(struct.unpack_from(">H", frame, at + 2)[0])
    return None
