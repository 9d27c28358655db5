"""What every command shares: ``--debug``, one clear error, and exit codes.

0 success; 2 the user's mistake; 1 anything else; 130 interrupted with Ctrl-C.
"""

from __future__ import annotations

import functools
import inspect
import sys
import traceback
from collections.abc import Callable
from typing import Annotated

import typer

from medinv.errors import InputError, MedinvError

INTERRUPTED = 130
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def guarded(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the option ``--debug``, and turn its exceptions into a message and a code."""

    @functools.wraps(function)
    def command(*args: object, debug: bool = False, **kwargs: object) -> None:
        try:
            function(*args, **kwargs)
        except (typer.Exit, typer.Abort):
            raise
        except KeyboardInterrupt:
            typer.echo("Interrupted; every file under its final name is whole, and a "
                       "run goes on with --resume.", err=True)
            raise typer.Exit(INTERRUPTED) from None
        except MedinvError as error:
            _report(str(error), debug)
            raise typer.Exit(2 if isinstance(error, InputError) else 1) from None
        except (OSError, RuntimeError, ValueError, TypeError, LookupError, MemoryError) as error:
            _report(
                f"unexpected {type(error).__name__}: {error}\nThis should not happen; please "
                "report it with what the same command says with --debug.", debug
            )
            raise typer.Exit(1) from None

    signature = inspect.signature(function, eval_str=True)
    option = inspect.Parameter("debug", inspect.Parameter.KEYWORD_ONLY, default=False,
                               annotation=Debug)
    parameters = [*signature.parameters.values(), option]
    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def _report(message: str, debug: bool) -> None:
    if debug:
        traceback.print_exc(file=sys.stderr)
    typer.echo(f"Error: {message}", err=True)
