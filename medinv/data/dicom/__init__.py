"""DICOM series, from what a scanner or an archive exports to a `Volume`."""

from medinv.data.dicom.reader import read_dicom
from medinv.data.dicom.series import Series, list_series

__all__ = ["Series", "list_series", "read_dicom"]
