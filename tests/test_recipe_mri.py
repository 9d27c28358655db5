"""Recipes on raw MRI: every kind of file and sampling gives the image that was measured."""

from __future__ import annotations

import pytest
import torch

from medinv.data import KSpace, NonCartesianKSpace, orientation_affine, write_cfl
from medinv.errors import DataError, InputError
from medinv.evaluation.metrics import nrmse
from medinv.operators import CartesianMRI, NonCartesianMRI, trajectories
from medinv.recipe import mri_scan, run_recipe
from medinv.recipe.load import validate_recipe
from medinv.recipe.mri import birdcage
from medinv.recipe.run import measure_recipe
from medinv.recipe.schema import ReconstructRecipe
from tests import tiny

N, N_Z, COILS = 24, 8, 4


def recipe(block: dict[str, object], **content: object) -> ReconstructRecipe:
    loaded = validate_recipe({
        "name": "test", "task": "reconstruct", "measurement": block,
        "solver": {"name": "CGSENSE", "max_iter": 15}, **content,
    }, "test")
    assert isinstance(loaded, ReconstructRecipe)
    return loaded


def scan(**changes: object) -> dict[str, object]:
    return {"kind": "mri-file", "kspace": {"path": "scan"}, "calibration_width": 12, **changes}


def head(*shape: int) -> torch.Tensor:
    """An ellipsoid that is brighter to one side of each axis, so that a flip would show."""
    axes = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in shape), indexing="ij")
    inside = sum(a**2 for a in axes) < 0.6
    ramp = 1 + sum((i + 1) * a for i, a in enumerate(axes)) / 8
    return (inside * ramp).to(torch.complex64)


def maps_3d() -> torch.Tensor:
    plane = birdcage(COILS, (N, N))[:, None]
    turn = torch.linspace(-1, 1, N_Z)[:, None, None]
    return plane * torch.exp(1j * turn * torch.arange(COILS)[:, None, None, None])


def noisy(y: torch.Tensor, std: float) -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    return y + std * torch.view_as_complex(torch.randn(*y.shape, 2, generator=rng))


@pytest.fixture
def read(monkeypatch):
    """Put a scan in the place of the file."""
    def put(kspace: KSpace | NonCartesianKSpace, maps: torch.Tensor | None = None) -> None:
        def read_scan(*_args: object, slices: slice | None = None, **_options: object) -> object:
            return kspace if slices is None else kspace.part(slices)

        monkeypatch.setattr(mri_scan, "read_scan", read_scan)
        monkeypatch.setattr(mri_scan, "read_maps", lambda *_: maps)
    return put


def magnitude_error(image: torch.Tensor, truth: torch.Tensor) -> float:
    """Maps leave the phase to the image, so only magnitudes are compared."""
    return nrmse(image.abs(), truth.abs())


VOLUME_MASK = torch.ones(N_Z, N, 1) > 0
VOLUME_MASK[:, 1:6:2] = False  # an axis that is sampled alike is left: x (and z)
SCATTERED_MASK = torch.rand(N_Z, N, N, generator=torch.Generator().manual_seed(0)) > 0.2
SCATTERED_MASK[:, 6:18, 6:18] = True  # alike along no axis


@pytest.mark.parametrize(("mask", "split", "shape"), [
    (VOLUME_MASK, True, (N, N_Z, N)), (VOLUME_MASK, False, (N_Z, N, N)),
    (SCATTERED_MASK, True, (N_Z, N, N)),
], ids=["split", "whole", "cannot be split"])
def test_volumes(read, mask, split, shape):
    truth, mask = head(N_Z, N, N), mask.expand(N_Z, N, N)
    y = noisy(CartesianMRI(maps_3d(), mask, ndim=3)(truth), 1e-3) * mask
    affine = orientation_affine("LPS", (1.0, 2.0, 3.0), (N, N, N_Z))
    read(KSpace(y[None], mask, readout_axis=-1, affine=affine), maps_3d())
    block = scan(split=split, maps="given")
    run = run_recipe(recipe(block))
    assert run.methods["CGSENSE"].image.shape == shape
    volume = run.volume()
    torch.testing.assert_close(volume.affine, affine)
    assert magnitude_error(volume.data, truth) < 0.02
    # Slices of a volume are slices across the axis that was split, and stay at their places.
    if shape[0] == N:
        part = run_recipe(recipe(block | {"slices": [8, 14]})).volume()
        torch.testing.assert_close(part.data, volume.data[..., 8:14], rtol=1e-3, atol=1e-3)
        assert part.world_mm((0, 1, 2)) == volume.world_mm((8, 1, 2))
    else:
        with pytest.raises(InputError, match="reconstructed as a whole"):
            measure_recipe(recipe(block | {"slices": [2, 4]}))


