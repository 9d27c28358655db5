"""DICOM in: values, places, choices; what cannot be right is refused with its reason."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import RLELossless, generate_uid

from medinv.data import Volume, list_series, read_dicom, to_ras
from medinv.errors import DataError, MedinvWarning
from tests.data.dicom.dicom_phantom import (
    UID_ROOT,
    Grid,
    decimal,
    enhanced,
    image,
    mosaic,
    rotated,
    save,
    slices,
)

SHAPE = (4, 5, 6)  # z, y, x: all different, so that a swapped axis shows
VOXELS = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
OBLIQUE = Grid(*rotated(0.3, -0.2, 0.7))
CORNERS = [(x, y, z) for x in (0, 5) for y in (0, 4) for z in (0, 3)]


def assert_at_its_place(volume: Volume, grid: Grid, values: np.ndarray) -> None:
    """Each corner voxel lies where the standard says (to the digits of a decimal string)."""
    assert tuple(volume.data.shape) == values.shape
    np.testing.assert_array_equal(volume.data.numpy(), values.astype(np.float32))
    for x, y, z in CORNERS:
        np.testing.assert_allclose(volume.world_mm((x, y, z)), grid.ras(x, y, z), atol=1e-6)


angles = st.floats(-3.1, 3.1)
sizes = st.floats(0.2, 8.0)


@settings(max_examples=25, deadline=None)
@given(turn=st.tuples(angles, angles, angles), spacing=st.tuples(sizes, sizes, sizes),
       order=st.permutations(range(4)))
def test_any_grid_in_any_order(tmp_path_factory, turn, spacing, order):
    grid = Grid(*rotated(*turn), spacing=spacing)
    files = slices(VOXELS, grid)
    folder = save(tmp_path_factory.mktemp("series"), [files[k] for k in order])
    assert_at_its_place(read_dicom(folder), grid, VOXELS)


@pytest.mark.parametrize("form", ["classic", "enhanced", "mosaic"])
def test_every_layout_gives_the_same_places(tmp_path, form):
    if form == "classic":
        files, values = slices(VOXELS, OBLIQUE), VOXELS
    elif form == "enhanced":
        files = [enhanced(VOXELS, OBLIQUE)]
        values = 2 * VOXELS + np.arange(4)[:, None, None]  # each frame has its own intercept
    else:
        files, values = [mosaic(VOXELS, OBLIQUE)], VOXELS
    assert_at_its_place(read_dicom(save(tmp_path, files)), OBLIQUE, values)


def test_an_upright_volume_stays_upright(tmp_path):
    """An axial slice has the patient's left at its last column and the back at its last row."""
    volume = read_dicom(save(tmp_path, slices(VOXELS)))
    assert volume.orientation == "LPS"
    assert to_ras(volume).data[0, -1, -1] == VOXELS[0, 0, 0]


def test_rescale_of_each_file(tmp_path):
    files = slices(VOXELS, Modality="CT", RescaleIntercept="-1024",
                   RescaleSlope=lambda z: str(1 + z))
    volume = read_dicom(save(tmp_path, files))
    expected = VOXELS * np.arange(1, 5)[:, None, None] - 1024.0
    np.testing.assert_array_equal(volume.data.numpy(), expected)
    assert volume.metadata["unit"] == "HU"


def test_bits_above_bits_stored_are_cleared(tmp_path):
    signed = (VOXELS - 60).astype(np.int16)
    folder = save(tmp_path, slices(signed & 0x0FFF | 0x3000, BitsStored=12))
    np.testing.assert_array_equal(read_dicom(folder).data.numpy(), signed)


def test_ct_padding_becomes_air_or_stays(tmp_path):
    voxels = VOXELS.copy()
    voxels[:, 0] = -2000
    folder = save(tmp_path, slices(voxels, Modality="CT", PixelPaddingValue=-2000,
                                   RescaleIntercept="-24", RescaleSlope="1"))
    with pytest.warns(MedinvWarning, match="24 padding voxels were set to -1000 HU"):
        volume = read_dicom(folder)
    assert set(volume.data[:, 0].flatten().tolist()) == {-1000.0}
    assert read_dicom(folder, padding_hu=None).data[0, 0, 0] == -2024


