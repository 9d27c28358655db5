"""Configurations of published priors, as their repositories have them at the time of writing.

Only shapes and schedules: the weights are their authors', under their own terms, and a user
downloads them. Scales are not published for most; see docs/checkpoints.md for how to find yours.
"""

from __future__ import annotations

from medinv.errors import InputError
from medinv.priors.adapters import EDM, VE, VP
from medinv.priors.base import IntensityScale
from medinv.priors.card import PatchTiling, PriorCard
from medinv.priors.foreign import (
    ADMLayout,
    DhariwalLayout,
    NCSNppLayout,
    SongLayout,
    UNet2DConditionLayout,
)


def _dds(image_size: int, channels: int) -> ADMLayout:
    return ADMLayout(
        image_size=image_size, in_channels=channels, num_channels=256, num_res_blocks=1,
        attention_resolutions=(16,), num_heads=4, num_head_channels=64, learn_sigma=True,
        use_scale_shift_norm=True, resblock_updown=True)


def _ncsnpp(image_size: int) -> NCSNppLayout:
    return NCSNppLayout(image_size=image_size, nf=128, ch_mult=(1, 2, 2, 2), num_res_blocks=4)


def _card(description: str, **fields: object) -> PriorCard:
    return PriorCard.model_validate({
        "description": description, "complex_images": False, "sigma_data": 0.5,
        "scale": IntensityScale(), **fields})


def published() -> dict[str, PriorCard]:
    """Cards by name, for `medinv.priors.import_prior` and ``medinv import-prior --config``.

    Example:
        >>> sorted(published())[:3]
        ['contextmri', 'dds-ct', 'dds-mri']
    """
    mr = IntensityScale(percentile=99)
    return {
        "dds-ct": _card("DDS, AAPM CT, 256 x 256 (arXiv:2303.05754)",
                        network=_dds(256, 1), parametrization=VP()),
        "dds-mri": _card("DDS, fastMRI knee, complex, 320 x 320 (arXiv:2303.05754)",
                         network=_dds(320, 2), parametrization=VP(), complex_images=True,
                         scale=mr),
        "score-mri": _card("score-MRI, fastMRI knee, magnitude, 320 x 320 (arXiv:2110.05243)",
                           network=_ncsnpp(320), parametrization=VE()),
        "diffusionmbir-ct": _card("DiffusionMBIR, AAPM CT, 256 x 256 (arXiv:2211.10655)",
                                  network=_ncsnpp(256), parametrization=VE()),
        "tpdm-brain": _card("TPDM, brain MR magnitude, 256 x 256 (arXiv:2303.08440)",
                            network=_ncsnpp(256), parametrization=VE()),
        "contextmri": _card(
            "ContextMRI, fastMRI, complex, 320 x 320 (arXiv:2501.04284); linear betas unless the "
            "scheduler_config.json of the download says otherwise",
            network=UNet2DConditionLayout(in_channels=2, out_channels=2), parametrization=VP(),
            complex_images=True, scale=mr, text_encoder="clip"),
        "padis-ct": _card(
            "PaDIS, CT patches with positions, 256 x 256, border of 64 (arXiv:2406.02462)",
            network=SongLayout(img_resolution=256, in_channels=3, out_channels=1,
                               channel_mult=(2, 2, 2)),
            parametrization=EDM(), patch=PatchTiling(patch=56, side=383)),
        "inversebench-mri": _card(
            "InverseBench, fastMRI knee, complex, 320 x 320 (arXiv:2503.11043)",
            network=DhariwalLayout(img_resolution=320, in_channels=2, out_channels=2,
                                   model_channels=128, channel_mult=(1, 1, 1, 2, 2), num_blocks=1,
                                   attn_resolutions=(16,)),
            parametrization=EDM(), complex_images=True, scale=mr),
    }


def published_card(name: str) -> PriorCard:
    """The card of this name.

    Raises:
        InputError: there is none.

    Example:
        >>> published_card("dds-ct").network.kind
        'adm'
    """
    cards = published()
    if name not in cards:
        raise InputError(f"no published configuration is called {name!r}; there are "
                         f"{', '.join(cards)}; or pass the path of a .json or .yaml file")
    return cards[name]
