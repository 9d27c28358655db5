"""The training part of a recipe, validated."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from medinv.data.sets.slices import Plane
from medinv.training.contrasts import Contrast


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
    every: int = Field(1, gt=0, description="take every n-th slice alone, to see what few teach")
    weight: float = Field(1.0, gt=0, description="share of the training images")
    validation_share: float = Field(0.1, ge=0, lt=1, description="of a folder's volumes")

    @model_validator(mode="after")
    def _names_its_volumes(self) -> Source:
        if (self.manifest is None and self.folder is None) == (self.phantom is None):
            raise ValueError("expected a manifest, a folder, or both; or else a phantom")
        return self


class Prompts(_Strict):
    """What the network is told of each image, as `medinv.data.prompts.slice_prompt` writes it.

    Beside the plane and the position of the slice these are the anatomy and the contrast, which
    is simulated from T1-weighted images by fixed curves. Prompts and single fields are dropped at
    random, so that the network also knows what to do without.
    """

    encoder: Literal["minilm", "clip"] = Field("minilm", description="from prompts to vectors")
    anatomy: str = Field("brain", description="of all images")
    contrasts: tuple[Contrast, ...] = Field(("T1w",), min_length=1, description="drawn equally; "
                                            "those but T1w are simulated")
    drop: float = Field(0.1, ge=0, le=1, description="share of images without a prompt")
    drop_field: float = Field(0.1, ge=0, le=1, description="share of fields left out of the rest")


class Stack(_Strict):
    """Stacks of neighbouring slices, for networks with taps or slabs.

    The stacks of an update come from one source; a source of single slices gives as many more of
    them. Stacks are turned, mirrored, zoomed, averaged to larger pixels and thicker slices
    (partial volumes), and the network is told the spacing that results, unless chance drops it.
    """

    slices: int = Field(8, ge=1, description="neighbouring slices of a stack, for volumes that "
                        "have as many")
    zoom: float = Field(1.25, ge=1, description="pixels become larger or smaller by up to this")
    coarsest_mm: tuple[float, float] = Field(
        (2.0, 5.0), description="pixels and slices are averaged by up to 2 and 3, not beyond")
    coarsen: float = Field(0.3, ge=0, le=1, description="share of updates with averaged slices")
    bias: float = Field(0.2, ge=0, description="MR: standard deviation of the logarithm of a "
                        "smooth bias field")
    drop: float = Field(0.15, ge=0, le=1, description="share of spacings that are not told")


class Images(_Strict):
    """What one prior unit means, and how images are varied."""

    kind: Literal["complex-mr", "ct"]
    percentile: float = Field(99.0, description="MR: this percentile of a volume is one unit")
    mu_water: float = Field(0.02, gt=0, description="CT: one prior unit, 1/mm")
    crop: int = Field(96, ge=16, description="side of the square training images")
    turns: bool = Field(True, description="turn images by any angle and mirror them; else mirror "
                        "them left to right, tilt and zoom them a little")
    phase: bool = Field(True, description="MR: give images a random smooth phase; else they have "
                        "none, as after phase correction")
    stack: Stack | None = Field(None, description="train on stacks of neighbouring slices")
    prompts: Prompts | None = Field(None, description="describe the images to the network; MR")
    sources: tuple[Source, ...]

    @model_validator(mode="after")
    def _prompts_are_of_slices(self) -> Images:
        phantoms = any(source.phantom is not None for source in self.sources)
        if self.prompts is not None and (self.kind != "complex-mr" or phantoms or self.stack):
            raise ValueError("prompts: expected complex-mr images of real volumes, without stacks")
        if self.stack is not None and phantoms:
            raise ValueError("stack: phantoms are single images; expected real volumes")
        return self


class Patch(_Strict):
    """Patches with their positions, for a `PatchPrior` (Hu et al., arXiv:2406.02462).

    Each update cuts patches of one side from whole slices with a border of zeros. Slices may be of
    any size; ``images.crop`` is that of phantoms alone.
    """

    sides: dict[int, float] = Field(
        {16: 0.2, 32: 0.3, 56: 0.5}, min_length=1,
        description="pixels of a patch's side, each with its share of the updates; images are "
        "tiled by the largest")
    border: int = Field(24, ge=0, description="pixels of zeros around a slice; as many as the "
                        "tiling of an image of N pixels needs are (N // P + 1) P - N")
    side: int = Field(304, gt=0, description="pixels that the positions' range -1 to 1 spans, "
                      "kept with the prior")
    each: int = Field(3, gt=0, description="patches of the largest side that a slice gives; as "
                      "many more of a smaller side as cover the same area")

    @model_validator(mode="after")
    def _has_sides(self) -> Patch:
        if min(self.sides) < 8 or min(self.sides.values()) <= 0:
            raise ValueError("sides: expected sides of at least 8 pixels with positive shares, "
                             f"got {self.sides}")
        return self

    @property
    def tile(self) -> int:
        """Side of the patches that tile an image, P."""
        return max(self.sides)


class Network(_Strict):
    """Arguments of `medinv.priors.networks.UNet`."""

    widths: tuple[int, ...] = (32, 64, 128, 160)
    blocks: tuple[int, ...] = (1, 1, 2, 2)
    embedding: int = 128
    taps: bool = Field(False, description="mix neighbouring slices after every block; a network "
                       "that starts from a 2D prior is that prior at first")
    slab: int = Field(1, ge=1, description="neighbouring slices that share one call, as channels")


class TrainConfig(_Strict):
    """Everything that decides a training run."""

    images: Images
    patch: Patch | None = Field(None, description="train a patch prior; one of images if null")
    network: Network = Network()
    start: str | None = Field(None, description="prior whose weights are the first, in place of "
                              "random ones; a network of prompts or patches may start from one of "
                              "images")
    updates: int = Field(20_000, gt=0)
    batch: int = Field(8, gt=0)
    learning_rate: float = Field(6e-4, gt=0)
    start_rate: float | None = Field(None, gt=0, description="learning rate of all weights but "
                                     "the taps, for a network that starts from a trained one; "
                                     "learning_rate if null")
    warmup: int = Field(200, ge=0, description="updates of linear warm-up")
    decay: int = Field(4_000, ge=0, description="last updates, with the rate falling to zero")
    ema: float = Field(0.999, ge=0, lt=1, description="decay of the weights' moving average; "
                       "lower during the first updates")
    clip: float = Field(1.0, gt=0, description="largest gradient norm")
    noise_mean: float = Field(-1.2, description="mean of log(sigma / sigma_data) + log 0.5")
    noise_std: float = Field(1.2, gt=0, description="standard deviation of log sigma")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="what the network computes in; auto: MEDINV_PRECISION if that is set, "
        "else bfloat16 where the device is faster in it"
    )
    seed: int = 0
    workers: int = Field(0, ge=0, description="processes that prepare images; any number gives "
                         "the same images")
    validate_every: int = Field(1_000, gt=0)
    save_minutes: float = Field(3.0, gt=0)

    @model_validator(mode="after")
    def _depth_needs_stacks(self) -> TrainConfig:
        stack, network = self.images.stack, self.network
        if (network.taps or network.slab > 1) and stack is None:
            raise ValueError("network: taps and slabs see stacks; add images.stack")
        if stack is not None and stack.slices % network.slab:
            raise ValueError(f"images.stack.slices: expected a multiple of the slab of "
                             f"{network.slab} slices, got {stack.slices}")
        if stack is not None and self.patch is not None:
            raise ValueError("patch: patches are cut from single slices; leave out images.stack")
        return self
