"""The public check: right operators pass, each broken promise is found and named."""

from __future__ import annotations

import json

import pytest
import torch

from medinv.errors import ShapeError
from medinv.operators import Identity, LinearOperator, Magnitude, Operator, check
from medinv.operators.base import Space
from tests.cases import DOUBLE, NONLINEAR, OPERATORS, SINGLE, mri

MIXED = [case for case in OPERATORS if case.name == "mri-known-phase"]  # real to complex
SPACE = Space((4, 6), SINGLE, ("y", "x"))


@pytest.mark.parametrize("case", OPERATORS[::6] + MIXED + NONLINEAR, ids=lambda case: case.name)
@pytest.mark.parametrize("dtype", [SINGLE, DOUBLE], ids=["single", "double"])
def test_the_operators_of_the_table_pass(case, dtype):
    report = check(case.make(dtype))
    assert report.passed, str(report)
    assert len(report.costs) == 3


class Broken(LinearOperator):
    """Twice the input, with one broken promise."""

    def __init__(self, flaw):
        super().__init__(SPACE, SPACE)
        self.flaw = flaw

    def _forward(self, x):
        if self.flaw == "linear":
            return 2 * x.abs()
        if self.flaw == "batch":
            return 2 * x + x.sum()
        if self.flaw == "output":
            return (2 * x).double()
        if self.flaw == "input":
            return x.mul_(2)
        return 2 * x

    def _adjoint(self, y):
        return (2.001 if self.flaw == "adjoint" else 2) * y

    def _normal(self, x):
        return (3.99 if self.flaw == "normal" else 4) * x

    def norm(self):
        return 1.9 if self.flaw == "norm" else 2.0


@pytest.mark.parametrize("flaw", ["adjoint", "linear", "batch", "output", "input", "normal",
                                  "norm"])
def test_a_broken_promise_is_found(flaw):
    report = check(Broken(flaw))
    assert not report.passed
    assert flaw in [item.name for item in report.properties if not item.passed]
    assert "FAIL" in str(report)
    assert check(Broken("none")).passed


class WrongSlope(Operator):
    """A square with a derivative of the wrong size."""

    def __init__(self):
        super().__init__(SPACE, SPACE)

    def _forward(self, x):
        return x.square()

    def linearize(self, x):  # noqa: ARG002
        return 2.0 * Identity((4, 6))


def test_a_wrong_derivative_is_found():
    failed = [item.name for item in check(WrongSlope()).properties if not item.passed]
    assert failed == ["backward", "forward mode", "derivative"]


def test_report_prints_two_tables_and_plain_data():
    report = check(mri((3, 5, 6), (5, 6))(SINGLE))
    lines = str(report).splitlines()
    assert lines[0].startswith("CartesianMRI: (*batch, y 5, x 6) complex64 -> (*batch, coil 3, ky")
    assert "on cpu, norm 0.9" in lines[0]
    tables = [line for line in lines if line.startswith("|")]
    assert len({line.count("|") for line in tables}) == 2
    assert json.loads(json.dumps(report.facts()))["properties"]["adjoint"]["passed"]


def test_tolerance_and_point_are_arguments(rng):
    A = mri((3, 5, 6), (5, 6))(SINGLE)
    assert not check(A, tolerance=0.0).passed
    at = torch.ones(4, 4, dtype=torch.complex64)
    assert check(Magnitude(Identity((4, 4), torch.complex64)), at=at).passed
    with pytest.raises(ShapeError, match="expected"):
        check(A, at=torch.zeros(2, 2, dtype=torch.complex64))
