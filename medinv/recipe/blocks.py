"""What a recipe may say of a measurement: one pydantic model per block.

Units are in the field names or descriptions; lengths are mm, attenuations 1/mm, angles degrees (in
recipes only).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

MOST = 1_000_000
"""No length, size or count in a recipe is larger."""
Fraction = Annotated[float, Field(ge=0, lt=1)]
Weight = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Pooling = tuple[Count, Count, Count]


def _increasing(interval: tuple[int, int]) -> tuple[int, int]:
    if not 0 <= interval[0] < interval[1]:
        raise ValueError(f"expected [start, stop] with 0 <= start < stop, got {list(interval)}")
    return interval


Interval = Annotated[tuple[int, int], AfterValidator(_increasing)]


class Strict(BaseModel):
    """A block that refuses fields it does not know, and sizes beyond any scan."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="after")
    def _of_this_world(self) -> Strict:
        for key, item in self:
            for number in item if isinstance(item, tuple) else (item,):
                if isinstance(number, int | float) and number > MOST and key != "seed":
                    raise ValueError(f"{key}: expected at most {MOST:,}, got {number:,}")
        return self


class VolumeSource(Strict):
    """A real volume: of a named data set, of a NIfTI file, or a phantom that needs neither."""

    manifest: str | None = Field(None, description="data set, see `medinv data list`")
    file: str = Field("image", description="role of the file in the data set")
    split: str | None = Field(None, description="part of the data set, such as test")
    path: str | None = Field(None, description="a NIfTI file")
    phantom: Literal["shepp-logan"] | None = None
    phantom_shape: tuple[int, int, int] = Field((48, 256, 256), description="z, y, x")
    fallback: Literal["shepp-logan"] | None = Field(
        None, description="used, and said so, where the data set cannot be downloaded"
    )

    @model_validator(mode="after")
    def _one_source(self) -> VolumeSource:
        if sum(value is not None for value in (self.manifest, self.path, self.phantom)) != 1:
            raise ValueError("expected exactly one of manifest, path and phantom")
        return self


class KSpaceSource(Strict):
    """Raw k-space: of a named data set or of a file."""

    manifest: str | None = Field(None, description="data set, see `medinv data list`")
    file: str = Field("kspace", description="role of the file in the data set")
    path: str | None = Field(
        None, description="fastMRI or ISMRMRD .h5, BART .cfl, .npy, .npz or .mat"
    )
    key: str | None = Field(None, description="array to read, where the file holds several")
    axes: str | None = Field(
        None, description="of an array's axes in their order, such as `kx ky coil`"
    )
    select: dict[str, int] = Field(
        default_factory=dict, description="counters of an ISMRMRD file, as {contrast: 1}"
    )
    trajectory: str | None = Field(None, description="BART: file of the trajectory")
    reversed_readouts: Literal["auto", "standard", "siemens"] = Field(
        "auto", description="ISMRMRD: where reversed readouts have their centre: sample i at "
                            "center_sample - i, or one less; as the headers show if auto"
    )

    @model_validator(mode="after")
    def _one_source(self) -> KSpaceSource:
        if (self.manifest is None) == (self.path is None):
            raise ValueError("expected exactly one of manifest and path")
        return self


class ParallelScan(Strict):
    """Parallel beams, slice by slice."""

    kind: Literal["parallel"] = "parallel"


class FanScan(Strict):
    """A fan beam in each slice."""

    kind: Literal["fan"]
    source_mm: Weight = Field(description="from the source to the axis")
    detector_mm: Weight = Field(description="from the axis to the detector")
    columns: int = Field(gt=0, description="detector columns")
    col_mm: Weight = Field(description="width of a column, on the detector")
    curved: bool = Field(False, description="columns lie on an arc around the source")


class ConeScan(FanScan):
    """A cone beam on a circle."""

    kind: Literal["cone"]  # type: ignore[assignment]
    rows: int = Field(gt=0, description="detector rows")
    row_mm: Weight = Field(description="height of a row, on the detector")


