"""What every command shares: ``--debug``, one clear error, exit codes, and options given once.

0 success; 2 the user's mistake; 1 anything else; 130 interrupted with Ctrl-C.
"""

from __future__ import annotations

import functools
import inspect
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TextIO, TypeVar

import click
import typer
from typer.core import TyperCommand, TyperOption

from medinv.errors import InputError, MedinvError, MedinvWarning
from medinv.privacy import without_folders

INTERRUPTED = 130
_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")  # as torch says it
Command = TypeVar("Command", bound=Callable[..., Any])
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


class OnceCommand(TyperCommand):
    """A command that refuses an option given twice, where click would take the last."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401  (typer's own)
        """Count the options."""
        if not ctx.resilient_parsing:
            _, _, given = self.make_parser(ctx).parse_args(args=list(args))
            for option in given:
                if (isinstance(option, TyperOption) and not option.multiple
                        and not option.is_flag and given.count(option) > 1):
                    raise typer.BadParameter(f"expected {option.opts[0]} once, got it "
                                             f"{given.count(option)} times")
        return super().parse_args(ctx, args)


class App(typer.Typer):
    """A group of commands, each an `OnceCommand`."""

    def command(  # type: ignore[override]  # no other of typer's settings is used
        self, name: str | None = None
    ) -> Callable[[Command], Command]:
        """As typer's, with another class of commands."""
        return super().command(name, cls=OnceCommand)


def guarded(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the option ``--debug``, and turn its exceptions into a message and a code."""

    @functools.wraps(function)
    def command(*args: object, debug: bool = False, **kwargs: object) -> None:
        try:
            with _told_warnings():
                function(*args, **kwargs)
        except (typer.Exit, typer.Abort, click.ClickException, BrokenPipeError):
            raise  # click ends quietly where the reader of a pipe has gone
        except KeyboardInterrupt:
            typer.echo("Interrupted; every file under its final name is whole, and a "
                       "run goes on with --resume.", err=True)
            raise typer.Exit(INTERRUPTED) from None
        except MedinvError as error:
            _report(_told(error, kwargs, debug), debug)
            raise typer.Exit(2 if isinstance(error, InputError) else 1) from None
        except (OSError, RuntimeError, ValueError, TypeError, LookupError, MemoryError) as error:
            if _is_out_of_memory(error):
                _report("the memory does not suffice; take fewer slices (measurement.slices), "
                        "larger voxels (measurement.pool), or a machine with more "
                        f"({_told(error, kwargs, debug)[:200]})", debug)
                raise typer.Exit(1) from None
            _report(
                f"unexpected {type(error).__name__}: {_told(error, kwargs, debug)}\nThis should "
                "not happen; please report it with what the same command says with --debug.",
                debug
            )
            raise typer.Exit(1) from None

    signature = inspect.signature(function, eval_str=True)
    option = inspect.Parameter("debug", inspect.Parameter.KEYWORD_ONLY, default=False,
                               annotation=Debug)
    parameters = [*signature.parameters.values(), option]
    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


@contextmanager
def _told_warnings() -> Iterator[None]:
    """Show medinv's warnings as one line each, without the place in the code."""
    with warnings.catch_warnings():
        others = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], filename: str, lineno: int,
                 file: TextIO | None = None, line: str | None = None) -> None:
            if issubclass(category, MedinvWarning):
                typer.echo(f"Warning: {without_folders(str(message))}", err=True)
            else:
                others(message, category, filename, lineno, file, line)

        warnings.simplefilter("always", MedinvWarning)
        warnings.showwarning = show
        yield


def _told(error: Exception, arguments: Mapping[str, object], debug: bool) -> str:
    """The message; folders often bear names of people, and are told with ``--debug`` only."""
    given = [value for value in arguments.values() if isinstance(value, str | Path)]
    return str(error) if debug else without_folders(str(error), given)


def _is_out_of_memory(error: Exception) -> bool:
    text = str(error)
    return isinstance(error, MemoryError) or any(words in text for words in _NO_MEMORY)


def _report(message: str, debug: bool) -> None:
    if debug:
        traceback.print_exc(file=sys.stderr)
    typer.echo(f"Error: {message}", err=True)
