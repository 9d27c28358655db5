"""The training loop: one loop for every loss, on lightning-fabric.

A run lives in a folder: ``state.pt`` (weights, moving average, optimiser, step) and
``history.jsonl``. The images and the noise of update ``i`` come from a generator seeded by
(seed, i), so a killed run that resumes from ``state.pt`` continues as if it had never stopped.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from torch import Generator, Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from medinv.data.atomic import replacing
from medinv.errors import CheckpointError
from medinv.priors.base import IntensityScale
from medinv.priors.edm import NetworkPrior, to_channels
from medinv.priors.networks import UNet
from medinv.training.config import TrainConfig
from medinv.training.denoising import denoising_loss, draw_sigma
from medinv.training.images import ImageSampler, batches, generator

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


def build_prior(config: TrainConfig, sampler: ImageSampler) -> NetworkPrior:
    """An untrained prior whose ``sigma_data`` is measured on 256 training images."""
    images = to_channels(sampler.batch(256, generator(config.seed, -1)))
    sigma_data = round(float(images.square().mean().sqrt()), 4)
    mr = config.images.kind == "complex-mr"
    scale = (IntensityScale(percentile=config.images.percentile) if mr
             else IntensityScale(value=config.images.mu_water))
    torch.manual_seed(config.seed)
    network = UNet(2 if mr else 1, **config.network.model_dump())
    return NetworkPrior(network, sigma_data, complex_images=mr, scale=scale)


@torch.no_grad()
def validate(prior: NetworkPrior, x0: Tensor, seed: int) -> dict[str, float]:
    """Weighted denoising loss on fixed images with fixed noise, by noise level."""
    losses = {}
    for i, sigma in enumerate(VALIDATION_SIGMAS):
        levels = torch.full((prior.chunk,), sigma, device=x0.device)
        rng = generator(seed, -10 - i)
        parts = [denoising_loss(prior.denoise, prior.sigma_data, x, levels[: len(x)], rng)
                 for x in torch.split(x0, prior.chunk)]
        losses[f"{sigma:g}"] = round(float(torch.cat(parts).mean()), 5)
    return losses


class _Run:
    """The mutable state of a training run."""

    def __init__(self, config: TrainConfig, folder: Path) -> None:
        self.config, self.folder = config, folder
        self.state_file = folder / "state.pt"
        self.sampler = ImageSampler(config.images)
        self.prior = build_prior(config, self.sampler)
        self.fabric = Fabric(accelerator="auto", devices=1)
        optimizer = torch.optim.AdamW(self.prior.parameters(), lr=config.learning_rate,
                                      betas=(0.9, 0.99), weight_decay=1e-4)
        self.model, self.optimizer = self.fabric.setup(self.prior, optimizer)
        self.model.mark_forward_method("denoise")
        ema = get_ema_multi_avg_fn(config.ema)  # type: ignore[no-untyped-call]
        self.average = AveragedModel(self.prior, multi_avg_fn=ema)
        self.step, self.seconds = 0, 0.0

    def save(self) -> None:
        """Write the whole state, atomically."""
        state = {
            "sigma_data": self.prior.sigma_data, "step": self.step, "seconds": self.seconds,
            "network": self.prior.state_dict(), "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        with replacing(self.state_file) as temporary:
            torch.save(state, temporary)

    def load(self) -> None:
        """Continue from ``state.pt``."""
        state: dict[str, Any] = torch.load(self.state_file, weights_only=True)
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
        self.step, self.seconds = state["step"], state["seconds"]

    def update(self, x0: Tensor, rng: Generator) -> Tensor:
        """One optimiser step on the images ``x0``; returns the mean loss."""
        config = self.config
        sigma = draw_sigma(len(x0), self.prior.sigma_data, config.noise_mean, config.noise_std,
                           rng)
        device = self.fabric.device
        loss = denoising_loss(self.model.denoise, self.prior.sigma_data, x0.to(device),
                              sigma.to(device), rng).mean()
        self.optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(loss)
        self.fabric.clip_gradients(self.model, self.optimizer, max_norm=config.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, config)
        self.optimizer.step()
        self.average.update_parameters(self.prior)
        self.step += 1
        return loss.detach()


def train(config: TrainConfig, folder: Path, *, resume: bool = False,
          on_update: Callable[[Progress], None] | None = None) -> NetworkPrior:
    """Train a prior by denoising score matching; returns the moving average of the weights.

    Args:
        config: everything that decides the run.
        folder: where the state and the history are kept.
        resume: continue the run in ``folder`` instead of refusing to overwrite it.
        on_update: called after every update with a `Progress`.

    Raises:
        CheckpointError: ``folder`` holds a run and ``resume`` is false, or another network's run.
    """
    run = _Run(config, folder)
    if run.state_file.exists():
        if not resume:
            raise CheckpointError(f"{folder} holds a run already; pass --resume or another folder")
        run.load()
    folder.mkdir(parents=True, exist_ok=True)
    held_out = ImageSampler(config.images, validation=True).batch(32, generator(config.seed, -2))
    held_out = held_out.to(run.fabric.device)
    average = cast(NetworkPrior, run.average.module)
    last, saved = time.monotonic(), time.monotonic()
    for x0, rng in batches(run.sampler, config.batch, config.seed,
                           range(run.step, config.updates), workers=config.workers):
        loss = float(run.update(x0, rng))
        now = time.monotonic()
        run.seconds += now - last
        last = now
        left = run.seconds / run.step * (config.updates - run.step)
        progress = Progress(run.step, config.updates, loss, left)
        if run.step % config.validate_every == 0 or run.step == config.updates:
            progress.validation = validate(average, held_out, config.seed)
            _record(folder, {"step": run.step, "seconds": round(run.seconds),
                             "validation": progress.validation})
        if now - saved > 60 * config.save_minutes or run.step == config.updates:
            run.save()
            saved = now
        if on_update is not None:
            on_update(progress)
    average.error_by_sigma = _errors(validate(average, held_out, config.seed), average.sigma_data)
    return average.eval().requires_grad_(False)


def _errors(losses: dict[str, float], sigma_data: float) -> dict[float, float]:
    """Mean squared error of the denoiser by noise level, from the weighted losses."""
    levels = {float(sigma): loss for sigma, loss in losses.items()}
    return {s: loss / (1 / s**2 + 1 / sigma_data**2) for s, loss in levels.items()}


def _record(folder: Path, row: dict[str, Any]) -> None:
    with (folder / "history.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