def radial_scan(n_spokes: int = 48, std: float = 0.0) -> NonCartesianKSpace:
    truth, points = head(N, N), trajectories.golden_angle(n_spokes, N, oversampling=2).points
    y = noisy(NonCartesianMRI(birdcage(COILS, (N, N)), points)(truth), std)
    return NonCartesianKSpace(torch.stack([y, 2 * y]), points, (2, N, N), {"trajectory": "radial"})


@pytest.mark.parametrize(("method", "density"), [
    ("espirit", "auto"), ("espirit", "radial"), ("espirit", "pipe-menon"), ("espirit", "none"),
    ("walsh", "auto"), ("low-resolution", "auto"), ("jsense", "auto"),
])
def test_radial(read, method, density):
    read(radial_scan())
    run = run_recipe(recipe(scan(estimate_maps={"method": method}, density=density)))
    image = run.volume().data
    limit = 0.2  # the ellipse's sharp edge, cut to a disc of k-space
    assert magnitude_error(image[0], head(N, N)) < limit
    assert magnitude_error(image[1], 2 * head(N, N)) < limit
    part = measure_recipe(recipe(scan(slices=[1, 2])))
    assert part.y.shape[0] == 1
    assert "radial" in part.origin


def test_noise_of_a_trajectory_is_that_of_the_weighted_samples(read):
    read(radial_scan(std=10.0))
    plain = measure_recipe(recipe(scan(density="none", slices=[0, 1])))
    assert plain.noise_std == pytest.approx(10, rel=0.1)  # 4 x 460 samples
    weighted = measure_recipe(recipe(scan(slices=[0, 1])))
    noise = weighted.y - plain.y * (weighted.y.abs() / plain.y.abs())  # the same, root-weighted
    assert float(noise.abs().max()) < 1e-5 * float(weighted.y.abs().max())
    weights = (weighted.y.abs() / plain.y.abs())[0, 0] ** 2
    assert weighted.noise_std == pytest.approx(plain.noise_std * float(weights.mean()) ** 0.5)


@pytest.mark.parametrize("partitions", [N_Z, N_Z - 2], ids=["full", "undersampled"])
@pytest.mark.parametrize("split", [True, False])
def test_stack_of_stars(read, partitions, split):
    star = trajectories.golden_angle(40, N, oversampling=2)
    kz = torch.arange(partitions) - N_Z // 2
    points = trajectories.stack(star, N_Z, kz=kz.double()).points
    truth = head(N_Z, N, N)
    y = NonCartesianMRI(maps_3d(), points)(truth)
    order = torch.randperm(partitions * 40, generator=torch.Generator().manual_seed(0))
    read(NonCartesianKSpace(y.flatten(1, 2)[None][:, :, order], points.flatten(0, 1)[order],
                            (N_Z, N, N), {"trajectory": "radial"}), maps_3d())
    run = run_recipe(recipe(scan(split=split, maps="given")))
    assert ("stacked" in run.measured.origin) == (not split or partitions < N_Z)
    assert magnitude_error(run.volume().data, truth) < 0.25  # six of eight kz are in one case


def test_koosh_ball(read):
    points = trajectories.koosh_ball(300, 12, oversampling=2).points
    truth = head(12, 12, 12)
    maps = torch.ones(1, 12, 12, 12) + 0j
    y = NonCartesianMRI(maps, points)(truth)
    read(NonCartesianKSpace(y[None], points, (12, 12, 12)))
    image = run_recipe(recipe(scan())).volume().data
    assert magnitude_error(image, truth) < 0.2


@pytest.mark.parametrize("how", ["auto", "corners"])
def test_noise_is_whitened_and_then_estimated(read, how):
    """Coils of unequal, correlated noise; maps that were given are mixed as k-space is."""
    rng = torch.Generator().manual_seed(0)
    mixing = torch.diag(torch.tensor([1.0, 2.0, 3.0, 4.0])).to(torch.complex64)
    mixing[1, 0] = 1j
    truth, maps = 20 * head(48, 48), birdcage(COILS, (48, 48))
    y = CartesianMRI(maps, torch.ones(48, 48))(truth)
    y = y + torch.einsum("vc,cyx->vyx", mixing, noisy(torch.zeros_like(y), 1))
    noise = mixing @ torch.view_as_complex(torch.randn(COILS, 4000, 2, generator=rng))
    read(KSpace(y[None], torch.ones(48, 48) > 0, noise=noise if how == "auto" else None))
    measured = measure_recipe(recipe(scan(prewhiten=how)))
    assert measured.noise_std == pytest.approx(1, rel=0.5 if how == "corners" else 0.2)
    raw = measure_recipe(recipe(scan(prewhiten="none")))
    assert raw.noise_std > 1.5


