"""CT projections in: DXchange, HTC 2022, DICOM-CT-PD, NumPy with a YAML geometry."""
