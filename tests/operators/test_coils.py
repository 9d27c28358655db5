from __future__ import annotations

import math
import shutil
import subprocess

import numpy as np
import pytest
import torch

from medinv.errors import InputError, ShapeError
from medinv.operators import CartesianMRI, fourier
from medinv.operators import espirit as espirit_parts
from medinv.operators.calibration import calibration_region
from medinv.operators.coil_data import svd_compression
from medinv.operators.coils import align_phase, espirit, jsense, low_resolution_maps, walsh
from tests.operators.ct_objects import disc_image


def smooth_maps(n_coils, shape):
    """Complex sensitivities that fall off from points around the image, normalised."""
    y, x = (torch.linspace(-1, 1, n) for n in shape)
    angles = torch.arange(n_coils) * 2 * torch.pi / n_coils
    distance = ((x - 1.3 * torch.cos(angles)[:, None, None]) ** 2
                + (y[:, None] - 1.3 * torch.sin(angles)[:, None, None]) ** 2)
    maps = torch.exp(-distance / 2 + 0.5j * (x * torch.sin(angles)[:, None, None]))
    return maps / torch.linalg.vector_norm(maps, dim=0)


@pytest.fixture(scope="module")
def calibrated():
    """An object, its true maps, its k-space and the maps that ESPIRiT finds."""
    shape = (48, 43)
    body = disc_image(shape, 1.0, x0=1.0, y0=-2.0, radius=15.0, mu=1.0)
    maps = smooth_maps(4, shape)
    kspace = fourier.fft(maps * body, (-2, -1))
    return body, maps, kspace, espirit(kspace, calibration_width=20)


def test_maps_are_normalised_inside_their_support(calibrated):
    _, _, _, maps = calibrated
    power = maps.abs().square().sum(0)
    support = power > 0
    torch.testing.assert_close(power[support], torch.ones(int(support.sum())))
    assert CartesianMRI(maps, torch.ones(48, 43)).norm() <= 1 + 1e-5


def test_maps_are_found_up_to_a_phase(calibrated):
    body, truth, _, maps = calibrated
    inside = body == 1
    correlation = (maps.conj() * truth).sum(0).abs()[inside]
    assert float(correlation.min()) > 0.98
    assert float(correlation.mean()) > 0.995
    support = maps.abs().sum(0) > 0
    assert support[inside].float().mean() > 0.99
    assert not support[:4].any()  # cropped far from the object


def test_a_batch_of_slices_goes_slice_by_slice(calibrated):
    _, _, kspace, maps = calibrated
    both = espirit(torch.stack([kspace, 2 * kspace]), calibration_width=20)
    torch.testing.assert_close(both[0], maps)
    torch.testing.assert_close(both[1], maps)


def test_default_width_is_the_sampled_centre(calibrated):
    _, _, kspace, maps = calibrated
    masked = torch.zeros_like(kspace)
    centre = (slice(None), slice(14, 34), slice(11, 31))
    masked[centre] = kspace[centre]
    torch.testing.assert_close(espirit(masked), maps)
    with pytest.raises(InputError, match=r"calibration_width is 24, but the fully sampled centre "
                                         r"of k-space is 20 wide and the least is 6"):
        espirit(masked, calibration_width=24)


@pytest.mark.parametrize("axis", [-1, -2])
@pytest.mark.parametrize("estimate", [espirit, low_resolution_maps, walsh])
def test_few_lines_calibrate_along_their_whole_length(calibrated, estimate, axis):
    """Of 10 full lines a rectangle 24 x 10 is used, not a square 10 x 10."""
    body, truth, kspace, _ = calibrated
    lines = torch.zeros_like(kspace)
    first = kspace.shape[axis] // 2 - 5
    lines.narrow(axis, first, 10).copy_(kspace.narrow(axis, first, 10))
    widths = (24, 10) if axis == -1 else (10, 24)
    maps = estimate(lines)
    torch.testing.assert_close(maps, estimate(kspace, calibration_width=widths))

    def error(found):
        return 1 - float((found.conj() * truth).sum(0).abs()[body == 1].mean())

    assert error(maps) < 0.8 * error(estimate(lines, calibration_width=10))


def test_calibration_boxes(calibrated):
    """In 3D too; a box that sticks out of what is sampled, or lacks axes, is refused."""
    kspace = torch.zeros(2, 20, 30, 40, dtype=torch.complex64)
    kspace[:, 6:14, 10:20] = 1
    assert calibration_region("test", kspace, None, 3, 6)[1] == (8, 10, 24)
    assert calibration_region("test", kspace, (6, 10, 40), 3, 6)[1] == (6, 10, 40)
    with pytest.raises(InputError, match=r"width is 9 x 10 x 24, but .* is 8 x 10 x 40 wide"):
        calibration_region("test", kspace, (9, 10, 24), 3, 6)
    with pytest.raises(InputError, match=r"width is \[6, 6\]; pass one number, or 3 of them"):
        calibration_region("test", kspace, (6, 6), 3, 6)
    with pytest.raises(ShapeError, match="holds no sample; pass at least one slice, one coil"):
        calibration_region("test", kspace[:0], None, 3, 6)


