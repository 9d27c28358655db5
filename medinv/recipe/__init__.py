"""A YAML file, validated, and the run that it describes.

Names load at first use, so that what needs no solver is quick.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
