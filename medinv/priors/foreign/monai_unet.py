"""MONAI's ``DiffusionModelUNet``, which MONAI Generative Models and many others train.

Pinaya et al. 2023, "Generative AI for Medical Imaging" (arXiv:2307.15208). The network is MONAI's
own; it loads when a prior of this layout does.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field
from torch import nn

from medinv.priors.foreign.parts import Count, Layout, Size


class MonaiLayout(Layout):
    """Arguments of MONAI's ``DiffusionModelUNet``, as a bundle's ``network_def`` writes them.

    Example:
        >>> layout = MonaiLayout(in_channels=1, out_channels=1, channels=(8, 8), norm_num_groups=4,
        ...                      attention_levels=(False, True), num_res_blocks=1)
        >>> layout.stride
        2
    """

    kind: Literal["monai"] = "monai"
    spatial_dims: Literal[2] = 2
    in_channels: Count = 1
    out_channels: Count = 1
    num_res_blocks: Count | tuple[Count, ...] = (2, 2, 2, 2)
    channels: tuple[Size, ...] = Field((32, 64, 64, 64), min_length=1, max_length=8)
    attention_levels: tuple[bool, ...] = (False, False, True, True)
    norm_num_groups: Size = 32
    norm_eps: float = 1e-6
    resblock_updown: bool = False
    num_head_channels: Size | tuple[int, ...] = 8
    with_conditioning: bool = False
    transformer_num_layers: Count = 1
    cross_attention_dim: Size | None = Field(None, description="size of a token of the context")
    include_fc: bool = True
    use_combined_linear: bool = False

    @classmethod
    def training_only(cls) -> frozenset[str]:
        """Dropout, and how attention is computed."""
        return frozenset({"_target_", "dropout_cattn", "upcast_attention", "use_flash_attention"})

    @property
    def stride(self) -> int:
        """Sides of the input must be multiples of this."""
        return int(2 ** (len(self.channels) - 1))

    @property
    def context_size(self) -> int:
        """Numbers in a token of the context; 0 if the network takes none."""
        return self.cross_attention_dim or 0

    def build(self) -> nn.Module:
        """The network, with random weights."""
        from monai.networks.nets.diffusion_model_unet import DiffusionModelUNet

        arguments: dict[str, Any] = self.model_dump(exclude={"kind"})
        network: nn.Module = DiffusionModelUNet(**arguments)
        return network
