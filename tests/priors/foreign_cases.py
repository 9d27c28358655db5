"""Small networks of each published layout, with weights that anyone can make again."""

import hashlib
import math
import zlib

import torch

from medinv.priors.foreign import (
    ADMLayout,
    DhariwalLayout,
    MonaiLayout,
    NCSNppLayout,
    SongLayout,
    UNet2DConditionLayout,
    UNet2DLayout,
)

CONTEXT_MRI = {
    "act_fn": "silu", "addition_embed_type": "text", "cross_attention_norm": "group_norm",
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn", "resnet_time_scale_shift": "scale_shift",
}
UNET2D = {
    "in_channels": 1, "out_channels": 1, "block_out_channels": (32, 64), "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "attention_head_dim": 16,
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"), "norm_num_groups": 16,
}
UNET2D_OTHER = {**UNET2D, "resnet_time_scale_shift": "scale_shift", "downsample_padding": 0,
                "flip_sin_to_cos": False, "freq_shift": 1, "attention_head_dim": None,
                "center_input_sample": True}
CONDITION = {
    **CONTEXT_MRI, "in_channels": 2, "out_channels": 2, "block_out_channels": (32, 64),
    "layers_per_block": 1, "attention_head_dim": 16, "cross_attention_dim": 32,
    "encoder_hid_dim": 24, "addition_embed_type_num_heads": 4,
    "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
    "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
}
_ADM = {"in_channels": 2, "image_size": 32, "num_channels": 32, "channel_mult": (1, 2),
        "attention_resolutions": "16", "learn_sigma": True}
_SONG = {"img_resolution": 16, "in_channels": 3, "out_channels": 1, "model_channels": 8,
         "channel_mult": (1, 2), "num_blocks": 2, "attn_resolutions": (8,)}

LAYOUTS = {
    "adm": ADMLayout(**_ADM, num_head_channels=16, use_scale_shift_norm=True,
                     resblock_updown=True),
    "adm-plain": ADMLayout(**_ADM, num_heads=2, use_new_attention_order=True),
    "ncsnpp": NCSNppLayout(image_size=16, nf=8, ch_mult=(1, 2), num_res_blocks=2,
                           attn_resolutions=(8,)),
    "ncsnpp-plain": NCSNppLayout(image_size=16, nf=8, ch_mult=(1, 2), num_res_blocks=2,
                                 attn_resolutions=(8,), fir=False, embedding_type="positional",
                                 centered=True, skip_rescale=False, scale_by_sigma=False),
    "ddpmpp": SongLayout(**_SONG),
    "edm-ncsnpp": SongLayout(**_SONG, embedding_type="fourier", channel_mult_noise=2,
                             encoder_type="residual", resample_filter=(1, 3, 3, 1)),
    "edm-adm": DhariwalLayout(img_resolution=16, in_channels=1, out_channels=1, model_channels=64,
                              channel_mult=(1, 1), num_blocks=1, attn_resolutions=(8,)),
    "unet2d": UNet2DLayout(**UNET2D),
    "unet2d-other": UNet2DLayout(**UNET2D_OTHER),
    "unet2d-condition": UNet2DConditionLayout(**CONDITION),
    "monai": MonaiLayout(channels=(8, 8), norm_num_groups=4, attention_levels=(False, True),
                         num_res_blocks=1, num_head_channels=4),
}


def wave(shape, phase):
    """Numbers between -1 and 1 that need no random generator."""
    n = math.prod(shape)
    return torch.cos(torch.arange(n, dtype=torch.float64) * 0.7 + phase).float().reshape(shape)


@torch.no_grad()
def fill(network):
    """Weights that depend on their names and shapes alone."""
    for name, value in network.state_dict().items():
        if name.endswith("resample_filter") or name == "sigmas":
            continue
        pattern = wave(value.shape, zlib.crc32(name.encode()) % 1000)
        norm = value.ndim == 1 and name.endswith("weight")
        gain = 1.5 / math.sqrt(value[0].numel()) if value.ndim > 1 else 0.3
        value.copy_(gain * pattern + norm)
    return network.eval().requires_grad_(False)


def arguments(name):
    """An image, noise coordinates, and a context where the network takes one."""
    layout = LAYOUTS[name]
    channels = getattr(layout, "in_channels", None) or layout.num_channels
    noise = torch.tensor([0.6, 5.0]) if "ncsnpp" in name else torch.tensor([3.0, 700.5])
    noise = torch.tensor([-0.5, 0.3]) if "edm" in name or name == "ddpmpp" else noise
    context = [wave((2, 5, layout.context_size), 2)] if layout.context_size else []
    return [wave((2, channels, 16, 16), 1), noise, *context]


def signature(network):
    """A digest of the names and shapes of all tensors, and their number."""
    lines = sorted(f"{name} {tuple(value.shape)}" for name, value in network.state_dict().items()
                   if name != "sigmas")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16], len(lines)
