"""The training part of a recipe, validated."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(_Strict):
    """One training volume and how it is cut into images.

    The manifest's ``train`` split is used for training (all of a volume that has no splits), and
    its ``validation`` split for validation.
    """

    manifest: str = Field(description="data manifest that holds the file")
    file: str = Field("image", description="role of the file in the manifest")
    planes: tuple[int, ...] = Field((2,), description="array axes perpendicular to the images")
    pool: tuple[int, int, int] = Field((1, 1, 1), description="averaging factor of each axis")
    weight: float = Field(1.0, gt=0, description="share of the training images")


class Images(_Strict):
    """What one prior unit means, and how images are varied."""

    kind: Literal["complex-mr", "ct"]
    percentile: float = Field(99.0, description="MR: this percentile of a volume is one unit")
    mu_water: float = Field(0.02, gt=0, description="CT: one prior unit, 1/mm")
    crop: int = Field(96, ge=16, description="side of the square training images")
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
    validate_every: int = Field(1_000, gt=0)
    save_minutes: float = Field(3.0, gt=0)
