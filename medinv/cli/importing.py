"""``medinv import-prior``: weights that others published become a prior."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medinv.cli.command import guarded


@guarded
def import_prior(
    file: Annotated[Path, typer.Argument(help="The downloaded weights: .pt, .pth, .bin, .ckpt or "
                                         ".safetensors.")],
    config: Annotated[str, typer.Option(
        "--config", help="What the weights are of: the name of a published prior (dds-ct, "
        "score-mri ...), a .yaml or .json file, or diffusers' config.json.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The prior: name.safetensors; "
                                         "name.json comes beside it.")],
    scale: Annotated[float | None, typer.Option(
        "--scale", help="Physical intensity of one unit of the prior (CT: 1/mm).")] = None,
    percentile: Annotated[float | None, typer.Option(
        "--percentile", help="Percentile of the magnitude image that is one unit of the prior "
        "(MR).")] = None,
    empty_context: Annotated[Path | None, typer.Option(
        "--empty-context", help="File of one tensor (tokens, size): the encoded empty prompt, for "
        "a network that takes prompts.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a prior of that name.")]
    = False,
) -> None:
    """Make a prior of published weights; docs/checkpoints.md tells which, and how.

    Code in the file is never run. The result is used by its path, as in --set prior=name.
    """
    from medinv.priors import IntensityScale
    from medinv.priors import import_prior as convert
    from medinv.priors.foreign import read_tensor

    if scale is not None and percentile is not None:
        raise typer.BadParameter("expected --scale or --percentile, got both")
    _check_names(output, [file, Path(config)], overwrite)
    given = scale is not None or percentile is not None
    card = convert(
        file, config, output,
        scale=IntensityScale(1.0 if scale is None else scale, percentile) if given else None,
        empty_context=None if empty_context is None else read_tensor(empty_context))
    kind = "complex" if card.complex_images else "real"
    typer.echo(f"{output}: {card.description} ({kind} images)\n"
               f"Use it in a recipe, or with --set prior={output}")


def _check_names(output: Path, sources: list[Path], overwrite: bool) -> None:
    """Refuse to replace what is no prior, or what the prior is made of."""
    from medinv.data.ownership import check_free
    from medinv.errors import CheckpointError, OutputError
    from medinv.priors import read_card

    card = output.with_suffix(".json")
    if overwrite and (output.exists() or card.exists()):
        try:
            read_card(output)
        except CheckpointError as error:
            raise OutputError(f"{output}: expected a prior to replace, found something else; "
                              "choose another name") from error
    for path in (output, card):
        check_free(path, overwrite=overwrite)
        if any(path.exists() and source.exists() and path.samefile(source) for source in sources):
            raise OutputError(f"{path}: the prior is made from this file; choose another name")


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("import-prior")(import_prior)
