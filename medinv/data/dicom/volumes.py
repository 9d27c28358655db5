"""A series holds one volume, or several: echoes, time points, diffusion weightings, orientations.

Slices of another size, spacing or orientation are always another volume. Slices at the same place
are told apart by what their headers state (`Frame.traits`); a trait divides them only if it has no
more values than there are slices at one place, so a trait that varies along the stack (a trigger
time, a slice's own number) does not.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medinv.data.dicom.frames import Frame, Trait

SAME_PLACE_MM = 0.01
_ORIENTATION_TOLERANCE = 1e-3
_SPACING_TOLERANCE = 1e-3
_TRAITS = ("image type", "echo time (ms)", "inversion time (ms)", "b-value (s/mm2)", "gradient",
           "time point", "trigger time (ms)", "acquisition")


def split_volumes(frames: Sequence[Frame]) -> list[list[Frame]]:
    """The volumes of a series, each with its slices along the normal.

    A slice that repeats another without any trait to tell them apart stays in its volume.
    """
    groups: list[list[Frame]] = []
    for frame in frames:
        for group in groups:
            if _same_grid(group[0], frame):
                group.append(frame)
                break
        else:
            groups.append([frame])
    volumes = [part for group in groups for part in _separate(_sorted(group), _TRAITS)]
    return [_sorted(volume) for volume in volumes]


def places(frames: Sequence[Frame]) -> list[list[Frame]]:
    """Slices along the normal, those at the same place together."""
    found: list[list[Frame]] = []
    normal = frames[0].normal
    last = -np.inf
    for frame in _sorted(frames):
        distance = float(frame.position @ normal)
        if distance - last < SAME_PLACE_MM:
            found[-1].append(frame)
        else:
            found.append([frame])
            last = distance
    return found


def summary(volumes: Sequence[Sequence[Frame]]) -> list[str]:
    """One line per volume: its size, plane, and the traits in which the volumes differ."""
    first = [volume[0] for volume in volumes]
    names = [name for name in _TRAITS if len({frame.traits.get(name) for frame in first}) > 1]
    return [_line(volume, names) for volume in volumes]


def _line(volume: Sequence[Frame], names: Sequence[str]) -> str:
    from medinv.data.metadata import nearest_plane

    frame = volume[0]
    size = f"{len(volume)} x {frame.shape[0]} x {frame.shape[1]}"
    values = [f"{name} {_plain(frame.traits[name])}" for name in names if name in frame.traits]
    return ", ".join([size, nearest_plane(frame.normal.tolist()), *values])


def _plain(value: Trait) -> str:
    if isinstance(value, tuple):
        return " ".join(f"{number:.3g}" for number in value)
    return value if isinstance(value, str) else f"{value:g}"


def _sorted(frames: Sequence[Frame]) -> list[Frame]:
    """Along the normal of the first slice; the order in the files counts only at one place."""
    normal = frames[0].normal
    return sorted(frames, key=lambda frame: float(frame.position @ normal))


def _same_grid(a: Frame, b: Frame) -> bool:
    turned = max(float(np.abs(a.row - b.row).max()), float(np.abs(a.col - b.col).max()))
    scaled = max(abs(x / y - 1) for x, y in zip(a.spacing, b.spacing, strict=True))
    return a.shape == b.shape and turned < _ORIENTATION_TOLERANCE and scaled < _SPACING_TOLERANCE


def _separate(frames: list[Frame], names: Sequence[str]) -> list[list[Frame]]:
    """Divide slices that share places by the first trait that does so, and each part again."""
    most = _most(frames)
    if most == 1:
        return [frames]
    for number, name in enumerate(names, 1):
        parts = _parts(frames, name)
        if 1 < len(parts) <= most and max(map(_most, parts)) < most:
            return [piece for part in parts for piece in _separate(part, names[number:])]
    return _by_instance(frames, most)


def _by_instance(frames: list[Frame], most: int) -> list[list[Frame]]:
    """Where every place has as many slices, their instance numbers tell the volumes apart."""
    stacks = places(frames)
    numbered = all("instance" in frame.traits for frame in frames)
    if not numbered or {len(stack) for stack in stacks} != {most}:
        return [frames]
    ordered = [sorted(stack, key=_instance) for stack in stacks]
    return [[stack[k] for stack in ordered] for k in range(most)]


def _instance(frame: Frame) -> float:
    value = frame.traits["instance"]
    return value if isinstance(value, float) else 0.0


def _most(frames: Sequence[Frame]) -> int:
    """The largest number of slices at one place."""
    return max(len(stack) for stack in places(frames))


def _parts(frames: Sequence[Frame], name: str) -> list[list[Frame]]:
    """Frames that agree in a trait together, by its value; those without it come first."""
    groups: dict[Trait | None, list[Frame]] = {}
    for frame in frames:
        groups.setdefault(frame.traits.get(name), []).append(frame)
    order = sorted(groups, key=lambda value: () if value is None else _sortable(value))
    return [groups[value] for value in order]


def _sortable(value: Trait) -> tuple[str | float, ...]:
    return value if isinstance(value, tuple) else (value,)
