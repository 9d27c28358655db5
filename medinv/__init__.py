"""Medical volumes from raw or undersampled measurements, with diffusion priors.

Names load at first use (SPEC 1), so ``import medinv`` is quick and loads no torch. The list of
public names is ``__init__.pyi``, which type checkers and editors read.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