def test_jsense_fits_a_rectangle(calibrated):
    """A grid of 12 rows is fitted 12 x 24, where a square would leave half of it out."""
    _, truth, kspace, _ = calibrated
    rows = kspace[:, 18:30]
    changed = rows.clone()
    changed[:, :, 31:] = 0  # beyond the rectangle: columns 9 to 32 of 43 are fitted
    changed[:, :, 33:] = 1
    mask = torch.ones(12, 43)
    assert not torch.allclose(jsense(changed, mask), jsense(rows, mask), atol=1e-3)
    changed[:, :, :33] = rows[:, :, :33]
    torch.testing.assert_close(jsense(changed, mask), jsense(rows, mask))
    with pytest.raises(InputError, match="no sample lies in the centre of k-space, 4 x 2 wide"):
        jsense(torch.zeros_like(rows), mask, calibration_width=(4, 2))


def test_too_small_a_centre_is_refused(calibrated):
    _, _, kspace, _ = calibrated
    with pytest.raises(InputError, match="pass a width between the two, or maps from another"):
        espirit(kspace, calibration_width=4)


def test_wrong_kspace_is_refused():
    with pytest.raises(ShapeError, match=r"pass a complex tensor \(\*slices, coil, ky, kx\)"):
        espirit(torch.zeros(3, 8, 8))
    with pytest.raises(ShapeError, match=r"\(\*slices, coil, kz, ky, kx\)"):
        espirit(torch.zeros(8, 8, 8, dtype=torch.complex64), ndim=3)


def test_three_dimensions(rng):
    disc = disc_image((14, 14), 1.0, x0=0.0, y0=0.0, radius=5.0, mu=1.0)
    body = disc * ((torch.arange(12) - 5.5).abs() < 4).float()[:, None, None]
    body = body + 1e-4 * torch.randn(body.shape, generator=rng)  # no sample is exactly 0
    maps = smooth_maps(2, (14, 14)).unsqueeze(1)
    found = espirit(fourier.fft(maps * body, (-3, -2, -1)), calibration_width=10, crop=0.5, ndim=3)
    correlation = (found.conj() * maps).sum(0).abs()[body > 0.99]
    assert float(correlation.mean()) > 0.95


def test_equals_sigpy(calibrated):
    from sigpy.mri.app import EspiritCalib

    _, _, kspace, maps = calibrated
    with np.errstate(invalid="ignore", divide="ignore"):
        peer = EspiritCalib(kspace.numpy(), calib_width=20, max_iter=300, show_pbar=False).run()
    peer = torch.from_numpy(peer).nan_to_num()
    both = ((maps != 0).any(0) & (peer != 0).any(0))
    assert both.sum() > 0.98 * (maps != 0).any(0).sum()
    assert float((maps.conj() * peer).sum(0).abs()[both].min()) > 0.999


def test_slabs_do_not_change_the_result(calibrated, monkeypatch):
    _, _, kspace, maps = calibrated
    monkeypatch.setattr(espirit_parts, "_SLAB_BYTES", 1)
    torch.testing.assert_close(espirit(kspace, calibration_width=20), maps)


def test_several_sets_are_orthonormal_and_start_with_the_main_one(calibrated):
    _, _, kspace, maps = calibrated
    both = espirit(kspace, calibration_width=20, n_sets=2, crop=0.0)
    gram = torch.einsum("scyx,tcyx->yxst", both, both.conj())
    torch.testing.assert_close(gram, (torch.eye(2) + 0j).expand_as(gram), atol=1e-5, rtol=0)
    support = (maps != 0).any(0)
    torch.testing.assert_close(both[0][:, support], maps[:, support])
    assert CartesianMRI(both, torch.ones(48, 43), sets=True).norm() <= 1 + 1e-5


def test_a_folded_body_needs_two_sets(calibrated):
    """A field of view of half the body: each voxel sees two places, with two sets of maps."""
    _, _, kspace, _ = calibrated
    folded = kspace[:, ::2]
    one, two = (espirit(folded, calibration_width=20, n_sets=n) for n in (1, 2))
    errors = []
    for maps in (one, two):
        A = CartesianMRI(maps, torch.ones(24, 43), sets=True)
        errors.append(float((A(A.solve(folded, max_iter=50)) - folded).norm() / folded.norm()))
    assert errors[1] < 0.3 * errors[0]


