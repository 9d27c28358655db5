"""Settings of every method: numbers are finite."""

import dataclasses
import math

import pytest

from medinv import guidance, solvers
from medinv.errors import InputError
from medinv.priors import IntensityScale, geometric_sigmas, karras_sigmas

CLASSES = [cls for room in (solvers, guidance) for name in room.__all__
           if dataclasses.is_dataclass(cls := getattr(room, name))] + [IntensityScale]
NUMBERS = [(cls, field.name) for cls in CLASSES for field in dataclasses.fields(cls)
           if "float" in str(field.type) and field.init]


def needed(cls):
    """Fields without a default."""
    return {field.name: 0.1 for field in dataclasses.fields(cls)
            if field.default is dataclasses.MISSING
            and field.default_factory is dataclasses.MISSING}


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize(("cls", "name"), NUMBERS,
                         ids=lambda item: getattr(item, "__name__", item))
def test_a_number_that_is_not_finite_is_refused(cls, name, value):
    type_ = str({field.name: field.type for field in dataclasses.fields(cls)}[name])
    given = (value, 1.0) if type_.startswith("tuple") else value
    cls(**needed(cls))
    with pytest.raises(InputError, match=r"inf|nan"):
        cls(**needed(cls) | {name: given})


@pytest.mark.parametrize("levels", [karras_sigmas, geometric_sigmas])
def test_noise_levels_are_finite(levels):
    for low, high in ((0.01, math.inf), (math.nan, 1.0), (0.01, math.nan)):
        with pytest.raises(InputError, match="finite"):
            levels(5, low, high)