class CTSimulated(Strict):
    """Line integrals simulated from a real CT volume, or from a phantom."""

    kind: Literal["ct-simulated"]
    volume: VolumeSource
    slices: Interval | None = Field(None, description="axial slices to use, [start, stop]")
    pool: Pooling = Field((1, 1, 1), description="averaging factors of z, y, x")
    scan: Annotated[ParallelScan | FanScan | ConeScan, Field(discriminator="kind")] = Field(
        ParallelScan(), description="beam; the volume's centre is on the axis"
    )
    views: int = Field(gt=0, description="equispaced over the arc")
    arc_degrees: float = Field(180.0, gt=0, le=360)
    oversampled: bool = Field(
        False, description="project the volume as it was before pool, through a finer detector"
    )
    noise: Fraction = Field(0.005, description="std of the noise, see noise_of")
    noise_of: Literal["max", "rms"] = Field(
        "max", description="the noise is a fraction of the largest, or the rms, line integral"
    )
    mu_water: float = Field(0.02, gt=0, description="attenuation of water, 1/mm")

    @model_validator(mode="after")
    def _finer(self) -> CTSimulated:
        if self.oversampled and (self.pool[1] != self.pool[2] or self.pool[1] == 1):
            raise ValueError("oversampled projects on the grid before `pool`; pool y and x alike, "
                             f"as in [1, 2, 2], got {list(self.pool)}")
        return self


class ProjectionSource(Strict):
    """Measured projections: of a named data set, or of a file or folder."""

    manifest: str | None = Field(None, description="data set, see `medinv data list`")
    file: str = Field("projections", description="role of the file in the data set")
    path: str | None = Field(
        None, description="DXchange .h5, HTC .mat, geometry.yaml, or a DICOM-CT-PD folder"
    )

    @model_validator(mode="after")
    def _one_source(self) -> ProjectionSource:
        if (self.manifest is None) == (self.path is None):
            raise ValueError("expected exactly one of manifest and path")
        return self


class CTFile(Strict):
    """Measured projections; the grid is the detector's, as seen at the axis, unless given."""

    kind: Literal["ct-file"]
    projections: ProjectionSource
    rows: Interval | None = Field(None, description="detector rows to use, [start, stop]")
    every: int = Field(1, ge=1, description="use every n-th view")
    bin_rows: int = Field(1, ge=1, description="detector rows to average")
    bin_columns: int = Field(1, ge=1, description="detector columns to average")
    rotation_centre: Literal["find"] | float | None = Field(
        None, description="column of the file that sees the axis, from 0; null: as the file says"
    )
    pixel_mm: Weight | None = Field(
        None, description="size of a detector pixel, where the file does not state it"
    )
    angle_unit: Literal["degrees", "radians"] | None = Field(
        None, description="of the view angles, where the file does not state it"
    )
    shape: Pooling | None = Field(None, description="voxels of the volume, z, y, x")
    voxel_mm: tuple[Weight, Weight, Weight] | None = Field(None, description="z, y, x")
    mu_water: Weight | None = Field(
        None, description="attenuation of water, 1/mm, for a volume in HU; in 1/mm if null"
    )


class ESPIRiTMaps(Strict):
    """Maps from the null space of the calibration matrix."""

    method: Literal["espirit"] = "espirit"
    threshold: Fraction = Field(0.02, description="singular values below this part are noise")
    crop: Fraction = Field(0.95, description="maps are 0 where the eigenvalue is below")


class WalshMaps(Strict):
    """Maps from the coils' covariance around each voxel."""

    method: Literal["walsh"]
    window: int = Field(5, ge=1, description="side of the window, voxels; odd")
    support: Fraction = Field(0.05, description="maps are 0 where the image is darker")


class LowResolutionMaps(Strict):
    """Low-resolution coil images over their root sum of squares."""

    method: Literal["low-resolution"]
    support: Fraction = Field(0.05, description="maps are 0 where the image is darker")


class JSENSEMaps(Strict):
    """Maps and image estimated together; the centre may have gaps."""

    method: Literal["jsense"]
    kernel_width: int = Field(8, ge=1, description="Fourier coefficients per axis")
    regularisation: Weight = 1e-3
    max_iter: int = Field(20, ge=1)


MapEstimate = Annotated[
    ESPIRiTMaps | WalshMaps | LowResolutionMaps | JSENSEMaps, Field(discriminator="method")
]
Density = Literal["auto", "radial", "pipe-menon", "none"]


class Columns(Strict):
    """Whole columns around a fully sampled centre; the same mask for every slice."""

    kind: Literal["random1d", "equispaced", "equispaced-fraction", "magic", "uniform1d",
                  "uniform1d-with-replacement"]
    acceleration: float = Field(gt=1)
    center_fraction: Fraction = 0.08
    partial_fourier: float = Field(
        1.0, gt=0.5, le=1, description="part of the rows that is taken, from one side"
    )


