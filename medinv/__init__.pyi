from .data import KSpace as KSpace
from .data import Volume as Volume
from .data import load_manifest as load_manifest
from .data import load_volume as load_volume
from .data import read_kspace as read_kspace
from .recipe import load_recipe as load_recipe
from .recipe import reconstruct as reconstruct
