"""Joseph's projector, differentiable in the image and in the rays.

A line integral is ``length sum_i g_i(start + slope i)`` with ``g_i`` the linear interpolation of
line ``i``, so its derivatives are sums of differences of neighbouring pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from medinv.operators.ct_backends import joseph_matrix
from medinv.operators.ct_backends.joseph_matrix import Combination
from medinv.operators.ct_rays import Rays


def project(images: Tensor, rays: Rays) -> Tensor:
    """``(n, y, x)`` to ``(n, view, col)``, with gradients to whatever made the rays."""
    result: Tensor = _Project.apply(images, rays.start, rays.slope, rays.length,  # type: ignore
                                    rays.shape, rays.along_y)
    return result


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, images: Tensor, start: Tensor, slope: Tensor, length: Tensor,
                shape: tuple[int, int], along_y: Tensor) -> Tensor:
        sinograms = joseph_matrix.apply(Rays(shape, along_y, start, slope, length), images)
        ctx.save_for_backward(images, along_y, start, slope, length, sinograms)
        return sinograms

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        images, along_y, start, slope, length, sinograms = ctx.saved_tensors  # type: ignore
        rays = Rays(tuple(images.shape[1:]), along_y, start, slope, length)
        zero = torch.zeros_like(length)
        by_start = joseph_matrix.apply(rays, images, Combination(zero, length, zero))
        by_slope = joseph_matrix.apply(rays, images, Combination(zero, zero, length))
        return (joseph_matrix.apply_transpose(rays, grad), *(
            (grad * part).sum(0).to(start.dtype)
            for part in (by_start, by_slope, sinograms / length)), None, None)