@pytest.mark.parametrize("estimate", [low_resolution_maps, walsh])
def test_cheap_maps(calibrated, estimate):
    body, truth, kspace, _ = calibrated
    maps = estimate(kspace, calibration_width=20)
    inside = body == 1
    assert float((maps.conj() * truth).sum(0).abs()[inside].mean()) > 0.99
    power = maps.abs().square().sum(0)
    torch.testing.assert_close(power[inside], torch.ones(int(inside.sum())))
    assert not maps[:, 0, 0].any()


def test_jsense(calibrated):
    body, truth, kspace, _ = calibrated
    mask = torch.rand(kspace.shape[1:], generator=torch.Generator().manual_seed(0)) < 0.7
    maps = jsense(kspace, mask)
    inside = body == 1
    assert float((maps.conj() * truth).sum(0).abs()[inside].mean()) > 0.98
    torch.testing.assert_close(maps.abs().square().sum(0), torch.ones(48, 43))


def test_phase_of_the_main_virtual_coil(calibrated):
    _, _, kspace, maps = calibrated
    weights = svd_compression(kspace, 1).matrix[0]
    aligned = align_phase(maps, weights)
    torch.testing.assert_close(aligned.abs(), maps.abs())
    combined = torch.tensordot(weights, aligned, 1)
    torch.testing.assert_close(combined.imag, torch.zeros(48, 43), atol=1e-6, rtol=0)
    assert (combined.real >= 0).all()
    with pytest.raises(ShapeError, match=r"pass one weight for each coil"):
        align_phase(maps, weights[:2])


@pytest.mark.parametrize("estimate", [espirit, low_resolution_maps, walsh])
def test_bad_calibration_data_are_refused(calibrated, estimate):
    _, _, kspace, _ = calibrated
    empty = kspace.clone()
    empty[:, 24, 21] = 0
    with pytest.raises(InputError, match="the calibration region is empty: k-space is 0 at its"):
        estimate(empty)
    broken = kspace.clone()
    broken[0, 24, 22] = math.nan
    with pytest.raises(InputError, match="k-space holds NaN or infinite samples"):
        estimate(broken)


@pytest.mark.parametrize(("call", "error", "message"), [
    (lambda y: espirit(y, n_sets=5), InputError, "n_sets is 5 but there are 4 coils"),
    (lambda y: walsh(y, window=4), InputError, "window is 4; pass an odd number"),
    (lambda y: jsense(y, torch.ones(3, 3)), ShapeError, r"mask is \(3, 3\) but k-space is"),
    (lambda y: jsense(y, torch.zeros(48, 43)), InputError, "no sample lies in the centre"),
    (lambda y: jsense(y.real, torch.ones(48, 43)), ShapeError, "jsense: k-space is .*float32"),
])
def test_wrong_arguments(calibrated, call, error, message):
    with pytest.raises(error, match=message):
        call(calibrated[2])


@pytest.fixture(scope="module")
def brain(shared_data):
    return torch.from_numpy(np.load(
        shared_data / "mri_brain_8coil_poisson8x" / "cartesian_ksp.npy"))


def bart_ecalib(kspace, folder):
    """Maps of BART's ``ecalib``, (coil, ky, kx); its files are column-major with 16 axes."""
    array = kspace.numpy().transpose(1, 2, 0)[None]
    (folder / "k.hdr").write_text(f"# Dimensions\n{' '.join(map(str, array.shape))}\n")
    array.ravel(order="F").tofile(folder / "k.cfl")
    subprocess.run(["bart", "ecalib", "-m1", "-r24", folder / "k", folder / "maps"], check=True,
                   capture_output=True)
    maps = np.fromfile(folder / "maps.cfl", np.complex64).reshape(array.shape, order="F")
    return torch.from_numpy(maps[0].transpose(2, 0, 1).copy())


@pytest.mark.skipif(shutil.which("bart") is None, reason="needs the program bart")
def test_equals_bart_inside_the_head(brain, tmp_path):
    peer, maps = bart_ecalib(brain, tmp_path), espirit(brain)
    inside = (maps != 0).any(0) & (peer != 0).any(0)
    assert inside.sum() > 0.99 * (maps != 0).any(0).sum()
    lengths = torch.linalg.vector_norm(maps, dim=0) * torch.linalg.vector_norm(peer, dim=0)
    correlation = ((maps.conj() * peer).sum(0).abs() / lengths)[inside]
    assert float(correlation.mean()) > 0.999
    assert float(correlation.quantile(0.01)) > 0.99  # a few voxels at the rim are less sure


@pytest.mark.slow
def test_real_brain(brain):
    kspace = brain
    maps = espirit(kspace)
    mask = (kspace != 0).any(0)
    A = CartesianMRI(maps, mask)
    x = A.solve(kspace, max_iter=20)
    # The maps explain the data: what CG leaves is noise, a few per cent of this scan.
    assert (A(x) - kspace).norm() < 0.15 * kspace.norm()
