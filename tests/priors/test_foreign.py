"""Published layouts: outputs and names of tensors against the codes that define them."""

import pytest
import torch

from medinv.errors import CheckpointError
from medinv.priors.foreign import ADMLayout, DhariwalLayout, SongLayout, UNet2DConditionLayout
from medinv.priors.foreign.published import published
from tests.priors.foreign_cases import (
    CONDITION,
    CONTEXT_MRI,
    LAYOUTS,
    UNET2D,
    UNET2D_OTHER,
    arguments,
    fill,
    signature,
)

# Made by the defining codes with the same weights: guided-diffusion 22e0df8, score_sde_pytorch,
# NVlabs/edm, diffusers 0.42.1, MONAI 1.6.1. Three pixels and the mean magnitude.
GOLDEN = {
    "adm": (0.90651, 0.24765, -0.85696, 0.87203),
    "adm-plain": (1.28048, 0.26461, -0.04186, 0.83215),
    "ncsnpp": (-1.08951, 0.04703, 0.07964, 1.74407),
    "ncsnpp-plain": (1.71486, -5.59940, -0.02047, 1.58543),
    "ddpmpp": (6.77392, -1.38521, 0.36848, 1.58985),
    "edm-ncsnpp": (6.47287, 0.09635, 0.44809, 1.73972),
    "edm-adm": (-0.12508, -0.14619, 0.94983, 1.07824),
    "unet2d": (-0.45613, -0.16095, 4.10626, 0.77464),
    "unet2d-other": (-0.61887, -0.36115, 3.22195, 0.75156),
    "unet2d-condition": (-1.02141, -1.73747, 0.62669, 1.03441),
    "monai": (-0.22410, 3.61709, -0.85134, 1.29486),
}
# Digest of the sorted "name shape" lines of the state dict that the defining code builds, and how
# many there are.
SIGNATURES = {
    "dds-ct": ("6e7bae53287cadb7", 362),
    "dds-mri": ("237ebbfbedf8ef5c", 344),
    "score-mri": ("c82e6ad7ecc284c4", 521),
    "diffusionmbir-ct": ("c82e6ad7ecc284c4", 521),
    "tpdm-brain": ("c82e6ad7ecc284c4", 521),
    "contextmri": ("52aa5a224b627c13", 775),
    "padis-ct": ("920de88872b0e893", 394),
    "inversebench-mri": ("84e628259c59c6cd", 304),
}
_DPS = {"image_size": 256, "num_heads": 4, "num_head_channels": 64, "learn_sigma": True,
        "use_scale_shift_norm": True, "resblock_updown": True, "class_cond": False,
        "dropout": 0.0, "use_fp16": False, "use_checkpoint": False, "channel_mult": ""}
OTHER_SIGNATURES = [
    (ADMLayout(**_DPS, num_channels=128, attention_resolutions=16), ("47cc71b580397ca5", 362)),
    (ADMLayout(**_DPS, num_channels=256, num_res_blocks=2, attention_resolutions="32,16,8"),
     ("b9c90be1570d1541", 566)),
    (SongLayout(img_resolution=64, in_channels=3, out_channels=3), ("8a34d410cddc752d", 552)),
    (DhariwalLayout(img_resolution=64, in_channels=3, out_channels=3),
     ("a38513ac016f23b0", 552)),
]


@pytest.mark.parametrize("name", LAYOUTS)
def test_outputs_are_those_of_the_defining_code(name):
    out = fill(LAYOUTS[name].build())(*arguments(name))
    found = torch.stack([out[0, 0, 3, 5], out[1, 0, 9, 2], out[1, -1, 15, 15], out.abs().mean()])
    # single precision over some twenty layers, and five digits written
    torch.testing.assert_close(found, torch.tensor(GOLDEN[name]), rtol=1e-4, atol=5e-5)


@pytest.mark.parametrize("name", published())
def test_published_configurations_have_the_published_tensors(name):
    with torch.device("meta"):
        assert signature(published()[name].network.build()) == SIGNATURES[name]


@pytest.mark.parametrize(("layout", "expected"), OTHER_SIGNATURES)
def test_configurations_of_dps_and_edm_have_their_tensors(layout, expected):
    with torch.device("meta"):
        assert signature(layout.build()) == expected


@pytest.mark.parametrize("kind", ["UNet2DModel", "UNet2DConditionModel"])
@pytest.mark.parametrize("other", [False, True])
def test_diffusers_agrees(kind, other):
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    name = ("unet2d-other" if other else "unet2d") if kind == "UNet2DModel" else "unet2d-condition"
    options = (UNET2D_OTHER if other else UNET2D) if kind == "UNet2DModel" else CONDITION
    theirs = fill(getattr(diffusers, kind)(**options))
    ours = LAYOUTS[name].build()
    ours.load_state_dict(theirs.state_dict())
    inputs = arguments(name)
    torch.testing.assert_close(ours(*inputs), theirs(*inputs).sample, rtol=1e-4, atol=1e-4)


def test_a_published_yaml_or_json_is_taken_as_it_is():
    dds = {"type": "openai", "in_channels": 1, "out_channels": 2, "num_channels": 256,
           "num_heads": 4, "num_res_blocks": 1, "attention_resolutions": "16", "dropout": 0.0,
           "resamp_with_conv": True, "learn_sigma": True, "use_scale_shift_norm": True,
           "use_fp16": False, "resblock_updown": True, "num_heads_upsample": -1,
           "var_type": "fixedsmall", "num_head_channels": 64, "image_size": 256,
           "class_cond": False, "use_new_attention_order": False}
    assert ADMLayout(**dds) == published()["dds-ct"].network
    context = {"_class_name": "UNet2DConditionModel", "sample_size": 320, "in_channels": 2,
               "out_channels": 2, **CONTEXT_MRI, "norm_eps": 1e-05, "freq_shift": 0,
               "only_cross_attention": False, "resnet_out_scale_factor": 1.0,
               "encoder_hid_dim": 768, "num_class_embeds": None, "upcast_attention": False}
    assert UNet2DConditionLayout(**context) == published()["contextmri"].network


def test_unknown_or_unsupported_fields_are_refused():
    for wrong in ({"num_chnls": 3}, {"class_cond": True}):
        with pytest.raises(ValueError, match="num_chnls|class_cond"):
            ADMLayout(image_size=64, num_channels=32, **wrong)
    with pytest.raises(CheckpointError, match="no channel_mult is published for image_size 100"):
        ADMLayout(image_size=100, num_channels=32).build()
    with pytest.raises(CheckpointError, match="48 channels can't be split into groups of 32"):
        ADMLayout(image_size=64, num_channels=48, channel_mult=(1,)).build()
