"""Prompts, word for word as ContextMRI (arXiv:2501.04284) writes them, and medinv's own."""

import math

import pytest

from medinv.data import Metadata
from medinv.data.prompts import fastmri_prompt, skm_tea_prompt, slice_prompt, volume_prompts
from medinv.errors import DataError

BRAIN = Metadata(anatomy="brain", contrast="AXFLAIR", sequence="TurboSpinEcho", tr_ms=9000.0,
                 te_ms=81.0, ti_ms=2500.0, flip_angle_deg=150.0)
KNEE = Metadata(tr_ms=20.36, te_ms=6.428, flip_angle_deg=20.0, age_years=58.0, sex="M")
NAN = math.nan  # an empty cell of the table of findings


@pytest.mark.parametrize(("pathology", "parameters", "expected"), [
    ([NAN], True, "brain, Slice 4, AXFLAIR, Sequence: TurboSpinEcho, TR: 9000.0, TE: 81.0, "
                  "TI: 2500.0, Flip angle: 150.0"),
    ([NAN], False, "brain, Slice 4, AXFLAIR"),
    (["Edema", "Mass", "Edema"], False, "brain, Slice 4, AXFLAIR, Pathology: 2 Edema, 1 Mass"),
    (["Mass"], True, "brain, Slice 4, AXFLAIR, Pathology: 1 Mass, Sequence: TurboSpinEcho, "
                     "TR: 9000.0, TE: 81.0, TI: 2500.0, Flip angle: 150.0"),
])
def test_the_prompt_of_fastmri(pathology, parameters, expected):
    assert fastmri_prompt(BRAIN, 4, pathology, parameters=parameters) == expected


@pytest.mark.parametrize(("pathology", "parameters", "expected"), [
    ([NAN], True, "Qdess, Knee, Slice 80, Age: 58, Sex: M, TR: 20.36, TE: 6.428, "
                  "Flip Angle: 20.0"),
    (["Meniscal Tear", "Meniscal Tear"], False,
     "Qdess, Knee, Slice 80, Age: 58, Sex: M, Pathology: 2 Meniscal Tear"),
])
def test_the_prompt_of_skm_tea(pathology, parameters, expected):
    assert skm_tea_prompt(KNEE, 80, pathology, parameters=parameters) == expected


def test_what_is_not_known_leaves_no_trace():
    assert fastmri_prompt(Metadata(tr_ms=500.0)) == "TR: 500.0"
    assert fastmri_prompt(Metadata(anatomy="brain", te_ms=8.0), 0) == "brain, Slice 0, TE: 8.0"
    assert skm_tea_prompt(Metadata(), 3) == "Qdess, Knee, Slice 3"
    assert slice_prompt(Metadata()) == ""
    assert slice_prompt(Metadata(plane="coronal")) == "coronal"


def test_every_slice_of_a_volume_is_told_its_place():
    prompts = volume_prompts(Metadata(anatomy="brain", plane="axial"), 4, span=(0.5, 0.9))
    assert prompts == [f"brain, axial, Slice {n} of 100" for n in (55, 65, 75, 85)]
    with pytest.raises(DataError, match="position from 0 to 1, got 12"):
        slice_prompt(Metadata(), 12)
