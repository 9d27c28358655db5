"""The training loop: one loop for every loss, on lightning-fabric.

A run lives in a folder: ``state.pt`` (weights, moving average, optimiser, step) and
``history.jsonl``. The images and the noise of update ``i`` come from a generator seeded by
(seed, i), so a killed run that resumes from ``state.pt`` continues as if it had never stopped.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypeAlias, cast

import torch
from lightning_fabric import Fabric
from torch import Generator, Tensor
from torch.optim.swa_utils import AveragedModel

from medinv.data.atomic import remove_leftovers, replacing
from medinv.errors import CheckpointError, MedinvWarning, NumericalError
from medinv.priors.base import IntensityScale, Prior
from medinv.priors.checkpoint import load_prior, with_depth
from medinv.priors.edm import NetworkPrior, set_precision, to_channels
from medinv.priors.networks import UNet
from medinv.priors.patches import PatchPrior
from medinv.priors.precision import DTYPES, default_dtype
from medinv.training.config import TrainConfig
from medinv.training.denoising import denoising_loss, draw_sigma
from medinv.training.history import History
from medinv.training.images import (
    Examples,
    ImageSampler,
    Sampler,
    batches,
    generator,
    joined,
)
from medinv.training.patches import PatchSampler
from medinv.training.prompts import PromptSampler, load_encoder
from medinv.training.stacks import StackSampler

_Weights: TypeAlias = tuple[Tensor, ...] | list[Tensor]
STATE, HISTORY = "state.pt", "history.jsonl"  # files of a run's folder
VALIDATION_SIGMAS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)


@dataclass
class Progress:
    """What `train` reports after every update."""

    step: int
    updates: int
    loss: float
    seconds_left: float
    validation: dict[str, float] = field(default_factory=dict)


def learning_rate(step: int, config: TrainConfig) -> float:
    """Linear warm-up, a plateau, and a linear fall to zero over the last ``decay`` updates."""
    rise = min(1.0, (step + 1) / max(1, config.warmup))
    fall = min(1.0, (config.updates - step) / max(1, config.decay))
    return config.learning_rate * rise * fall


def build_sampler(config: TrainConfig, *, validation: bool = False) -> Sampler:
    """Where the examples of a run come from."""
    if config.patch is not None:
        return PatchSampler(config.images, config.patch, validation=validation)
    if config.images.stack is not None:
        return StackSampler(config.images, config.images.stack, validation=validation)
    images = ImageSampler(config.images, validation=validation)
    prompts = config.images.prompts
    return images if prompts is None else PromptSampler(images, prompts,
                                                        load_encoder(prompts.encoder))


def build_prior(config: TrainConfig, sampler: Sampler) -> NetworkPrior:
    """An untrained prior whose ``sigma_data`` is measured on 256 training images."""
    examples = sampler.examples(256 if config.start is None else 1, generator(config.seed, -1))
    images, context = to_channels(examples.images), examples.known.get("context")
    sigma_data = round(float(images.square().mean().sqrt()), 4)
    mr = config.images.kind == "complex-mr"
    scale = (IntensityScale(percentile=config.images.percentile) if mr
             else IntensityScale(value=config.images.mu_water))
    torch.manual_seed(config.seed)
    network = UNet(2 if mr else 1, **config.network.model_dump(),
                   context=0 if context is None else context.shape[1],
                   extra_channels=0 if config.patch is None else 2)
    if config.start is not None:
        sigma_data = _start_from(config.start, network)
    prompts = config.images.prompts
    return NetworkPrior(network, sigma_data, complex_images=mr, scale=scale,
                        text_encoder=None if prompts is None else prompts.encoder)


def _start_from(name: str, network: UNet) -> float:
    """Give the network the weights of a prior, and return its ``sigma_data``."""
    prior = load_prior(name)
    if not isinstance(prior, NetworkPrior):
        raise CheckpointError(f"start: {name} is a prior of patches or volumes; start from one of "
                              "images")
    own, given = network.state_dict(), prior.network.state_dict()
    new = {key: value for key, value in own.items() if is_new(key)}
    try:
        if network.extra_channels:  # positions count for nothing at first
            unseen = torch.zeros_like(own["stem.weight"][:, network.channels :])
            new["stem.weight"] = torch.cat([given["stem.weight"], unseen], dim=1)
        if network.slab > 1:  # each slice gets what the mean slice would
            new |= _repeated(given, network)
        network.load_state_dict(given | new)
    except RuntimeError as error:
        raise CheckpointError(f"start: {name} has another network than the recipe; give it the "
                              f"same widths, blocks and embedding ({error})") from error
    return prior.sigma_data


def is_new(key: str) -> bool:
    """Whether a weight is one that a network of plain images lacks."""
    return key.startswith("describe.") or ".along." in key


def _repeated(given: dict[str, Tensor], network: UNet) -> dict[str, Tensor]:
    """The first and last layer of a network of single slices, for slabs."""
    k = network.slab
    return {"stem.weight": given["stem.weight"].repeat_interleave(k, dim=1) / k,
            "head.weight": given["head.weight"].repeat_interleave(k, dim=0),
            "head.bias": given["head.bias"].repeat_interleave(k)}


@torch.no_grad()
def validate(prior: NetworkPrior, held_out: Sequence[Examples], seed: int) -> dict[str, float]:
    """Weighted denoising loss on fixed images with fixed noise, by noise level."""
    losses = {}
    for i, sigma in enumerate(VALIDATION_SIGMAS):
        rng = generator(seed, -10 - i)
        parts = [
            denoising_loss(partial(prior.denoise, **part.known), prior.sigma_data, part.images,
                           torch.full((len(part.images),), sigma, device=part.images.device), rng)
            for examples in held_out for part in examples.split(prior.chunk)
        ]
        losses[f"{sigma:g}"] = round(float(torch.cat(parts).mean()), 5)
    return losses


def moving_average(decay: float) -> Callable[[_Weights, _Weights, Tensor | int], None]:
    """The update of averaged weights, for `AveragedModel`.

    The decay of update ``n`` is ``min(decay, (1 + n) / (10 + n))``, so that a short run forgets
    its untrained start, too.

    Args:
        decay: after the warm-up.
    """
    @torch.no_grad()
    def update(averages: _Weights, weights: _Weights, n: Tensor | int) -> None:
        share = 1 - min(decay, (1 + int(n)) / (10 + int(n)))
        for average, weight in zip(averages, weights, strict=True):
            average.lerp_(weight, share)

    return update


class _Run:
    """The mutable state of a training run."""

    def __init__(self, config: TrainConfig, folder: Path) -> None:
        self.config, self.folder = config, folder
        self.state_file = folder / STATE
        self.sampler = build_sampler(config)
        self.prior = build_prior(config, self.sampler)
        self.fabric = Fabric(accelerator="auto", devices=1)
        set_precision(self.prior, DTYPES[config.precision] or default_dtype(self.fabric.device))
        optimizer = torch.optim.AdamW(_groups(self.prior, config), lr=config.learning_rate,
                                      betas=(0.9, 0.99), weight_decay=1e-4)
        self.model, self.optimizer = self.fabric.setup(self.prior, optimizer)
        self.model.mark_forward_method("denoise")
        self.average = AveragedModel(self.prior, multi_avg_fn=moving_average(config.ema))
        self.step, self.seconds = 0, 0.0

    def save(self) -> None:
        """Write the whole state, atomically, unless its weights are not finite."""
        if not all(bool(weight.isfinite().all()) for weight in self.prior.parameters()):
            raise NumericalError(f"training: the weights are not finite after update {self.step}; "
                                 "lower the learning rate. The last saved state is kept")
        state = {
            "sigma_data": self.prior.sigma_data, "step": self.step, "seconds": self.seconds,
            "network": self.prior.state_dict(), "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        with replacing(self.state_file) as temporary, temporary.open("wb") as file:
            torch.save(state, file)

    def load(self) -> None:
        """Continue from ``state.pt``."""
        remove_leftovers(self.state_file)
        try:
            state: dict[str, Any] = torch.load(self.state_file, weights_only=True)
            self.step, self.seconds = state["step"], state["seconds"]
        except (RuntimeError, OSError, EOFError, KeyError, TypeError, UnpicklingError) as error:
            raise CheckpointError(f"{self.state_file}: expected the state of a training run, but "
                                  f"it cannot be read ({type(error).__name__}); start in another "
                                  "folder") from error
        try:
            self.prior.load_state_dict(state["network"])
            self.average.load_state_dict(state["average"])
        except RuntimeError as error:
            raise CheckpointError(
                f"{self.state_file}: the saved run has another network than the recipe; change "
                f"the recipe back or start in another folder ({error})"
            ) from error
        self.prior.sigma_data = self.average.module.sigma_data = state["sigma_data"]
        self.optimizer.load_state_dict(state["optimizer"])

    def update(self, examples: Examples, rng: Generator) -> Tensor:
        """One optimiser step; returns the mean loss."""
        config, device = self.config, self.fabric.device
        sigma = draw_sigma(len(examples.images), self.prior.sigma_data, config.noise_mean,
                           config.noise_std, rng)
        examples = examples.map(lambda t: t.to(device))
        loss = denoising_loss(partial(self.model.denoise, **examples.known), self.prior.sigma_data,
                              examples.images, sigma.to(device), rng).mean()
        if not bool(loss.isfinite()):
            raise NumericalError(f"training: the loss of update {self.step + 1} is {loss.item()}; "
                                 "lower the learning rate. The last saved state is kept")
        self.optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(loss)
        self.fabric.clip_gradients(self.model, self.optimizer, max_norm=config.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = group["share"] * learning_rate(self.step, config)
        self.optimizer.step()
        self.average.update_parameters(self.prior)
        self.step += 1
        return loss.detach()


def _held_out(config: TrainConfig) -> list[Examples]:
    """32 images, or 16 stacks, of the validation parts; the same for every run of a seed."""
    sampler = build_sampler(config, validation=True)
    if config.images.stack is None:
        return [sampler.examples(32, generator(config.seed, -2))]
    drawn = [sampler.examples(1, generator(config.seed, -100 - i)) for i in range(16)]
    shapes = dict.fromkeys(examples.images.shape[1:] for examples in drawn)
    return [joined([examples for examples in drawn if examples.images.shape[1:] == shape])
            for shape in shapes]


def _groups(prior: NetworkPrior, config: TrainConfig) -> list[dict[str, Any]]:
    """The taps and all other weights, with the share of the learning rate that each gets."""
    share = 1.0 if config.start_rate is None else config.start_rate / config.learning_rate
    named = list(prior.network.named_parameters())
    return [{"params": [weight for key, weight in named if (".along." in key) == taps],
             "share": rate} for taps, rate in ((True, 1.0), (False, share))]


def train(config: TrainConfig, folder: Path, *, resume: bool = False,
          on_update: Callable[[Progress], None] | None = None) -> Prior:
    """Train a prior by denoising score matching; returns the moving average of the weights.

    It is what `load_prior` gives: a `NetworkPrior`, or a prior of patches or volumes around one.

    Args:
        config: everything that decides the run.
        folder: where the state and the history are kept.
        resume: continue the run in ``folder`` instead of refusing to overwrite it.
        on_update: called after every update with a `Progress`.

    Raises:
        CheckpointError: ``folder`` holds a run and ``resume`` is false, or another network's run.
        NumericalError: the loss is not finite; the state is that of the last save.
        OutputError: the folder cannot be written to; what was saved before is whole.

    Warns:
        MedinvWarning: the average denoises clearly worse than the last weights.
    """
    run = _Run(config, folder)
    if run.state_file.exists():
        if not resume:
            raise CheckpointError(f"{folder} holds a run already; pass --resume or another folder")
        run.load()
    else:
        run.save()  # now, rather than after hours, it shows whether the folder can be written to
    history = History(folder / HISTORY, run.step)
    held_out = [examples.map(lambda t: t.to(run.fabric.device)) for examples in _held_out(config)]
    average = cast(NetworkPrior, run.average.module)
    if run.step == 0 and config.start is not None:
        history.add({"step": 0, "seconds": 0,
                     "validation": validate(average, held_out, config.seed)})
    last, saved = time.monotonic(), time.monotonic()
    for examples, rng in batches(run.sampler, config.batch, config.seed,
                           range(run.step, config.updates), workers=config.workers):
        loss = float(run.update(examples, rng))
        now = time.monotonic()
        run.seconds += now - last
        last = now
        left = run.seconds / run.step * (config.updates - run.step)
        progress = Progress(run.step, config.updates, loss, left)
        if run.step % config.validate_every == 0 or run.step == config.updates:
            progress.validation = validate(average, held_out, config.seed)
            history.add({"step": run.step, "seconds": round(run.seconds),
                         "validation": progress.validation})
        if now - saved > 60 * config.save_minutes or run.step == config.updates:
            run.save()
            saved = now
        if on_update is not None:
            on_update(progress)
    validation = validate(average, held_out, config.seed)
    _warn_of_lag(validation, validate(run.prior, held_out, config.seed))
    average.error_by_sigma = _errors(validation, average.sigma_data)
    average.eval().requires_grad_(False)
    if config.patch is not None:
        return PatchPrior.from_network(average, config.patch.tile, config.patch.side)
    return with_depth(average)


def _errors(losses: dict[str, float], sigma_data: float) -> dict[float, float]:
    """Mean squared error of the denoiser by noise level, from the weighted losses."""
    levels = {float(sigma): loss for sigma, loss in losses.items()}
    return {s: loss / (1 / s**2 + 1 / sigma_data**2) for s, loss in levels.items()}


def _warn_of_lag(average: dict[str, float], weights: dict[str, float]) -> None:
    """Warn where the moving average denoises clearly worse than the weights themselves."""
    mean, own = (sum(losses.values()) / len(losses) for losses in (average, weights))
    if mean > 1.2 * own:
        warnings.warn(f"training: the moving average of the weights lags behind them: validation "
                      f"{mean:.3g} against {own:.3g}; train longer, or lower ema",
                      MedinvWarning, stacklevel=3)