def test_philips_precise_values(tmp_path):
    files = slices(VOXELS, Manufacturer="Philips", RescaleSlope="4", RescaleIntercept="8")
    for file in files:
        block = file.private_block(0x2005, "Philips MR Imaging DD 001", create=True)
        block.add_new(0x0E, "FL", 0.25)
    folder = save(tmp_path, files)
    np.testing.assert_array_equal(read_dicom(folder).data.numpy(), 4 * VOXELS + 8)
    precise = read_dicom(folder, precise_philips=True).data.numpy()
    np.testing.assert_array_equal(precise, (4 * VOXELS + 8) / (4 * 0.25))


def test_compressed(tmp_path):
    files = slices(VOXELS)
    for file in files:
        file.compress(RLELossless, generate_instance_uid=False)
    assert_at_its_place(read_dicom(save(tmp_path, files)), Grid(), VOXELS)


def test_monochrome1_keeps_its_values(tmp_path):
    folder = save(tmp_path, slices(VOXELS, PhotometricInterpretation="MONOCHROME1"))
    with pytest.warns(MedinvWarning, match="MONOCHROME1"):
        assert_at_its_place(read_dicom(folder), Grid(), VOXELS)


def test_one_slice_takes_its_thickness(tmp_path):
    assert read_dicom(save(tmp_path, slices(VOXELS[:1]))).spacing_mm[2] == pytest.approx(9)


def test_several_series_are_listed_and_chosen(tmp_path):
    save(tmp_path, slices(VOXELS, SeriesNumber=7, SeriesDescription="T1"), "a")
    save(tmp_path, slices(VOXELS + 1, SeriesNumber=3, SeriesDescription="T2",
                          SeriesInstanceUID=UID_ROOT + "9"), "b")
    (tmp_path / "notes.txt").write_text("not DICOM")
    assert [series.number for series in list_series(tmp_path)] == [3, 7]
    with pytest.raises(DataError, match=r"found 2; choose one of\n  series=0: series 3, 'T2', MR, "
                                        r"4 images of 5 x 6\n  series=1: series 7, 'T1'"):
        read_dicom(tmp_path)
    assert read_dicom(tmp_path, series=0).data[0, 0, 0] == 1
    with pytest.raises(DataError, match="there is no series 2"):
        read_dicom(tmp_path, series=2)


@pytest.mark.parametrize("tag", ["EchoTime", "AcquisitionNumber", "DiffusionBValue",
                                 "TemporalPositionIdentifier", "InstanceNumber"])
def test_volumes_of_a_series_are_told_apart(tmp_path, tag):
    first = slices(VOXELS, **{tag: lambda z: z + 1} if tag == "InstanceNumber" else {tag: 1})
    other = slices(VOXELS + 500, **{tag: lambda z: z + 9} if tag == "InstanceNumber" else {tag: 2})
    folder = save(tmp_path, [*other, *first])
    with pytest.raises(DataError, match="found 2 volumes; choose one of\n  volume=0: 4 x 5 x 6"):
        read_dicom(folder)
    assert_at_its_place(read_dicom(folder, volume=0), Grid(), VOXELS)
    assert_at_its_place(read_dicom(folder, volume=1), Grid(), VOXELS + 500)


def test_echoes_of_an_enhanced_file(tmp_path):
    folder = save(tmp_path, [enhanced(np.repeat(VOXELS, 2, axis=0), OBLIQUE, n_echoes=2)])
    with pytest.raises(DataError, match=r"volume=1: 4 x 5 x 6, axial, echo time \(ms\) 20"):
        read_dicom(folder)
    assert read_dicom(folder, volume=1).acquisition.te_ms == 20


def test_a_tag_that_varies_along_the_stack_does_not_split_it(tmp_path):
    twice = [*slices(VOXELS, TriggerTime=lambda z: 10 * z, EchoTime=1),
             *slices(VOXELS, TriggerTime=lambda z: 10 * z + 5, EchoTime=2)]
    assert read_dicom(save(tmp_path, twice), volume=1).data.shape == SHAPE


