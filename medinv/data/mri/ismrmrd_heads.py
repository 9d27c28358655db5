"""The headers of ISMRMRD's readouts: those of their fields that medinv uses, and their types."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medinv.data.expansion import check_chunks
from medinv.data.lists import stored_rows
from medinv.data.safety import check_memory
from medinv.errors import DataError

if TYPE_CHECKING:
    import h5py

_DType = np.dtype[Any]
_COUNTERS = ("kspace_encode_step_1", "kspace_encode_step_2", "average", "slice", "contrast",
             "phase", "repetition", "set")
_NUMBERS = ("flags", "number_of_samples", "active_channels", "discard_pre", "discard_post",
            "center_sample", "encoding_space_ref", "trajectory_dimensions")
_VECTORS = ("position", "read_dir", "phase_dir", "slice_dir")
_HEAD = np.dtype([*((name, "u8") for name in _NUMBERS), ("sample_time_us", "f4"),
                  *((name, "f4", (3,)) for name in _VECTORS),
                  ("idx", [(name, "u2") for name in _COUNTERS])])


def readout_heads(stored: h5py.Dataset, path: Path) -> np.ndarray[Any, _DType]:
    """The headers of all readouts, ``(readout,)``, without their samples.

    Raises:
        DataError: not ISMRMRD's readouts, or damaged.
    """
    names = stored.dtype.names or ()
    if not {"head", "data", "traj"} <= set(names) or not _fits(stored.dtype["head"], _HEAD):
        raise DataError(f"{path}: expected ISMRMRD readouts (head, traj, data), found "
                        f"{stored.dtype.names or stored.dtype}, or headers without ISMRMRD's "
                        "fields; export the file again")
    check_memory(path, stored.shape, stored.dtype.itemsize)
    check_chunks(stored, (), path)
    rows = stored_rows(stored, path)
    heads = stored.fields("head")[...] if rows is None else rows["head"].copy()
    return np.asarray(heads).ravel()


def _fits(found: _DType, wanted: _DType) -> bool:
    """Whether a type has the fields of another, each with numbers of its kind and shape."""
    if wanted.names:
        names = found.names or ()
        return all(name in names and _fits(found[name], wanted[name]) for name in wanted.names)
    kinds = "f" if wanted.base.kind == "f" else "iu"
    return found.shape == wanted.shape and found.base.kind in kinds
