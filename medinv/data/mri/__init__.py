"""k-space in and images out: fastMRI, ISMRMRD, BART, NumPy and MATLAB."""