def test_localizer(tmp_path):
    coronal = Grid(np.array([1.0, 0, 0]), np.array([0, 0, -1.0]))
    files = [*slices(VOXELS[:2]), *slices(VOXELS[:2], coronal)]
    with pytest.raises(DataError, match=r"several orientations \(a localizer\?\)(.|\n)*coronal"):
        read_dicom(save(tmp_path, files))


def test_other_sizes(tmp_path):
    files = [*slices(VOXELS), *slices(VOXELS[:, :4])]
    with pytest.raises(DataError, match="images of 2 sizes"):
        read_dicom(save(tmp_path, files))


def test_missing_slice_names_the_gap(tmp_path):
    voxels = np.repeat(VOXELS, 3, axis=0)
    files = slices(voxels)
    del files[6]
    folder = save(tmp_path, files)
    with pytest.raises(DataError, match="2.5 mm apart, found 5 mm between slices 6 and 7 of 11; "
                                        "1 missing slices there"):
        read_dicom(folder)
    with pytest.warns(MedinvWarning, match="interpolated onto a regular grid"):
        volume = read_dicom(folder, resample=True)
    assert volume.data.shape == (12, 5, 6)
    np.testing.assert_array_equal(volume.data[6], (voxels[5] + voxels[7]) / 2)
    np.testing.assert_allclose(volume.world_mm((5, 4, 11)), Grid().ras(5, 4, 11), atol=1e-5)


def test_gantry_tilt_is_refused_or_corrected(tmp_path):
    """A linear function of the place, sampled on sheared slices, comes back on the new grid."""
    grid = Grid(spacing=(1.0, 1.0, 2.0))
    tilt = 0.75  # mm along a column per slice
    z, y, x = np.meshgrid(np.arange(6), np.arange(20), np.arange(8), indexing="ij")
    voxels = (100 + 10 * (y + tilt * z) + 3 * z + x).astype(np.float32) * 4
    positions = [grid.position(k) + tilt * k * grid.col for k in range(6)]
    files = slices(voxels.astype(np.int16), grid,
                   ImagePositionPatient=lambda k: decimal(positions[k]))
    folder = save(tmp_path, files)
    with pytest.raises(DataError, match="a gantry tilt of 20.6 degrees"):
        read_dicom(folder)
    with pytest.warns(MedinvWarning, match="gantry tilt"):
        volume = read_dicom(folder, resample=True)
    assert volume.data.shape == (6, 24, 8)
    inside = volume.data[:, 5:18, 1:-1].numpy()
    z, y, x = np.meshgrid(np.arange(6), np.arange(5, 18), np.arange(1, 7), indexing="ij")
    np.testing.assert_allclose(inside, 4 * (100 + 10 * y + 3 * z + x), atol=1e-3)
    np.testing.assert_allclose(volume.world_mm((0, 0, 5)), grid.ras(0, 0, 5), atol=1e-5)


def test_a_slice_beside_the_others(tmp_path):
    files = slices(VOXELS)
    files[2].ImagePositionPatient = decimal(Grid().position(2) + np.array([3.0, 0, 0]))
    with pytest.raises(DataError, match=r"slices in a line, found slice 3 of 4 4\.29 pixels"):
        read_dicom(save(tmp_path, files))


def test_the_same_file_twice(tmp_path):
    files = slices(VOXELS)
    save(tmp_path / "copy", files)
    save(tmp_path, files)
    with pytest.warns(MedinvWarning, match="4 files are copies of others and were left out"):
        volume = read_dicom(tmp_path)
    assert_at_its_place(volume, Grid(), VOXELS)
    assert len(volume.metadata["notes"]) == 1


@pytest.mark.parametrize("tags", [{}, {"InstanceNumber": 1}], ids=["numbered", "one number"])
def test_slices_under_one_uid_are_no_copies(tmp_path, tags):
    """An anonymiser gave every slice the same SOPInstanceUID."""
    folder = save(tmp_path, slices(VOXELS, SOPInstanceUID=UID_ROOT + "7", **tags))
    with pytest.warns(MedinvWarning, match="different images bear one SOPInstanceUID"):
        assert_at_its_place(read_dicom(folder), Grid(), VOXELS)


