"""The training part of a recipe, validated."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from medinv.data.slices import Plane


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(_Strict):
    """Training volumes and how they are cut into images, or phantoms without anatomy.

    Either one file of a manifest: its ``train`` split is used for training (all of a volume that
    has no splits), and its ``validation`` split for validation. Or a collection of a manifest
    with splits by subject. Or all NIfTI files of a folder, each taken for another subject, of
    which ``validation_share`` are kept for validation. Volumes are decoded once, into the cache,
    and only the slices that are drawn are read.
    """

    phantom: Literal["ellipses"] | None = Field(None, description="random images of this kind")
    manifest: str | None = Field(None, description="data manifest that holds the file")
    file: str = Field("image", description="role of the file or collection in the manifest")
    folder: str | None = Field(None, description="folder that holds the manifest's files, or, "
                               "without a manifest, NIfTI files")
    planes: tuple[int | Plane, ...] = Field(
        (2,), min_length=1, description="axial, coronal, sagittal, or array axes perpendicular to "
        "the images")
    pool: tuple[int, int, int] = Field((1, 1, 1), description="averaging factor of each "
                                        "array axis; z, y, x where planes have names")
    weight: float = Field(1.0, gt=0, description="share of the training images")
    validation_share: float = Field(0.1, ge=0, lt=1, description="of a folder's volumes")

    @model_validator(mode="after")
    def _names_its_volumes(self) -> Source:
        if (self.manifest is None and self.folder is None) == (self.phantom is None):
            raise ValueError("expected a manifest, a folder, or both; or else a phantom")
        return self


class Images(_Strict):
    """What one prior unit means, and how images are varied."""

    kind: Literal["complex-mr", "ct"]
    percentile: float = Field(99.0, description="MR: this percentile of a volume is one unit")
    mu_water: float = Field(0.02, gt=0, description="CT: one prior unit, 1/mm")
    crop: int = Field(96, ge=16, description="side of the square training images")
    turns: bool = Field(True, description="turn images by any angle and mirror them; else mirror "
                        "them left to right, tilt and zoom them a little")
    sources: tuple[Source, ...]


class Network(_Strict):
    """Arguments of `medinv.priors.networks.UNet`."""

    widths: tuple[int, ...] = (32, 64, 128, 160)
    blocks: tuple[int, ...] = (1, 1, 2, 2)
    embedding: int = 128


class TrainConfig(_Strict):
    """Everything that decides a training run."""

    images: Images
    network: Network = Network()
    updates: int = Field(20_000, gt=0)
    batch: int = Field(8, gt=0)
    learning_rate: float = Field(6e-4, gt=0)
    warmup: int = Field(200, ge=0, description="updates of linear warm-up")
    decay: int = Field(4_000, ge=0, description="last updates, with the rate falling to zero")
    ema: float = Field(0.999, ge=0, lt=1, description="decay of the weights' moving average")
    clip: float = Field(1.0, gt=0, description="largest gradient norm")
    noise_mean: float = Field(-1.2, description="mean of log(sigma / sigma_data) + log 0.5")
    noise_std: float = Field(1.2, gt=0, description="standard deviation of log sigma")
    seed: int = 0
    workers: int = Field(0, ge=0, description="processes that prepare images; any number gives "
                         "the same images")
    validate_every: int = Field(1_000, gt=0)
    save_minutes: float = Field(3.0, gt=0)
