"""What a prior gains from being told the truth, and loses from being told lies (ContextMRI).

    python benchmarks/context.py --seeds 3 --output context.md

k-space at R = 8 of test slices (the superior third of a brain that no prior was trained on), as
the recipe mri-brain-contextmri simulates it, in the four contrasts that the prior was trained on;
all but T1w are simulated from T1w by the same fixed curves. A seed decides mask, phase, noise and
the solver's noise. The prior is told contrast, plane and place (true), nothing (none), or another
contrast with the true place (wrong contrast: T2w for T1w and so on round the list), or that
contrast, a sagittal plane and the place mirrored (all wrong). Beside them stands the prior that
takes no prompts, from which the other's training started.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from medinv.data import Metadata, load_volume
from medinv.data.prompts import volume_prompts
from medinv.evaluation import psnr
from medinv.priors import NetworkPrior, Prior, conditioned, load_prior
from medinv.recipe.load import load_reconstruct_recipe
from medinv.recipe.measurement import Measured
from medinv.recipe.run import measure_recipe
from medinv.recipe.schema import ReconstructRecipe
from medinv.resources import choose_device
from medinv.training.contrasts import Contrast, simulated_contrast
from medinv.training.prompts import load_encoder

CONTRASTS: tuple[Contrast, ...] = ("T1w", "T2w", "PDw", "FLAIR")
HEIGHT = 192  # slices of the whole brain; the test slices are the uppermost 64
SPLIT = 64


def write_contrast(contrast: Contrast, path: Path) -> None:
    """The test slices as another contrast shows them, in units of the brain's 99th percentile."""
    whole = load_volume("voxelmorph-brain")
    values = whole.data.float().flatten()
    unit = float(values.kthvalue(round(0.99 * len(values))).values)
    test = load_volume("voxelmorph-brain", split="test")
    test.with_data(simulated_contrast(test.data.float() / unit, contrast)).to_nifti(path)


def prompts(contrast: Contrast, slices: tuple[int, int], *, lie: bool = False) -> list[str]:
    first, last = ((HEIGHT - SPLIT + i) / HEIGHT for i in slices)
    told = Metadata(anatomy="brain", contrast=contrast, plane="sagittal" if lie else "axial")
    return volume_prompts(told, slices[1] - slices[0],
                          (1 - last, 1 - first) if lie else (first, last))


def priors(told: NetworkPrior, plain: Prior, contrast: Contrast, slices: tuple[int, int]
           ) -> Iterator[tuple[str, Prior]]:
    encoder = load_encoder("minilm")
    true = prompts(contrast, slices)
    other = CONTRASTS[(CONTRASTS.index(contrast) + 1) % len(CONTRASTS)]
    yield "true", conditioned(told, true, encoder)
    yield "true, weight 2", conditioned(told, true, encoder, 2.0)
    yield "none", told
    yield "wrong contrast", conditioned(told, prompts(other, slices), encoder)
    yield "all wrong", conditioned(told, prompts(other, slices, lie=True), encoder)
    yield "prior without prompts", plain


def quality(recipe: ReconstructRecipe, measured: Measured, prior: Prior, seed: int) -> float:
    solver = recipe.solver.build()
    device = choose_device(recipe.device)
    measured, prior = measured.to(device), prior.to(device)
    rng = torch.Generator().manual_seed(seed)
    assert measured.reference is not None
    return psnr(solver(measured.problem, prior, rng=rng).cpu(), measured.reference)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prior", help="a checkpoint instead of the recipe's")
    parser.add_argument("--contrasts", nargs="+", default=CONTRASTS, choices=CONTRASTS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--slices", type=int, nargs=2, default=(8, 24))
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--told", default="", help="only what matches this expression, and none")
    parser.add_argument("--set", nargs="*", default=[], help="other settings of the recipe")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    slices = (args.slices[0], args.slices[1])
    recipe = load_reconstruct_recipe("mri-brain-contextmri", [
        f"measurement.slices={list(slices)}", f"solver.steps={args.steps}", *args.set])
    told, plain = load_prior(args.prior or str(recipe.prior)), load_prior("brain-mr-2d")
    assert isinstance(told, NetworkPrior)
    scores: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for contrast in args.contrasts:
            path = Path(folder, f"{contrast}.nii.gz")
            write_contrast(contrast, path)
            for seed in range(args.seeds):
                measured = measure_recipe(recipe.model_copy(update={"seed": seed}), path)
                for title, prior in priors(told, plain, contrast, slices):
                    if title != "none" and not re.search(args.told, title):
                        continue
                    score = quality(recipe, measured, prior, seed)
                    scores.setdefault((contrast, title), []).append(score)
                    print(contrast, seed, title, f"{score:.2f}", flush=True)
    text = table(scores, args.contrasts)
    print(text)
    if args.output:
        args.output.write_text(text, encoding="utf-8")


def table(scores: dict[tuple[str, str], list[float]], contrasts: tuple[Contrast, ...]) -> str:
    """PSNR, mean and standard deviation over seeds; and how much each differs from none."""
    titles = list(dict.fromkeys(title for _, title in scores))
    lines = [f"| told | {' | '.join(contrasts)} | all, minus none |",
             "|---" * (len(contrasts) + 2) + "|"]
    for title in titles:
        cells = []
        for contrast in contrasts:
            values = torch.tensor(scores[contrast, title])
            cells.append(f"{values.mean():.2f} ± {values.std():.2f}")
        gains = torch.tensor([[a - b for a, b in zip(scores[c, title], scores[c, "none"],
                                                     strict=True)] for c in contrasts]).flatten()
        cells.append(f"{gains.mean():+.2f} ± {gains.std():.2f}")
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
