"""The figure shows patients upright and to scale; the report is whole, safe and anonymous."""

from __future__ import annotations

import math
import re

import pytest
import torch

from medinv.data import Volume, orientation_affine
from medinv.errors import OutputError, ShapeError
from medinv.evaluation import (
    Provenance,
    comparison,
    gallery,
    measure,
    planes,
    write_comparison,
    write_report,
)
from medinv.evaluation.figure import AIR_HU, Scale

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "SAL", "PIR"])
def test_planes_are_upright_whatever_the_file(orientation):
    """A mark at the patient's right, front and top is drawn at left and top of every plane."""
    shape = (8, 8, 8)
    affine = orientation_affine(orientation, (1.0, 1.0, 1.0), shape)
    index = torch.stack(torch.meshgrid(*[torch.arange(8.0).double()] * 3, indexing="ij"), dim=-1)
    world = index.flip(-1) @ affine[:3, :3].T + affine[:3, 3]  # (z, y, x, RAS)
    right, front, top = world.unbind(-1)
    axial, coronal, _ = planes(Volume(right, affine))
    assert axial.pixels[:, 0].min() > axial.pixels[:, -1].max()
    assert coronal.pixels[:, 0].min() > coronal.pixels[:, -1].max()
    axial, _, sagittal = planes(Volume(front, affine))
    assert axial.pixels[0].min() > axial.pixels[-1].max()
    assert sagittal.pixels[:, 0].min() > sagittal.pixels[:, -1].max()
    _, coronal, sagittal = planes(Volume(top, affine))
    assert coronal.pixels[0].min() > coronal.pixels[-1].max()
    assert sagittal.pixels[0].min() > sagittal.pixels[-1].max()


def test_figure_is_written(tmp_path):
    reference = Volume(torch.rand(4, 6, 8), orientation_affine("LAS", (1.0, 1.0, 2.5), (8, 6, 4)))
    methods = {"FBP": reference.data + 0.1, "DDS": reference.data.to(torch.complex64)}
    write_comparison(tmp_path / "figure.png", reference, methods)
    assert (tmp_path / "figure.png").read_bytes().startswith(PNG)
    assert [path.name for path in tmp_path.iterdir()] == ["figure.png"]


def test_gallery_of_one_slice():
    slice_ = Volume(torch.randn(1, 8, 8, dtype=torch.complex64), torch.eye(4, dtype=torch.float64))
    assert gallery({"zero-filled": slice_, "DDS": slice_}).startswith(PNG)
    with pytest.raises(ShapeError, match="at least one method"):
        gallery({})


def test_figure_refusals():
    reference = Volume(torch.rand(4, 6, 8), torch.eye(4, dtype=torch.float64))
    with pytest.raises(ShapeError, match="at least one method"):
        comparison(reference, {})
    with pytest.raises(ShapeError, match="this grid only"):
        comparison(reference, {"DDS": torch.zeros(4, 6, 9)})


def write(path, **changes):
    provenance = Provenance(
        "0.1.0", "/home/someone/Doe_John/ct.yaml", 7, {"DDS": 12.34}, {"views": 30},
        "2026-01-02", {"DDS": "DDS, steps 50, eta 0.85"},
    )
    metrics = {"FBP": {"PSNR (dB)": 19.123456}, "<b>DDS": {"PSNR (dB)": math.inf, "SSIM": 0.9}}
    write_report(path, **({"title": "Chest & more", "figure_png": PNG, "metrics": metrics,
                           "provenance": provenance, "notes": ["A phantom."]} | changes))
    return path.read_text(encoding="utf-8")


def test_report_holds_everything(tmp_path):
    page = write(tmp_path / "report.html")
    for text in ("Chest &amp; more", "19.12", "∞", "0.9", "30", "12.3", "A phantom.", "0.1.0"):
        assert text in page
    assert "&lt;b&gt;DDS" in page


