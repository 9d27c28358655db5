"""How good and how expensive a reconstruction is, in numbers, pictures and one report."""

from medinv.evaluation.figure import comparison, gallery, planes, write_comparison
from medinv.evaluation.metrics import measurement_residual, nrmse, psnr, ssim
from medinv.evaluation.report import Provenance, render_report, write_report
from medinv.resources import Resources, measure

__all__ = [
    "Provenance",
    "Resources",
    "comparison",
    "gallery",
    "measure",
    "measurement_residual",
    "nrmse",
    "planes",
    "psnr",
    "render_report",
    "ssim",
    "write_comparison",
    "write_report",
]
