"""One HTML file that holds a run's picture, numbers and origin, and needs nothing beside it.

It names no file, folder or person: results get passed on, and file names often hold patient names.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from medinv.data.atomic import write_text

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1200px; margin: 2em auto; padding: 0 1em;
       color: #1b1b1b; background: #fff }
img { width: 100%; height: auto }
table { border-collapse: collapse; margin: 1em 0 }
th, td { padding: .3em .9em; border-bottom: 1px solid #ddd; text-align: right }
th:first-child, td:first-child { text-align: left }
"""
NOTICE = (
    "For research only: this is not a medical device, and nothing here may guide care. A "
    "diffusion prior can invent detail that looks right."
)
_QUALITY = (
    "PSNR and SSIM (7 x 7 windows on slices) take the maximum of the reference volume as data "
    "range; NRMSE is relative to its norm. Images are not rescaled; complex ones are compared by "
    "magnitude."
)
_RESIDUAL = ("The residual is ||A x - y|| / ||y||: near the relative noise for an image that "
             "explains the data.")


@dataclass(frozen=True)
class Provenance:
    """Where a result comes from, in words that may leave the hospital.

    Attributes:
        version: medinv's version.
        recipe: name of the recipe; of a path, only the last part is kept.
        seed: of the random generator.
        seconds: by stage or method.
        settings: further facts, such as the number of views or the region of interest.
        date: of the run.
        solvers: by method, its settings.
    """

    version: str
    recipe: str
    seed: int
    seconds: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, str | int | float] = field(default_factory=dict)
    date: str = ""
    solvers: Mapping[str, str] = field(default_factory=dict)


def render_report(
    title: str,
    figure_png: bytes,
    metrics: Mapping[str, Mapping[str, float]],
    provenance: Provenance,
    notes: Sequence[str] = (),
) -> str:
    """The report as HTML.

    Args:
        title: heading of the page.
        figure_png: the picture, inlined.
        metrics: method to metric to value; the columns are all metrics in order of appearance.
        provenance: where the result comes from.
        notes: sentences a reader must know, such as that a phantom was used.

    >>> page = render_report("Chest", b"", {"DDS": {"PSNR (dB)": 31.2}}, Provenance("1", "ct", 0))
    >>> "31.2" in page and "<script" not in page
    True
    """
    image = base64.b64encode(figure_png).decode("ascii")
    paragraphs = "".join(f"<p>{escape(note)}</p>" for note in notes)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>\n"
        f"<h1>{escape(title)}</h1><p><strong>{escape(NOTICE)}</strong></p>{paragraphs}\n"
        f'<img alt="Three planes of each method" src="data:image/png;base64,{image}">\n'
        f"<h2>Metrics</h2>{_metrics_table(metrics)}<p>{escape(_convention(metrics))}</p>\n"
        f"{_solvers(provenance)}"
        f"<h2>Provenance</h2>{_facts_table(provenance)}</body></html>\n"
    )


def write_report(
    path: str | Path,
    title: str,
    figure_png: bytes,
    metrics: Mapping[str, Mapping[str, float]],
    provenance: Provenance,
    notes: Sequence[str] = (),
) -> None:
    """Write `render_report` to ``path``, atomically.

    Raises:
        OutputError: the file could not be written.
    """
    write_text(path, render_report(title, figure_png, metrics, provenance, notes))


def _convention(metrics: Mapping[str, Mapping[str, float]]) -> str:
    """What the numbers in the table mean, and no others."""
    names = {name for row in metrics.values() for name in row}
    texts = {"PSNR (dB)": _QUALITY, "residual": _RESIDUAL}
    return " ".join(text for name, text in texts.items() if name in names)


def _solvers(provenance: Provenance) -> str:
    if not provenance.solvers:
        return ""
    rows = [[title, settings] for title, settings in provenance.solvers.items()]
    return f"<h2>Settings</h2>{_table(['method', 'solver and settings'], rows)}\n"


def _metrics_table(metrics: Mapping[str, Mapping[str, float]]) -> str:
    names = list(dict.fromkeys(name for row in metrics.values() for name in row))
    rows = [
        [method, *(_number(row[name]) if name in row else "" for name in names)]
        for method, row in metrics.items()
    ]
    return _table(["method", *names], rows)


def _facts_table(provenance: Provenance) -> str:
    facts: dict[str, str] = {
        "medinv": provenance.version,
        "recipe": Path(provenance.recipe).name,
        "seed": str(provenance.seed),
        **({"date": provenance.date} if provenance.date else {}),
    }
    facts |= {name: str(value) for name, value in provenance.settings.items()}
    facts |= {f"{stage} (s)": f"{value:.1f}" for stage, value in provenance.seconds.items()}
    return _table(["", ""], [[name, value] for name, value in facts.items()])


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _number(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "∞"