def test_copies_and_others_under_one_uid(tmp_path):
    files = slices(VOXELS, SOPInstanceUID=UID_ROOT + "7")
    save(tmp_path / "copy", files[1:3])
    save(tmp_path, files)
    with pytest.warns(MedinvWarning) as warned:
        assert_at_its_place(read_dicom(tmp_path), Grid(), VOXELS)
    assert "2 files are copies of others" in str(warned[0].message)


def test_phases_at_one_place_under_one_uid(tmp_path):
    uid = {"SOPInstanceUID": UID_ROOT + "7"}
    files = [*slices(VOXELS, TemporalPositionIdentifier=1, **uid),
             *slices(VOXELS + 500, TemporalPositionIdentifier=2, **uid)]
    with pytest.warns(MedinvWarning, match="one SOPInstanceUID"):
        assert_at_its_place(read_dicom(save(tmp_path, files), volume=1), Grid(), VOXELS + 500)


def test_nothing_but_pixels_tells_two_images_apart(tmp_path):
    """They are no copies: which one to take, nobody but the user knows."""
    same = {"SOPInstanceUID": UID_ROOT + "7", "InstanceNumber": 1}
    files = [*slices(VOXELS, **same), slices(VOXELS + 500, **same)[2]]
    with pytest.raises(DataError, match="two different slices lie at the same place"):
        read_dicom(save(tmp_path, files))


def test_enhanced_files_under_one_uid(tmp_path):
    files = [enhanced(VOXELS, OBLIQUE), enhanced(VOXELS + 500, OBLIQUE)]
    for number, file in enumerate(files):
        file.SOPInstanceUID, file.InstanceNumber = UID_ROOT + "7", number
    assert sum(series.n_images for series in list_series(save(tmp_path, files))) == 8


def test_a_capture_in_a_series_is_left_out(tmp_path):
    """Philips keeps screen captures among the slices; they lie nowhere."""
    shown = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7", "InstanceNumber": 99}
    files = [image(np.zeros((9, 9), np.int16), **shown), *slices(VOXELS)]
    with pytest.warns(MedinvWarning, match=r"1 images without position and orientation"):
        assert_at_its_place(read_dicom(save(tmp_path, files)), Grid(), VOXELS)


def test_a_series_of_captures_needs_no_choice(tmp_path):
    files = [image(VOXELS[0], SeriesInstanceUID=UID_ROOT + "5"), *slices(VOXELS)]
    with pytest.warns(MedinvWarning, match=r"1 series without position and orientation"):
        assert_at_its_place(read_dicom(save(tmp_path, files)), Grid(), VOXELS)


def test_a_slice_that_lost_its_position_is_no_capture(tmp_path):
    files = slices(VOXELS)
    del files[1].ImagePositionPatient
    with pytest.raises(DataError, match="ImagePositionPatient is missing"):
        read_dicom(save(tmp_path, files))


def one_series_per_slice(frame="1.2.3", **tags):
    return slices(VOXELS, OBLIQUE, SeriesInstanceUID=lambda z: f"{UID_ROOT}8.{z}",
                  FrameOfReferenceUID=frame, SeriesNumber=lambda z: z, **tags)


def test_one_series_per_slice_is_joined(tmp_path):
    """As Canon's scanners export, and some anonymisers."""
    with pytest.warns(MedinvWarning, match="4 series of one slice each were joined"):
        volume = read_dicom(save(tmp_path, one_series_per_slice()))
    assert_at_its_place(volume, OBLIQUE, VOXELS)


@pytest.mark.parametrize("tags", [
    {"frame": lambda z: f"1.2.{z}"}, {"frame": ""},
    {"SeriesDescription": lambda z: f"scan {z}"}, {"PixelSpacing": lambda z: ["1", f"{z + 1}"]},
], ids=["frames of reference", "unknown frame", "descriptions", "grids"])
def test_series_that_are_no_stack_stay_apart(tmp_path, tags):
    assert len(list_series(save(tmp_path, one_series_per_slice(**tags)))) == 4


