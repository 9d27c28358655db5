"""Our U-Net against MONAI's of the same size: time per image, and loss after equal training time.

    python benchmarks/networks.py --minutes 4

One thread. The second part trains both on the CT recipe for the given wall time, from scratch, at
the recipe's plateau learning rate, and prints the weighted validation loss of the last weights.
MONAI's network needs ``einops``.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import Tensor, nn

from medinv.priors import NetworkPrior, UNet
from medinv.recipe import load_recipe
from medinv.training.denoising import denoising_loss, draw_sigma
from medinv.training.images import ImageSampler
from medinv.training.loop import generator, validate


class Monai(nn.Module):
    """MONAI's network behind the call of ours."""

    def __init__(self) -> None:
        super().__init__()
        from monai.networks.nets import DiffusionModelUNet

        self.unet = DiffusionModelUNet(
            2, 1, 1, num_res_blocks=(1, 1, 1, 1), channels=(32, 64, 96, 128),
            attention_levels=(False,) * 4, norm_num_groups=16,
        )

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        return self.unet(x, 250 * noise)  # its embedding expects timesteps of hundreds


def milliseconds(network: nn.Module, *, bfloat16: bool, train: bool) -> float:
    """Fastest of four batches, per image."""
    x = torch.randn(8, 1, 96, 96).to(memory_format=torch.channels_last)
    times = []
    for _ in range(4):
        start = time.perf_counter()
        with (torch.set_grad_enabled(train),
              torch.autocast("cpu", torch.bfloat16, enabled=bfloat16)):
            loss = network(x, torch.zeros(8)).float().square().mean()
        if train:
            loss.backward()
        times.append(time.perf_counter() - start)
    return 1e3 * min(times) / 8


def loss_after(network: nn.Module, minutes: float) -> float:
    """Mean validation loss over the levels after training for a while."""
    config = load_recipe("prior-chest-ct-2d").training
    sampler = ImageSampler(config.images)
    held_out = ImageSampler(config.images, validation=True).batch(32, generator(0, -2))
    prior = NetworkPrior(network, 0.57)
    optimizer = torch.optim.AdamW(prior.parameters(), lr=config.learning_rate, betas=(0.9, 0.99))
    end, step = time.monotonic() + 60 * minutes, 0
    while time.monotonic() < end:
        rng = generator(0, step)
        x0 = sampler.batch(config.batch, rng)
        sigma = draw_sigma(len(x0), prior.sigma_data, config.noise_mean, config.noise_std, rng)
        loss = denoising_loss(prior.denoise, prior.sigma_data, x0, sigma, rng).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(prior.parameters(), config.clip)
        optimizer.step()
        step += 1
    losses = validate(prior, held_out, 0)
    print(f"{step} updates: {losses}", flush=True)
    return sum(losses.values()) / len(losses)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=4.0, help="of training for each")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| network | parameters | training, bf16 | training, float32 | forward, bf16 "
          "| forward, float32 |\n|---|---|---|---|---|---|")
    for name, build in {"ours": lambda: UNet(1), "MONAI": Monai}.items():
        network = build().to(memory_format=torch.channels_last)
        cells = [f"{milliseconds(network, bfloat16=b, train=t):.0f} ms"
                 for t in (True, False) for b in (True, False)]
        size = sum(p.numel() for p in network.parameters()) / 1e6
        print(f"| {name} | {size:.1f} M | {' | '.join(cells)} |", flush=True)
    if args.minutes:
        for name, build in {"ours": lambda: UNet(1), "MONAI": Monai}.items():
            print(f"{name}: mean loss {loss_after(build(), args.minutes):.4f}", flush=True)


if __name__ == "__main__":
    main()