def test_fewer_coils_and_no_oversampling_give_the_same_image(read):
    truth = torch.nn.functional.pad(head(N, N), (0, 0, N // 2, N // 2))
    maps = birdcage(8, (2 * N, N))
    y = noisy(CartesianMRI(maps, torch.ones(2 * N, N))(truth), 1e-3)
    read(KSpace(y[None], torch.ones(2 * N, N) > 0, voxel_mm=(3.0, 1.0, 1.0),
                recon_fov_mm=(3.0, N, N), recon_shape=(1, N, N)))
    run = run_recipe(recipe(scan(compress_coils=4, remove_oversampling=True)))
    assert run.measured.facts["coils"] == 4
    assert magnitude_error(run.volume().data[0], head(N, N)) < 0.1
    whole = run_recipe(recipe(scan())).volume()
    part = run.volume()
    assert part.world_mm((0, 0, 0)) == whole.world_mm((0, N // 2, 0))
    with pytest.raises(InputError, match="9 virtual coils from 8"):
        measure_recipe(recipe(scan(compress_coils=9)))


def test_maps_of_bart(tmp_path):
    truth, maps = head(N, N), birdcage(COILS, (N, N))
    y = CartesianMRI(maps, torch.ones(N, N))(truth)
    write_cfl(y, tmp_path / "scan.cfl", "coil ky kx")
    write_cfl(maps, tmp_path / "maps.cfl", "coil y x")
    block = scan(kspace={"path": str(tmp_path / "scan.cfl")}, maps=str(tmp_path / "maps.cfl"))
    run = run_recipe(recipe(block))
    torch.testing.assert_close(run.methods["CGSENSE"].image[0], truth, rtol=1e-4, atol=1e-4)


def test_a_single_coil_needs_no_maps(read):
    truth = head(N, N)
    y = CartesianMRI(torch.ones(1, N, N) + 0j, torch.ones(N, N))(truth)
    read(KSpace(y[None], torch.ones(N, N) > 0))
    image = run_recipe(recipe(scan())).methods["CGSENSE"].image[0]
    torch.testing.assert_close(image, truth, rtol=1e-4, atol=1e-4)


def test_slabs_must_be_chosen(read):
    read(KSpace(torch.ones(2, COILS, N_Z, N, N) + 0j, torch.ones(N_Z, N, N) > 0))
    with pytest.raises(DataError, match=r"2 slabs; choose one.*select: \{slice: 0\}"):
        measure_recipe(recipe(scan()))


SAMPLINGS = [
    {"kind": "equispaced-fraction", "acceleration": 3},
    {"kind": "magic", "acceleration": 4},
    {"kind": "uniform1d", "acceleration": 2, "partial_fourier": 0.75},
    {"kind": "caipirinha", "acceleration": [2, 2], "calibration_width": 8},
    {"kind": "radial", "spokes": 20}, {"kind": "golden-angle", "spokes": 20},
    {"kind": "spiral", "interleaves": 6, "turns": 4, "samples": 300, "density": "pipe-menon"},
    {"kind": "radial", "spokes": 20, "density": "none"},
]


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=lambda sampling: sampling["kind"])
def test_classical_methods_and_a_prior_on_simulated_sampling(tmp_path, sampling):
    magnitude = tiny.ct_volume((2, 28, 32))
    magnitude.with_data(magnitude.data + 1000).to_nifti(tmp_path / "t1.nii.gz")
    weights = tiny.write_prior(tmp_path / "mr.safetensors", complex_images=True)
    run = run_recipe(recipe(
        {"kind": "mri-simulated", "volume": {"path": str(tmp_path / "t1.nii.gz")},
         "coils": COILS, "sampling": sampling, "noise": 0.01},
        baselines=[{"name": "ZeroFilled"}, {"name": "TV", "weight": 1e-3, "max_iter": 40},
                   {"name": "L1Wavelet", "weight": 1e-3, "max_iter": 40}, {"name": "CGSENSE"}],
        solver={"name": "DDS", "steps": 2, "noise_aware": True}, prior=str(weights),
    ))
    measured = run.measured
    clean = measured.A(measured.reference)
    residual = (measured.y - clean)[clean != 0]
    # 2 x 4 coils x hundreds of samples; weighted samples have unequal noise, so rms.
    rms = float(torch.view_as_real(residual).square().mean().sqrt())
    assert rms == pytest.approx(measured.noise_std, rel=0.1)
    errors = {name: nrmse(method.image, measured.reference)
              for name, method in run.methods.items()}
    assert errors["TV"] < 0.35
    assert errors["TV"] < errors["ZeroFilled"]
    assert run.methods["DDS"].image.isfinite().all()