def test_report_says_what_it_is_for_and_how_it_was_made(tmp_path):
    page = write(tmp_path / "report.html")
    assert "not a medical device" in page
    assert "2026-01-02" in page
    assert "DDS, steps 50, eta 0.85" in page
    assert "PSNR and SSIM (7 x 7 windows on slices)" in page
    assert "||A x - y||" not in page
    page = write(tmp_path / "report.html", metrics={"DDS": {"residual": 0.1}})
    assert "PSNR" not in page
    assert "||A x - y||" in page


@pytest.mark.parametrize(("position", "sides"), [(None, "RLAP"), ("assumed: axial", None)])
def test_planes_name_the_patients_sides_where_they_are_known(position, sides):
    metadata = {} if position is None else {"position": position}
    affine = orientation_affine("LPS", (1.0, 1.0, 1.0), (4, 4, 4))
    axial, coronal, sagittal = planes(Volume(torch.rand(4, 4, 4), affine, metadata))
    if sides is None:
        assert axial.sides is coronal.sides is sagittal.sides is None
    else:
        assert ["".join(plane.sides) for plane in (axial, coronal, sagittal)] == [
            "RLAP", "RLSI", "APSI"]


def drawn(monkeypatch, make):
    """The figure's caption, its letters and the windows of its pictures."""
    figures = []
    monkeypatch.setattr("medinv.evaluation.figure._png", lambda f: figures.append(f) or b"")
    make()
    (figure,) = figures
    axes = figure.axes
    letters = {text.get_text() for axis in axes for text in axis.texts}
    return (figure.get_supxlabel().replace("\n", " "), letters,
            [a.images[0].get_clim() for a in axes])


def test_ct_is_drawn_in_hounsfield_units(monkeypatch):
    affine = orientation_affine("LPS", (1.0, 1.0, 1.0), (8, 8, 8))
    hu = torch.full((8, 8, 8), -1000.0)
    hu[:, 2:6, 2:6] = 500.0
    reference = Volume(hu, affine)
    caption, letters, windows = drawn(monkeypatch, lambda: comparison(
        reference, {"FBP": hu + 10}, Scale(AIR_HU, "HU")))
    assert caption == ("images: -1000 to 500 HU; error maps: 0 to 300 HU (20% of the window); the "
                       "patient's right is on the left")
    assert letters == set("RLAPSI")
    assert set(windows) == {(-1000.0, 500.0), (0.0, 300.0)}


def test_a_scan_of_unknown_position_has_no_letters(monkeypatch):
    volume = Volume(torch.ones(4, 8, 8), torch.eye(4, dtype=torch.float64),
                    {"position": "assumed: axial, centred"})
    caption, letters, _ = drawn(monkeypatch, lambda: gallery({"DDS": volume}))
    assert letters == set()
    assert caption.startswith("images: 0 to 1; how the patient lay is not known")


def test_report_is_self_contained_and_anonymous(tmp_path):
    page = write(tmp_path / "report.html")
    assert "<script" not in page
    assert all(url.startswith("data:") for url in re.findall(r'(?:src|href)="([^"]*)"', page))
    for secret in ("Doe_John", "someone", str(tmp_path)):
        assert secret not in page


def test_report_to_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        write(tmp_path / "file" / "report.html")


def test_measure_counts_memory_and_time():
    n_bytes = 64 * 2**20
    with measure() as cost:
        block = torch.ones(n_bytes, dtype=torch.uint8)
        del block
    # The peak counts pages; the allocator may hold some from before.
    assert 0.9 * n_bytes < cost.peak_bytes < 2 * n_bytes
    assert 0 < cost.seconds < 10


def test_measure_is_filled_in_after_an_error():
    with pytest.raises(KeyError), measure() as cost:
        raise KeyError
    assert cost.seconds > 0


@pytest.mark.cuda
def test_measure_on_cuda():
    with measure("cuda") as cost:
        torch.ones(2**20, device="cuda")
    assert cost.peak_bytes >= 4 * 2**20
