"""Coil maps from calibration data: ESPIRiT, and cheaper or joint estimates.

All take k-space that is fully sampled around its centre and return maps with ``sum_c |S_c|^2 = 1``
inside the support. Maps are known up to one phase per voxel, which no data can tell: it belongs
to the image. `espirit` makes the first coil real; `align_phase` chooses another reference.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medinv.errors import InputError, ShapeError
from medinv.operators import espirit as _espirit
from medinv.operators import fourier
from medinv.operators.calibration import (
    Width,
    calibration_region,
    centre_block,
    check_kspace,
    per_axis,
)

_KERNEL_WIDTH = 6
_USUAL_WIDTH = 24


def espirit(kspace: Tensor, *, calibration_width: Width = None,
            threshold: float = 0.02, crop: float = 0.95, ndim: int = 2,
            n_sets: int | None = None) -> Tensor:
    """ESPIRiT coil maps; each slice on its own, a volume plane by plane in bounded memory.

    Args:
        kspace: ``(*slices, coil, ky, kx)``, or ``(coil, kz, ky, kx)`` with ``ndim=3``; zero where
            not sampled, and fully sampled around its centre.
        calibration_width: of the central block to calibrate on: one number for all axes, or one
            for each; by default the largest that is fully sampled in every slice, at most 24
            along an axis.
        threshold: singular values of the calibration matrix below ``threshold`` times the
            largest are taken for noise.
        crop: maps are 0 where the eigenvalue is below; raise it for a tighter support.
        ndim: number of Fourier axes, 2 or 3.
        n_sets: number of map sets for soft-SENSE (``CartesianMRI(..., sets=True)``); None for
            one set without a set axis.

    Returns:
        Maps shaped like ``kspace``, with a set axis before the coils where ``n_sets`` is given:
        ``sum_c |S_c|^2`` is 1 inside the support and 0 outside; the first coil is real.

    Raises:
        ShapeError: k-space that is not complex or lacks axes.
        InputError: a calibration region that is empty, too small or not fully sampled, or more
            sets than coils.

    Source:
        Uecker et al., "ESPIRiT", Magn. Reson. Med. 71 (2014), 990.

    Example:
        >>> kspace = torch.randn(4, 32, 32, dtype=torch.complex64)
        >>> espirit(kspace, calibration_width=12).shape
        torch.Size([4, 32, 32])
        >>> espirit(kspace, calibration_width=12, n_sets=2).shape
        torch.Size([2, 4, 32, 32])
    """
    slices, widths = calibration_region("espirit", kspace, calibration_width, ndim, _KERNEL_WIDTH)
    if n_sets is not None and not 0 < n_sets <= slices.shape[1]:
        raise InputError(f"espirit: n_sets is {n_sets} but there are {slices.shape[1]} coils; "
                         "pass a number from 1 to that.")
    shape = tuple(kspace.shape[-ndim:])
    results = []
    for item in slices:
        kernel = _espirit.calibration_kernel(centre_block(item, widths), _KERNEL_WIDTH, threshold)
        maps, values = _espirit.eigenmaps(kernel, shape, n_sets or 1)
        maps.mul_((values >= crop).unsqueeze(1))
        results.append(_make_real(maps, maps[:, :1]))
    sets = () if n_sets is None else (n_sets,)
    return torch.stack(results).reshape(*kspace.shape[: -ndim - 1], *sets,
                                        *kspace.shape[-ndim - 1:])


def low_resolution_maps(kspace: Tensor, *, calibration_width: Width = None,
                        support: float = 0.05, ndim: int = 2) -> Tensor:
    """Low-resolution coil images over their root sum of squares: the cheapest maps.

    Args:
        kspace: as for `espirit`.
        calibration_width: as for `espirit`; the centre is tapered by a Hann window.
        support: maps are 0 where the root sum of squares is below this part of its maximum.
        ndim: number of Fourier axes, 2 or 3.

    Returns:
        Maps shaped like ``kspace``; the phase is that of the low-resolution coil images.

    Raises:
        ShapeError: k-space that is not complex or lacks axes.
        InputError: a calibration region that is empty or not fully sampled.

    Source:
        McKenzie et al., "Self-calibrating parallel imaging", Magn. Reson. Med. 47 (2002), 529.

    Example:
        >>> kspace = torch.randn(4, 32, 32, dtype=torch.complex64)
        >>> low_resolution_maps(kspace, calibration_width=12).shape
        torch.Size([4, 32, 32])
    """
    slices, widths = calibration_region("low_resolution_maps", kspace, calibration_width, ndim, 2)
    images = _low_resolution(slices, widths)
    return _cropped(images, images, support, ndim).reshape(kspace.shape)


def walsh(kspace: Tensor, *, calibration_width: Width = None, window: int = 5,
          support: float = 0.05, ndim: int = 2) -> Tensor:
    """Walsh's adaptive maps: main eigenvector of the coils' covariance in a window of voxels.

    Args:
        kspace: as for `espirit`.
        calibration_width: as for `espirit`; pass the grid's width to use all of a fully sampled
            k-space.
        window: side of the window, odd, in voxels of the image.
        support: maps are 0 where the root sum of squares is below this part of its maximum.
        ndim: number of Fourier axes, 2 or 3.

    Returns:
        Maps shaped like ``kspace``; the first coil is real.

    Raises:
        ShapeError: k-space that is not complex or lacks axes.
        InputError: a calibration region that is empty or not fully sampled, or an even window.

    Source:
        Walsh et al., "Adaptive reconstruction of phased array MR imagery", Magn. Reson. Med. 43
        (2000), 682, with noise that is white over the coils.

    Example:
        >>> kspace = torch.randn(4, 32, 32, dtype=torch.complex64)
        >>> walsh(kspace, calibration_width=12).shape
        torch.Size([4, 32, 32])
    """
    if window < 1 or window % 2 == 0:
        raise InputError(f"walsh: window is {window}; pass an odd number of voxels.")
    slices, widths = calibration_region("walsh", kspace, calibration_width, ndim, 2)
    images = _low_resolution(slices, widths)
    maps = torch.stack([_main_eigenvector(item, window) for item in images])
    maps = _make_real(maps, maps[:, :1])
    return _cropped(maps, images, support, ndim).reshape(kspace.shape)


def jsense(kspace: Tensor, mask: Tensor, *, kernel_width: int = 8, calibration_width: Width = 24,
           regularisation: float = 1e-3, max_iter: int = 20, ndim: int = 2) -> Tensor:
    """Maps from JSENSE, sigpy's joint estimation of maps and image; each slice on its own.

    It needs no fully sampled centre: what ``mask`` leaves of it is fitted. The problem is not
    convex; without regularisation it may fail where the centre has gaps.

    Args:
        kspace: ``(*slices, coil, ky, kx)``, or ``(coil, kz, ky, kx)`` with ``ndim=3``.
        mask: bool, broadcasts against ``([kz,] ky, kx)``.
        kernel_width: number of Fourier coefficients of a map along each axis.
        calibration_width: of the central block of k-space that is fitted: one number for all
            axes, or one for each; at most the grid's. None for 24.
        regularisation: weight of the squared coefficients of maps and image, for k-space of
            norm 1.
        max_iter: number of alternations between maps and image.
        ndim: number of Fourier axes, 2 or 3.

    Returns:
        Maps shaped like ``kspace``, with ``sum_c |S_c|^2 = 1`` everywhere.

    Raises:
        ShapeError: k-space that is not complex or lacks axes, or a mask that does not fit.
        InputError: no sample in the central block.

    Source:
        Ying and Sheng, "Joint image reconstruction and sensitivity estimation in SENSE",
        Magn. Reson. Med. 57 (2007), 1196; with Fourier coefficients and regularisation as in
        Uecker et al., "Regularized nonlinear inversion", Magn. Reson. Med. 60 (2008), 674.

    Example:
        >>> kspace = torch.randn(2, 32, 32, dtype=torch.complex64)
        >>> jsense(kspace, torch.ones(32, 32) > 0, max_iter=1).shape
        torch.Size([2, 32, 32])
    """
    check_kspace("jsense", kspace, ndim)
    grid = kspace.shape[-ndim:]
    try:
        weights = mask.to(kspace.device, kspace.dtype.to_real()).expand(grid)
    except RuntimeError:
        raise ShapeError(f"jsense: mask is {tuple(mask.shape)} but k-space is "
                         f"{tuple(kspace.shape)}; pass a mask for {tuple(grid)}.") from None
    wanted = per_axis("jsense", _USUAL_WIDTH if calibration_width is None else calibration_width,
                      ndim)
    widths = [min(width, n) for width, n in zip(wanted, grid, strict=True)]
    inside = torch.zeros_like(weights)
    centre_block(inside, widths).fill_(1)
    weights = weights * inside
    slices = torch.where(weights != 0, kspace, 0).reshape(-1, *kspace.shape[-ndim - 1:])
    if not bool(slices.flatten(1).any(1).all()):
        raise InputError("jsense: no sample lies in the centre of k-space, "
                         f"{' x '.join(map(str, widths))} wide; check the mask, or whether "
                         "k-space is centred.")
    maps = [_jsense(item, weights, kernel_width, max(widths), regularisation, max_iter)
            for item in slices]
    return torch.stack(maps).reshape(kspace.shape)


def align_phase(maps: Tensor, weights: Tensor, *, ndim: int = 2) -> Tensor:
    """Choose the phase of the maps so that one combination of the coils is real.

    The first row of `coil_data.svd_compression`, the main virtual coil, is a better reference than
    one coil, which may see nothing of a part of the body; BART's ``ecalib`` takes it.

    Args:
        maps: ``(..., coil, [z,] y, x)``.
        weights: ``(coil,)``; ``sum_c weights_c S_c`` becomes real and positive.
        ndim: number of image axes, 2 or 3.

    Returns:
        Maps of the same shape and magnitude.

    Raises:
        ShapeError: not one weight for each coil.

    Example:
        >>> maps = torch.full((2, 4, 4), 0.7j, dtype=torch.complex64)
        >>> align_phase(maps, torch.tensor([1.0, 0.0]))[:, 0, 0]
        tensor([0.7000+0.j, 0.7000+0.j])
    """
    axis = maps.ndim - ndim - 1
    if axis < 0 or tuple(weights.shape) != (maps.shape[axis],):
        raise ShapeError(f"align_phase: maps are {tuple(maps.shape)} and weights "
                         f"{tuple(weights.shape)}; pass one weight for each coil.")
    factors = weights.to(maps.dtype).reshape(-1, *(1,) * ndim)
    return _make_real(maps, (factors * maps).sum(axis, keepdim=True))


def _make_real(maps: Tensor, reference: Tensor) -> Tensor:
    """Turn the phase of ``maps`` so that ``reference`` is real and positive where it is not 0."""
    size = reference.abs()
    return maps * torch.where(size > 0, reference.conj() / size, 1)


def _low_resolution(slices: Tensor, widths: Sequence[int]) -> Tensor:
    """Coil images of the calibration region, ``(slice, coil, *grid)``."""
    axes = range(-len(widths), 0)
    tapered = torch.zeros_like(slices)
    centre = centre_block(slices, widths)
    for axis, width in zip(axes, widths, strict=True):
        ramp = torch.arange(width, device=slices.device) - width // 2
        hann = torch.cos(torch.pi * ramp / (width + 1)).square()
        centre = centre * hann.reshape(-1, *(1,) * (-axis - 1))
    centre_block(tapered, widths).copy_(centre)
    return fourier.ifft(tapered, axes)


def _cropped(maps: Tensor, images: Tensor, support: float, ndim: int) -> Tensor:
    """Unit length over the coils where the images are bright, 0 elsewhere."""
    brightness = torch.linalg.vector_norm(images, dim=1, keepdim=True)
    inside = brightness > support * brightness.amax(tuple(range(-ndim, 0)), keepdim=True)
    length = torch.linalg.vector_norm(maps, dim=1, keepdim=True)
    return torch.where(inside & (length > 0), maps / length, 0)


def _main_eigenvector(images: Tensor, window: int) -> Tensor:
    """Main eigenvector of ``sum x x^H`` over a window around each voxel, ``(coil, *grid)``."""
    covariance = images.unsqueeze(1) * images.conj()
    for axis in range(2, covariance.ndim):
        covariance = _moving_sum(covariance, axis, window)
    vectors: Tensor = torch.linalg.eigh(covariance.movedim((0, 1), (-2, -1))).eigenvectors
    return vectors[..., -1].movedim(-1, 0)


def _moving_sum(x: Tensor, axis: int, window: int) -> Tensor:
    """Sum over ``window`` neighbours along ``axis``, with zeros beyond the border."""
    margin = x.narrow(axis, 0, 1).expand(*x.shape[:axis], window // 2, *x.shape[axis + 1:]) * 0
    return torch.cat([margin, x, margin], axis).unfold(axis, window, 1).sum(-1)


def _jsense(kspace: Tensor, weights: Tensor, kernel_width: int, calibration_width: int,
            regularisation: float, max_iter: int) -> Tensor:
    from sigpy.mri.app import JsenseRecon

    arrays: list[object] = [kspace.resolve_conj().contiguous(), weights.contiguous()]
    device: int | None = -1
    if kspace.is_cuda:
        import cupy

        device, arrays = kspace.device.index, [cupy.from_dlpack(a) for a in arrays]
    else:
        arrays = [torch.Tensor.numpy(a) for a in arrays]  # type: ignore[arg-type]
    maps = JsenseRecon(arrays[0], weights=arrays[1], mps_ker_width=kernel_width,
                       ksp_calib_width=calibration_width, lamda=regularisation,
                       max_iter=max_iter, device=device, show_pbar=False).run()
    return torch.as_tensor(maps, device=kspace.device).to(kspace.dtype)