def test_a_slice_twice_under_another_uid(tmp_path):
    files = slices(VOXELS)
    files.append(slices(VOXELS)[1])
    with pytest.warns(MedinvWarning, match="1 slices lie at the same place"):
        assert_at_its_place(read_dicom(save(tmp_path, files)), Grid(), VOXELS)


def test_two_different_slices_at_one_place(tmp_path):
    files = [*slices(VOXELS), slices(VOXELS + 1)[1]]
    with pytest.raises(DataError, match="two different slices lie at the same place, 32.5 mm"):
        read_dicom(save(tmp_path, files))


@pytest.mark.parametrize(("tags", "message"), [
    ({"PixelSpacing": ["0", "1"]}, "PixelSpacing"),
    ({"PixelSpacing": ["nan", "1"]}, "PixelSpacing as 2 finite numbers"),
    ({"ImageOrientationPatient": ["1", "0", "0", "1", "0", "0"]}, "right angles"),
    ({"ImagePositionPatient": ["1e30", "0", "0"]}, "cannot be"),
    ({"ImagePositionPatient": ["1", "0"]}, "ImagePositionPatient as 3 finite numbers"),
    ({"ImagePositionPatient": None}, "ImagePositionPatient is missing"),
    ({"RescaleSlope": "inf"}, "RescaleSlope as 1 finite"),
    ({"RescaleSlope": "1e300"}, "too large for float32"),
    ({"Rows": 60000, "Columns": 60000}, "exceed the limit"),
    ({"Rows": 0}, "expected 1 to"),
    ({"Rows": 50}, "cut off"),
    ({"BitsAllocated": 64}, "decoded|damaged"),
    ({"PhotometricInterpretation": "RGB"}, "colours"),
    ({"NumberOfFrames": 3}, "frames have no positions"),
    ({"ImageType": ["ORIGINAL", "PRIMARY", "MOSAIC"]}, "Siemens' private header"),
])
@pytest.mark.filterwarnings("ignore:Invalid value for VR:UserWarning")  # by pydicom, on writing
@pytest.mark.filterwarnings("ignore:Value exceeds:UserWarning")
def test_absurd_tags_are_refused(tmp_path, tags, message):
    import pydicom

    before = pydicom.config.settings.writing_validation_mode
    pydicom.config.settings.writing_validation_mode = pydicom.config.IGNORE
    try:
        folder = save(tmp_path, slices(VOXELS, **tags))
    finally:
        pydicom.config.settings.writing_validation_mode = before
    with pytest.raises(DataError, match=message):
        read_dicom(folder)


def test_not_a_cross_section(tmp_path):
    with pytest.raises(DataError, match="no place in the patient"):
        read_dicom(save(tmp_path, [image(VOXELS[0])]))


def test_acquisition(tmp_path):
    volume = read_dicom(save(tmp_path, slices(
        VOXELS, Manufacturer="Acme", MagneticFieldStrength="3", BodyPartExamined="KNEE",
        ScanningSequence="SE", EchoTrainLength=4, RepetitionTime="3120", EchoTime="33",
        InversionTime="100", FlipAngle="140", SeriesDescription="COR PD FS", PatientAge="042Y",
        PatientSex="F", PatientPosition="HFS")))
    assert volume.acquisition.known() == {
        "modality": "MR", "manufacturer": "Acme", "field_strength_t": 3.0, "anatomy": "knee",
        "sequence": "TurboSpinEcho", "contrast": "PDwFS", "tr_ms": 3120.0, "te_ms": 33.0,
        "ti_ms": 100.0, "flip_angle_deg": 140.0, "plane": "axial", "slice_thickness_mm": 9.0,
        "patient_position": "HFS", "age_years": 42.0, "sex": "F",
    }


def test_a_broken_description_is_left_out(tmp_path):
    files = slices(VOXELS, EchoTime="-5", PatientAge="", PatientSex="")
    volume = read_dicom(save(tmp_path, files))
    assert volume.acquisition.known().keys() == {"modality", "plane", "slice_thickness_mm"}


def test_volume_reads_dicom(tmp_path):
    folder = save(tmp_path, slices(VOXELS, SOPInstanceUID=lambda z: generate_uid(UID_ROOT)))
    assert torch.equal(Volume.from_dicom(folder).data, read_dicom(folder).data)
