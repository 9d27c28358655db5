"""DICOM series, from what a scanner or an archive exports to a `Volume`, and back."""

from medinv.data.dicom.reader import read_dicom
from medinv.data.dicom.series import Series, list_series
from medinv.data.dicom.write import write_dicom

__all__ = ["Series", "list_series", "read_dicom", "write_dicom"]
