"""The exception tree of medinv.

    MedinvError
    ├── InputError              the caller's mistake; the command line exits with 2
    │   ├── ShapeError            a tensor, mask or operator of the wrong shape or dtype
    │   ├── DataError             a file that is missing, broken, or not what it should be
    │   ├── RecipeError           an unknown field or a wrong value in a recipe
    │   └── CheckpointError       weights that do not fit the problem or cannot be read
    ├── NumericalError          a computation left the finite numbers
    ├── OutputError             a result could not be written (disk full, no permission)
    ├── DownloadError           a data set could not be fetched
    └── DependencyError         an optional package or device that this call needs is absent

    MedinvWarning           a file was repaired on the way in (the repair is in the notes, too)

Every message says what was expected, what came, and what to do.
"""


class MedinvError(Exception):
    """Base of every error that medinv raises on purpose."""


class InputError(MedinvError, ValueError):
    """The caller passed something that cannot work."""


class ShapeError(InputError):
    """A tensor, mask or operator has the wrong shape or dtype."""


class DataError(InputError):
    """A file is missing, broken, or not what it should be."""


class RecipeError(InputError):
    """A recipe has an unknown field or a wrong value."""


class CheckpointError(InputError):
    """Weights do not fit the problem or cannot be read."""


class NumericalError(MedinvError, ArithmeticError):
    """A computation left the finite numbers; its result would be worthless."""


class OutputError(MedinvError, OSError):
    """A result could not be written."""


class DownloadError(MedinvError):
    """A data set could not be fetched."""


class DependencyError(MedinvError, ImportError):
    """An optional package or device that this call needs is absent."""


class MedinvWarning(UserWarning):
    """A file was repaired on the way in; the message says how."""
