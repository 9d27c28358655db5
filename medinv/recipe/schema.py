"""What a recipe may say: a measurement, a prior and a solver, or the training of a prior.

The blocks of measurements are in `medinv.recipe.blocks`. No model takes a field it does not know.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from medinv.recipe.blocks import CTFile, Measurement, Strict, Weight
from medinv.recipe.context import Context
from medinv.recipe.settings import SolverSettings, needs_prior, sample_titles
from medinv.training.config import TrainConfig

FileName = Annotated[str, Field(
    pattern=r"^\w[\w .,+=()-]*$", max_length=100,
    description="letters, digits, spaces and .,+-=(), since files may be called so")]


class PriorProduct(Strict):
    """Two 2D priors for perpendicular slices of a volume, whose scores are added (TPDM)."""

    primary: str = Field(description="prior of slices perpendicular to primary_axis, as `prior`")
    primary_axis: Literal["z", "y", "x"] = Field("z", description="z: axial, y: coronal, x: "
                                                 "sagittal slices")
    auxiliary: str = Field(description="prior of slices perpendicular to auxiliary_axis")
    auxiliary_axis: Literal["z", "y", "x"] = Field("y", description="as primary_axis")
    weights: tuple[Weight, Weight] = Field((0.5, 0.5), description="exponents of the two")

    @model_validator(mode="after")
    def _perpendicular(self) -> PriorProduct:
        if self.primary_axis == self.auxiliary_axis:
            raise ValueError(f"primary_axis and auxiliary_axis are both {self.primary_axis}; "
                             "choose two different ones")
        return self


PriorSetting = Annotated[
    Annotated[str, Tag("name")] | Annotated[PriorProduct, Tag("product")],
    Discriminator(lambda value: "name" if isinstance(value, str) else "product"),
]


class Output(Strict):
    """What is written into the output folder beside the volume and metrics.json."""

    figure: bool = True
    report: bool = True
    baselines: bool = Field(False, description="write the baselines' volumes too")
    format: Literal["nifti", "dicom"] = Field(
        "nifti", description="of the volumes; dicom: series that belong to the input's study"
    )
    paths: bool = Field(False, description="tell where files lay, in metrics.json; folders and "
                        "files often bear names of people, so checksums stand for them otherwise")
    complex_values: bool = Field(False, description="MRI: write complex values, not magnitudes")


class ReconstructRecipe(Strict):
    """From a measurement to a volume."""

    name: FileName
    task: Literal["reconstruct"]
    description: str = ""
    measurement: Measurement
    prior: PriorSetting | None = Field(
        None, description="name (`medinv priors`) or path of a checkpoint, or a product of two"
    )
    context: Context | None = Field(
        None, description="what a prior that takes prompts is told; it is told nothing if null"
    )
    solver: SolverSettings
    auto: bool = Field(
        False, description="choose the solver's weights by rules and a search on held-out data"
    )
    baselines: tuple[SolverSettings, ...] = ()
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="where solvers run; auto: on the first CUDA device, if there is one"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="what networks compute in; auto: MEDINV_PRECISION if that is set, "
        "else bfloat16 where the device is faster in it"
    )
    samples: int = Field(1, gt=0, description="runs with seeds seed, seed + 1..., averaged")
    seed: int = Field(0, ge=0, lt=2**62)
    output: Output = Output()

    @model_validator(mode="after")
    def _fits_together(self) -> ReconstructRecipe:
        used = [solver.name for solver in (self.solver, *self.baselines) if needs_prior(solver)]
        if self.context is not None and not isinstance(self.prior, str):
            raise ValueError("context: expected one prior that takes prompts")
        if used and self.prior is None:
            raise ValueError(f"{used[0]} needs a prior; add `prior:` (`medinv priors` lists them)")
        labels = [solver.title for solver in (self.solver, *self.baselines)]
        in_mm = isinstance(self.measurement, CTFile) and self.measurement.mu_water is None
        if self.output.format == "dicom" and in_mm:
            raise ValueError("output.format: DICOM holds CT in HU; give measurement.mu_water")
        if self.samples > 1:
            labels += sample_titles(self.solver.title, self.samples)
        files = [solver.slug for solver in self.baselines if self.output.baselines]
        for names in (labels, files):
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(f"two solvers are called {twice[0]}; give one a `label`")
        if self.samples > 1 and not needs_prior(self.solver):
            raise ValueError(f"{self.solver.name} draws no samples; set samples to 1")
        return self


class TrainRecipe(Strict):
    """The training of a prior."""

    name: FileName
    task: Literal["train"]
    description: str = ""
    training: TrainConfig


Recipe = Annotated[ReconstructRecipe | TrainRecipe, Field(discriminator="task")]
