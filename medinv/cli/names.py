"""Names that the shell completes; nothing heavy is loaded for them."""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources


def of_package(package: str, suffix: str) -> Callable[[str], list[str]]:
    """A completion of the names of a package's files.

    Example:
        >>> of_package("medinv.recipes", ".yaml")("demo")
        ['demo-chest-ct']
    """

    def complete(incomplete: str) -> list[str]:
        names = (entry.name for entry in resources.files(package).iterdir())
        return sorted(name.removesuffix(suffix) for name in names
                      if name.endswith(suffix) and name.startswith(incomplete))

    return complete


recipes = of_package("medinv.recipes", ".yaml")
data_sets = of_package("medinv.data_manifests", ".yaml")