class PoissonDisc(Strict):
    """Variable-density Poisson-disc points; the same mask for every slice."""

    kind: Literal["poisson-disc"]
    acceleration: float = Field(gt=1)
    calibration_width: int = Field(24, ge=0, description="side of the fully sampled centre")


class Caipirinha(Strict):
    """A sheared lattice in the plane of two phase encodings; the same for every slice."""

    kind: Literal["caipirinha"]
    acceleration: tuple[int, int] = Field(description="along ky and kx")
    shift: int = Field(1, ge=0, description="rows by which a column moves from its neighbour")
    calibration_width: int = Field(24, ge=0, description="side of the fully sampled centre")


Undersampling = Annotated[Columns | PoissonDisc | Caipirinha, Field(discriminator="kind")]


class MRIFile(Strict):
    """Measured k-space, Cartesian or not; unless the file says so, zeros were not measured."""

    kind: Literal["mri-file"]
    kspace: KSpaceSource
    slices: Interval | None = Field(None, description="slices to use, [start, stop]")
    mask: Undersampling | None = Field(
        None, description="retrospective undersampling: of what was measured, this is kept"
    )
    prewhiten: Literal["auto", "corners", "none"] = Field(
        "auto", description="noise from the file's noise scan, if it has one, or from the corners"
    )
    remove_oversampling: bool = Field(
        False, description="Cartesian: crop the readout to the reconstructed field of view"
    )
    compress_coils: int | None = Field(None, ge=1, description="virtual coils (SVD); all if null")
    split: bool = Field(
        True, description="3D: slices across an axis that is sampled alike, each solved in 2D"
    )
    maps: str | None = Field(None, description="file of coil maps; they are estimated if null")
    estimate_maps: MapEstimate = ESPIRiTMaps()
    calibration_width: Count | list[Count] | None = Field(
        None, description="of the calibration region, one number or one for each axis of k-space; "
                          "as wide as is sampled along each, up to 24, if null"
    )
    density: Density = Field(
        "auto", description="non-Cartesian: weights; exact for spokes, else Pipe and Menon's"
    )


class Spokes(Strict):
    """Spokes through the centre: at equal angles, or each turned by the golden angle."""

    kind: Literal["radial", "golden-angle"]
    spokes: int = Field(gt=0)
    oversampling: int = Field(2, ge=1, description="samples of a spoke per pixel")
    density: Density = "auto"


class Spiral(Strict):
    """Interleaved Archimedean spirals."""

    kind: Literal["spiral"]
    interleaves: int = Field(gt=0)
    turns: Weight = Field(description="of one interleave")
    samples: int = Field(gt=1, description="of one interleave")
    power: float = Field(1.0, ge=1, description="above 1 the centre is denser")
    density: Density = "auto"


Sampling = Annotated[
    Columns | PoissonDisc | Caipirinha | Spokes | Spiral, Field(discriminator="kind")
]


class MRISimulated(Strict):
    """Axial multi-coil k-space simulated from a real magnitude volume."""

    kind: Literal["mri-simulated"]
    volume: VolumeSource
    slices: Interval | None = Field(None, description="axial slices to use, [start, stop]")
    pool: Pooling = Field((1, 1, 1), description="averaging factors of z, y, x")
    coils: int = Field(8, gt=0, description="birdcage coils")
    sampling: Sampling
    phase: float = Field(1.0, ge=0, description="std of the smooth phase, radians")
    noise: Fraction = Field(
        0.005, description="std per real component, a fraction of the volume's maximum"
    )


class ThickSlices(Strict):
    """Thick axial slices, simulated as means of the thin slices of a real volume."""

    kind: Literal["thick-slices"]
    modality: Literal["ct", "mr"]
    volume: VolumeSource
    slices: Interval | None = Field(None, description="axial slices to use, [start, stop]")
    pool: Pooling = Field((1, 1, 1), description="averaging factors of z, y, x before that")
    factor: int = Field(4, gt=1, description="thin slices per thick one")
    noise: Fraction = Field(0.005, description="std per real component, a fraction of the maximum")
    mu_water: float = Field(0.02, gt=0, description="CT: attenuation of water, 1/mm")


Measurement = Annotated[
    CTSimulated | CTFile | MRIFile | MRISimulated | ThickSlices, Field(discriminator="kind")
]
