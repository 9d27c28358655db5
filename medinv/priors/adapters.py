"""Published networks in the VE coordinate: VP, VE, EDM and flow parametrisations.

For ``x = x0 + sigma n``, and what a network ``N`` was trained to predict:

    VP    u = a x, a = 1 / sqrt(1 + sigma^2):    eps = N(u, t)  ->  D = x - sigma eps
                                                 x0 = N(u, t)   ->  D = x0
                                                 v = N(u, t)    ->  D = a u - a sigma v
    VE    score = N(x, sigma)                                   ->  D = x + sigma^2 score
    EDM   F = N(c_in x, log(sigma) / 4)                         ->  D = c_skip x + c_out F
    flow  u = (1 - t) x, t = sigma / (1 + sigma), n - x0 = N(u, t)  ->  D = u - t N

The time index of a VP network is interpolated linearly in log sigma between the levels it was
trained at. Outside the range of its training, a network is asked at the nearest level: below
``sigma_min``, D(x, sigma) := D(x, sigma_min); above ``sigma_max``, where an image is all but lost
in the noise, D(x, sigma) := D(x sigma_max / sigma, sigma_max).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from medinv.errors import CheckpointError

Call = Callable[[Tensor, Tensor], Tensor]
"""A network of features (b, c, y, x) at noise coordinates (b,)."""


@lru_cache(maxsize=16)
def _log_levels(schedule: str, start: float, end: float, steps: int) -> Tensor:
    """Logarithm of sigma at each time index of a discrete VP schedule, increasing, float64."""
    ramp = torch.arange(steps, dtype=torch.float64) / (steps - 1)
    if schedule == "cosine":
        edges = torch.arange(steps + 1, dtype=torch.float64) / steps
        signal = torch.cos((edges + 0.008) / 1.008 * torch.pi / 2).square()
        betas = (1 - signal[1:] / signal[:-1]).clamp(max=0.999)
    elif schedule == "scaled_linear":
        betas = (start**0.5 + (end**0.5 - start**0.5) * ramp).square()
    else:
        betas = start + (end - start) * ramp
    log_signal = torch.log1p(-betas).cumsum(0)
    return torch.expm1(-log_signal).log() / 2


class _Parametrization(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class VP(_Parametrization):
    """A network of DDPM's process, discrete or continuous in time.

    Example:
        >>> VP().sigma_range  # linear betas from 1e-4 to 0.02 in 1000 steps
        (0.01, 157.4)
    """

    kind: Literal["vp"] = "vp"
    predicts: Literal["eps", "x0", "v"] = "eps"
    schedule: Literal["linear", "scaled_linear", "cosine", "continuous"] = Field(
        "linear", description="continuous: score_sde's, beta(t) from steps x beta_start at t = 0 "
        "to steps x beta_end at t = 1, time index (steps - 1) t")
    beta_start: float = Field(1e-4, gt=0)
    beta_end: float = Field(0.02, gt=0)
    steps: int = Field(1000, ge=2)

    def _exact_range(self) -> tuple[float, float]:
        if self.schedule == "continuous":
            return self._continuous_sigma(1e-5), self._continuous_sigma(1.0)
        logs = self._table()
        return math.exp(logs[0]), math.exp(logs[-1])

    @property
    def sigma_range(self) -> tuple[float, float]:
        """Least and greatest noise level of the training, to four digits."""
        low, high = self._exact_range()
        return float(f"{low:.4g}"), float(f"{high:.4g}")

    def _table(self) -> Tensor:
        return _log_levels(self.schedule, self.beta_start, self.beta_end, self.steps)

    def _continuous_sigma(self, t: float) -> float:
        low, high = self.steps * self.beta_start, self.steps * self.beta_end
        return math.sqrt(math.expm1(t * low + t**2 * (high - low) / 2))

    def index(self, sigma: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """The time index of noise levels within the range of the training; not an integer."""
        if self.schedule == "continuous":
            low, high = self.steps * self.beta_start, self.steps * self.beta_end
            root = (low**2 + 2 * (high - low) * sigma.square().log1p()).sqrt()
            return (self.steps - 1) * (root - low) / (high - low)
        logs = self._table().to(sigma.device)
        x = sigma.double().log().clamp(logs[0], logs[-1])
        above = torch.searchsorted(logs, x).clamp(1, len(logs) - 1)
        share = (x - logs[above - 1]) / (logs[above] - logs[above - 1])
        return (above - 1 + share).to(sigma.dtype)

    def denoise(self, network: Call, x: Tensor, sigma: Float[Tensor, " b"]) -> Tensor:
        """``D`` of real channels ``x`` (b, c, y, x)."""
        level = sigma.reshape(-1, 1, 1, 1)
        signal = (1 + level.square()).rsqrt()
        out = network(signal * x, self.index(sigma))[:, : x.shape[1]]
        if self.predicts == "eps":
            return x - level * out
        return out if self.predicts == "x0" else signal * (signal * x - level * out)


class VE(_Parametrization):
    """A network of the score at noise level sigma (score_sde's VE process).

    Example:
        >>> VE(sigma_max=378).sigma_range
        (0.01, 378.0)
    """

    kind: Literal["ve"] = "ve"
    sigma_min: float = Field(0.01, gt=0)
    sigma_max: float = Field(378.0, gt=0)

    @property
    def sigma_range(self) -> tuple[float, float]:
        """Least and greatest noise level of the training."""
        return self.sigma_min, self.sigma_max

    def denoise(self, network: Call, x: Tensor, sigma: Float[Tensor, " b"]) -> Tensor:
        """``D`` of real channels ``x`` (b, c, y, x)."""
        score = network(x, sigma)[:, : x.shape[1]]
        return x + sigma.reshape(-1, 1, 1, 1).square() * score


class EDM(_Parametrization):
    """A network preconditioned as in EDM, whose range of noise levels is not limited.

    Example:
        >>> EDM(sigma_data=0.5).sigma_range
        (0.0, inf)
    """

    kind: Literal["edm"] = "edm"
    sigma_data: float = Field(0.5, gt=0)

    @property
    def sigma_range(self) -> tuple[float, float]:
        """All levels."""
        return 0.0, math.inf

    def denoise(self, network: Call, x: Tensor, sigma: Float[Tensor, " b"]) -> Tensor:
        """``D`` of real channels ``x`` (b, c, y, x)."""
        level = sigma.reshape(-1, 1, 1, 1)
        total = level.square() + self.sigma_data**2
        features = network(x * total.rsqrt(), sigma.log() / 4)[:, : x.shape[1]]
        return self.sigma_data**2 / total * x + level * self.sigma_data * total.rsqrt() * features


class Flow(_Parametrization):
    """A network of the velocity of straight paths between images and noise.

    Example:
        >>> Flow(time_scale=1000).sigma_range
        (0.0, inf)
    """

    kind: Literal["flow"] = "flow"
    velocity: Literal["to-noise", "to-data"] = Field(
        "to-noise", description="whether the network predicts n - x0 or x0 - n")
    time_scale: float = Field(1.0, gt=0, description="the network's time where all is noise")

    @property
    def sigma_range(self) -> tuple[float, float]:
        """All levels."""
        return 0.0, math.inf

    def denoise(self, network: Call, x: Tensor, sigma: Float[Tensor, " b"]) -> Tensor:
        """``D`` of real channels ``x`` (b, c, y, x)."""
        t = sigma / (1 + sigma)
        time = t.reshape(-1, 1, 1, 1)
        u = (1 - time) * x
        velocity = network(u, self.time_scale * t)[:, : x.shape[1]]
        return u - time * velocity if self.velocity == "to-noise" else u + time * velocity


Parametrization = Annotated[VP | VE | EDM | Flow, Field(discriminator="kind")]


class AdaptedNetwork(nn.Module):
    """A published network as the ``F((b, c, y, x), (b,))`` that `NetworkPrior` preconditions.

    Images are padded by reflection to a multiple of the network's stride; arithmetic is in single
    precision, since an error of a VP or VE network counts sigma times. Channels of the input
    beyond the image's (positions) go to the network as they are.

    Args:
        network: takes features (b, c, y, x), noise coordinates (b,) and perhaps a context.
        parametrization: what it predicts, of what.
        sigma_data: as in the `NetworkPrior` around it.
        channels: of the image, 1 real or 2 complex.
        stride: sides of its input must be multiples of this.
        context_size: numbers in a token of its context, 0 if it takes none.
        empty_context: tokens of the empty prompt, for calls without a context.

    Example:
        >>> from medinv.priors import NetworkPrior
        >>> class Exact(nn.Module):  # the noise in images of variance 4
        ...     def forward(self, u, t):
        ...         sigma = 0.5
        ...         return u * (1 + sigma**2) ** 0.5 * sigma / (4 + sigma**2)
        >>> prior = NetworkPrior(AdaptedNetwork(Exact(), VP(), sigma_data=2.0), sigma_data=2.0)
        >>> round(prior(torch.ones(4, 4), 0.5)[0, 0].item(), 4), 4 / 4.25
        (0.9412, 0.9411764705882353)
    """

    def __init__(self, network: nn.Module, parametrization: VP | VE | EDM | Flow,
                 sigma_data: float, *, channels: int = 1, stride: int = 1,
                 context_size: int = 0, empty_context: Tensor | None = None) -> None:
        super().__init__()
        self.network, self.parametrization, self.sigma_data = network, parametrization, sigma_data
        self.channels, self.stride, self.context_size = channels, stride, context_size
        self.empty_context: Tensor | None
        self.register_buffer("empty_context", empty_context)

    def forward(self, inner: Float[Tensor, "b c y x"], noise: Float[Tensor, " b"],
                context: Float[Tensor, "b n"] | None = None) -> Float[Tensor, "b channels y x"]:
        """EDM's ``F`` for ``inner = c_in x`` and ``noise = log(sigma) / 4``.

        Args:
            inner: the image, then positions if the network takes them.
            noise: the level.
            context: tokens of the prompt, flattened.

        Raises:
            CheckpointError: the network takes no context, or one of another size.
        """
        sigma = (4 * noise).exp()
        total = (sigma.square() + self.sigma_data**2).reshape(-1, 1, 1, 1)
        x, where = inner[:, : self.channels] * total.sqrt(), inner[:, self.channels :]
        low, high = self.parametrization.sigma_range
        near = sigma.clamp(low, high)
        shrunk = x * (near / sigma).clamp(max=1).reshape(-1, 1, 1, 1)
        tokens = self._tokens(context, len(x))

        def call(features: Tensor, coordinate: Tensor) -> Tensor:
            return self._padded(torch.cat([features, where], dim=1), coordinate, *tokens)

        with torch.autocast(x.device.type, enabled=False):
            denoised = self.parametrization.denoise(call, shrunk, near)
        level = sigma.reshape(-1, 1, 1, 1)
        return (denoised - self.sigma_data**2 / total * x) * total.sqrt() / (
            level * self.sigma_data)

    def _tokens(self, context: Tensor | None, n: int) -> tuple[Tensor, ...]:
        if not self.context_size:
            if context is not None:
                raise CheckpointError("the network takes no context; leave the prompt out")
            return ()
        if context is None:
            if self.empty_context is None:
                raise CheckpointError(
                    f"the network needs a context, tokens of {self.context_size} numbers: wrap "
                    "the prior in a ContextPrior; weights other than 1 need the tokens of the "
                    "empty prompt, which `import-prior --empty-context` stores"
                )
            context = self.empty_context.flatten().expand(n, -1)
        if context.shape[-1] % self.context_size:
            raise CheckpointError(f"expected a context of tokens of {self.context_size} numbers, "
                                  f"flattened; got {context.shape[-1]} numbers")
        return (context.reshape(n, -1, self.context_size),)

    def _padded(self, x: Tensor, coordinate: Tensor, *tokens: Tensor) -> Tensor:
        ny, nx = x.shape[-2:]
        pad = (0, -nx % self.stride, 0, -ny % self.stride)
        padded = F.pad(x, pad, mode="reflect") if any(pad) else x
        out: Tensor = self.network(padded, coordinate, *tokens)
        return out[..., :ny, :nx]
