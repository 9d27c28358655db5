"""Change a volume's grid; every voxel that remains keeps its place in the patient."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from medinv.data.metadata import Metadata
from medinv.data.volume import Volume
from medinv.errors import ShapeError


def orientation_affine(
    orientation: str, spacing_mm: tuple[float, float, float], shape: tuple[int, int, int]
) -> Tensor:
    """The affine of a grid that is centred on the scanner's origin.

    Args:
        orientation: where x, y, z of the index point, such as ``LPS``.
        spacing_mm: along x, y, z.
        shape: number of voxels along x, y, z.

    >>> orientation_affine("LPS", (2.0, 2.0, 3.0), (1, 1, 3)).tolist()[2]
    [0.0, 0.0, 3.0, -3.0]
    """
    direction = {
        letter: (axis, sign)
        for axis, pair in enumerate(("RL", "AP", "SI"))
        for letter, sign in zip(pair, (1.0, -1.0), strict=True)
    }
    affine = torch.eye(4, dtype=torch.float64)
    affine[:3, :3] = 0
    for column, letter in enumerate(orientation):
        row, sign = direction[letter]
        affine[row, column] = sign * spacing_mm[column]
    middle = (torch.tensor(shape, dtype=torch.float64) - 1) / 2
    affine[:3, 3] = -affine[:3, :3] @ middle
    return affine + 0.0


_SEEN_FROM_THE_FRONT = {"axial": "LPS", "coronal": "LIP", "sagittal": "PIR"}


def placed(
    image: Tensor,
    grid: tuple[int, int, int],
    voxel_mm: tuple[float, float, float] | None,
    affine: Tensor | None,
    metadata: Mapping[str, object],
    acquisition: Metadata,
) -> Volume:
    """An image of raw data, or its central part, as a volume at its place.

    Where the file holds no affine, the image is centred on the origin and shown as radiologists
    see the plane (axial where that is unknown too): rows to the back or the feet, columns to the
    patient's left or back; ``metadata["position"]`` says so. Voxels of unknown size are 1 mm.

    Args:
        image: (z, y, x).
        grid: (z, y, x) of the whole field of view; index ``n // 2`` is its centre.
        voxel_mm: along (z, y, x), if known.
        affine: of the whole field of view, if known.
        metadata: of the volume.
        acquisition: of the volume.

    Raises:
        ShapeError: the image is larger than the grid.
    """
    if image.ndim != 3 or any(n > m for n, m in zip(image.shape, grid, strict=True)):
        raise ShapeError(f"volume: expected an image (z, y, x) of at most {grid}, got "
                         f"{tuple(image.shape)}; pass the image of this k-space, or a part of it")
    if affine is not None:
        first = [float(m // 2 - n // 2) for n, m in zip(image.shape, grid, strict=True)]
        moved = _moved(affine, first[::-1], [1.0, 1.0, 1.0])
        return Volume(image, moved, metadata, acquisition)
    plane = acquisition.plane or "axial"
    z, y, x = voxel_mm or (1.0, 1.0, 1.0)
    nz, ny, nx = image.shape
    facts = {"position": f"assumed: {plane}, centred",
             "voxel_size": "from the file" if voxel_mm else "unknown, 1 mm assumed"}
    assumed = orientation_affine(_SEEN_FROM_THE_FRONT[plane], (x, y, z), (nx, ny, nz))
    return Volume(image, assumed, {**metadata, **facts}, acquisition)


def to_ras(volume: Volume) -> Volume:
    """Flip and swap axes so that x, y, z run (nearly) to the right, the front and the top.

    No voxel is interpolated; an oblique volume stays oblique.

    >>> flipped = Volume(torch.zeros(2, 3, 4), orientation_affine("LPS", (1, 1, 1), (4, 3, 2)))
    >>> to_ras(flipped).orientation
    'RAS'
    """
    return turned(volume, "RAS")


def as_shown(volume: Volume) -> Volume:
    """Flip and swap axes so that each slice along z stands as radiologists look at it.

    Axial slices have the patient's left and back at the end of rows and columns, coronal ones left
    and feet, sagittal ones back and feet; x, y and z are right-handed in DICOM's LPS.

    >>> flipped = Volume(torch.zeros(2, 3, 4), orientation_affine("SAR", (1, 1, 1), (4, 3, 2)))
    >>> as_shown(flipped).orientation
    'PIR'
    """
    import nibabel

    across = int(nibabel.io_orientation(volume.affine.numpy())[2, 0])
    return turned(volume, _SEEN_FROM_THE_FRONT[("sagittal", "coronal", "axial")[across]])


def turned(volume: Volume, orientation: str) -> Volume:
    """Flip and swap axes so that x, y, z of the index point (nearly) where ``orientation`` says.

    >>> flipped = Volume(torch.zeros(2, 3, 4), orientation_affine("LPS", (1, 1, 1), (4, 3, 2)))
    >>> turned(flipped, "SAR").data.shape
    torch.Size([4, 3, 2])
    """
    import nibabel

    now = nibabel.io_orientation(volume.affine.numpy())
    ornt = nibabel.orientations.ornt_transform(now, nibabel.orientations.axcodes2ornt(orientation))
    data = volume.data.permute(2, 1, 0)  # x, y, z of the index
    shape = tuple(data.shape)
    flips = [axis for axis in range(3) if ornt[axis, 1] < 0]
    order = [int(axis) for axis in torch.tensor(ornt[:, 0]).argsort()]
    data = data.flip(flips).permute(order).permute(2, 1, 0)
    step = torch.from_numpy(nibabel.orientations.inv_ornt_aff(ornt, shape))
    return replace(volume, data=data.contiguous(), affine=volume.affine @ step)


def crop(volume: Volume, index: tuple[slice, slice, slice]) -> Volume:
    """The part ``data[index]``, with ``index`` in the order (z, y, x) and steps of 1.

    Raises:
        ShapeError: a step other than 1, or nothing is left.

    >>> volume = Volume(torch.zeros(4, 4, 4), torch.eye(4, dtype=torch.float64))
    >>> crop(volume, (slice(1, 3), slice(None), slice(2, None))).world_mm((0, 0, 0))
    (2.0, 0.0, 1.0)
    """
    ranges = [s.indices(n) for s, n in zip(index, volume.data.shape, strict=True)]
    data = volume.data[index]
    if any(step != 1 for _, _, step in ranges) or not data.numel():
        raise ShapeError(
            f"crop: {index} of a volume {tuple(volume.data.shape)} leaves {tuple(data.shape)}; "
            "expected a part that is not empty, with steps of 1"
        )
    first = [float(start) for start, _, _ in reversed(ranges)]
    return replace(volume, data=data, affine=_moved(volume.affine, first, [1.0, 1.0, 1.0]))


def block_mean(volume: Volume, factors: tuple[int, int, int]) -> Volume:
    """Average blocks of ``factors`` (z, y, x) voxels; a remainder at the end is cut off.

    Raises:
        ShapeError: a factor is below 1 or exceeds the volume.

    >>> volume = Volume(torch.arange(4.0).reshape(1, 1, 4), torch.eye(4, dtype=torch.float64))
    >>> half = block_mean(volume, (1, 1, 2))
    >>> half.data.flatten().tolist(), half.world_mm((0, 0, 0)), half.spacing_mm
    ([0.5, 2.5], (0.5, 0.0, 0.0), (2.0, 1.0, 1.0))
    """
    if any(not 1 <= f <= n for f, n in zip(factors, volume.data.shape, strict=True)):
        raise ShapeError(
            f"block_mean: factors {factors} do not fit a volume {tuple(volume.data.shape)}; "
            "expected 1 up to the size of each axis"
        )
    scale = [float(f) for f in reversed(factors)]
    first = [(f - 1) / 2 for f in scale]
    data = volume.data
    if data.is_complex():
        pooled = torch.complex(_pool(data.real, factors), _pool(data.imag, factors))
    else:
        pooled = _pool(data, factors)
    return replace(volume, data=pooled, affine=_moved(volume.affine, first, scale))


def _pool(data: Tensor, factors: tuple[int, int, int]) -> Tensor:
    return F.avg_pool3d(data[None, None], factors)[0, 0]


def _moved(affine: Tensor, first: list[float], scale: list[float]) -> Tensor:
    """The affine of a grid whose index n is ``first + scale * n`` of the old one."""
    step = torch.diag(torch.tensor([*scale, 1.0], dtype=torch.float64))
    step[:3, 3] = torch.tensor(first, dtype=torch.float64)
    return affine @ step
