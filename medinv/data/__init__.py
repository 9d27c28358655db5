"""Data coming in and volumes going out: containers, one reader per format, named data sets."""

from medinv.data.ct.projections import read_sinogram
from medinv.data.ct.sinogram import Sinogram
from medinv.data.dicom import list_series, read_dicom, write_dicom
from medinv.data.geometry import block_mean, crop, orientation_affine, to_ras
from medinv.data.itk import read_itk
from medinv.data.metadata import Metadata
from medinv.data.mri.arrays import read_array, read_array_kspace
from medinv.data.mri.bart import read_cfl, write_cfl
from medinv.data.mri.bart_kspace import read_bart_kspace
from medinv.data.mri.fastmri import FastMRIFile, read_fastmri, write_fastmri_reconstruction
from medinv.data.mri.ismrmrd import read_ismrmrd
from medinv.data.mri.ismrmrd_image import write_ismrmrd_image
from medinv.data.mri.kspace import KSpace, measured_points
from medinv.data.mri.maps import read_maps
from medinv.data.mri.noncartesian import NonCartesianKSpace
from medinv.data.nifti import read_nifti, write_nifti
from medinv.data.phantom import shepp_logan
from medinv.data.readers import read_kspace, read_scan, read_volume
from medinv.data.sets.kspace_slices import KSpaceSlices
from medinv.data.sets.library import load_volume
from medinv.data.sets.manifests import Manifest, load_manifest, manifest_names
from medinv.data.sets.slices import VolumeSlices
from medinv.data.units import MU_WATER, hu_to_mu, mu_to_hu
from medinv.data.volume import Volume

__all__ = [
    "MU_WATER",
    "FastMRIFile",
    "KSpace",
    "KSpaceSlices",
    "Manifest",
    "Metadata",
    "NonCartesianKSpace",
    "Sinogram",
    "Volume",
    "VolumeSlices",
    "block_mean",
    "crop",
    "hu_to_mu",
    "list_series",
    "load_manifest",
    "load_volume",
    "manifest_names",
    "measured_points",
    "mu_to_hu",
    "orientation_affine",
    "read_array",
    "read_array_kspace",
    "read_bart_kspace",
    "read_cfl",
    "read_dicom",
    "read_fastmri",
    "read_ismrmrd",
    "read_itk",
    "read_kspace",
    "read_maps",
    "read_nifti",
    "read_scan",
    "read_sinogram",
    "read_volume",
    "shepp_logan",
    "to_ras",
    "write_cfl",
    "write_dicom",
    "write_fastmri_reconstruction",
    "write_ismrmrd_image",
    "write_nifti",
]
