"""A solver that is interrupted and goes on ends where it would have ended, bit by bit."""

import pytest
import torch

from medinv.errors import CheckpointError
from medinv.guidance import Adaptation
from medinv.priors import NetworkPrior, ProductPrior, SlicePrior, UNet
from medinv.problem import Problem
from medinv.samplers.snapshots import Snapshots
from medinv.solvers import DDIP, DDS, SCD, TPDM, DiffusionMBIR, PaDIS
from tests.solvers.matrix_operator import random_image, random_operator

STEPS = 5
ADAPTATION = Adaptation(rank=2, inner_steps=1, slices=2)
# An optimiser and random numbers that live on from level to level.
REMEMBERING = Adaptation(rank=2, inner_steps=2, slices=2, every=2, fresh_optimizer=False,
                         held_out=0.2, learning_rate=1e-2)
NOISY = {"noise_aware": True, "gamma": 2.0}
SOLVERS = {
    "dds": DDS(steps=STEPS),
    "dds-noisy-ddim": DDS(steps=STEPS, ddim=True, **NOISY),
    "dds-coupled": DDS(steps=STEPS, z_weight=0.01, eta=1.0, shared_noise=True, **NOISY),
    "mbir": DiffusionMBIR(steps=STEPS),
    "mbir-all-axes": DiffusionMBIR(steps=STEPS, axes=(-3, -2, -1)),
    "mbir-without-sharing": DiffusionMBIR(steps=STEPS, sharing=False, sweeps=2),
    "tpdm": TPDM(steps=STEPS),
    "tpdm-random-turns": TPDM(steps=STEPS, K=1.7),
    "padis": PaDIS(steps=STEPS, inner_steps=2),
    "ddip": DDIP(DDS(steps=STEPS), ADAPTATION),
    "ddip-coupled": DDIP(DDS(steps=STEPS, z_weight=0.01, **NOISY), REMEMBERING),
    "ddip-mbir": DDIP(DiffusionMBIR(steps=STEPS), REMEMBERING),
    "scd": SCD(steps=STEPS, adaptation=REMEMBERING),
}


class Stopped(Exception):
    pass


def prior_of(solver):
    torch.manual_seed(0)
    network = UNet(1, widths=(16, 16), blocks=(1, 1), embedding=16)
    for parameter in network.parameters():  # an untrained network's last layers are 0
        torch.nn.init.normal_(parameter, std=0.1)
    prior = NetworkPrior(network, 0.5).eval().requires_grad_(False)
    if isinstance(solver, TPDM):
        return ProductPrior([SlicePrior(prior), SlicePrior(prior, -2)])
    return prior


def problem(*batch):
    A = random_operator(20, (6, 8), torch.float32)
    return A(random_image((*batch, 3, 6, 8), torch.float32)), A


def run(solver, folder=None, stop=None, *, error=Stopped, seed=3, batch=()):
    """The solver's image; ``stop`` is how often it calls back before an error."""
    calls = []

    def on_step(i, _):
        calls.append(i)
        if len(calls) == stop:
            raise error

    y, A = problem(*batch)
    snapshots = folder and Snapshots(folder, "fingerprint", minutes=0)
    x = solver(Problem(y, A, noise_std=0.1), prior_of(solver),
               rng=torch.Generator().manual_seed(seed),
               on_step=on_step,
               snapshots=snapshots)
    return x, calls


@pytest.mark.parametrize("name", SOLVERS)
def test_an_interrupted_solver_goes_on_bit_for_bit(name, tmp_path):
    solver = SOLVERS[name]
    whole, _ = run(solver)
    with pytest.raises(Stopped):
        run(solver, tmp_path, stop=3)  # within the third step, of which nothing is kept
    resumed, steps = run(solver, tmp_path)
    assert steps == [2, 3, 4]
    assert torch.equal(resumed, whole)


@pytest.mark.parametrize("stop", range(1, STEPS + 1))
def test_at_every_step_and_more_than_once(stop, tmp_path):
    solver = SOLVERS["ddip-coupled"]
    with pytest.raises(KeyboardInterrupt):
        run(solver, tmp_path, stop=stop, error=KeyboardInterrupt)
    with pytest.raises(Stopped):
        run(solver, tmp_path, stop=1)  # nothing new: the same step again
    assert torch.equal(run(solver, tmp_path)[0], run(solver)[0])


def test_without_a_generator_the_global_one_is_kept(tmp_path):
    y, A = problem()
    solver = DDS(steps=STEPS)
    prior = prior_of(solver)

    def stop(i, _):
        if i == 2:
            raise Stopped

    torch.manual_seed(7)
    whole = solver(Problem(y, A), prior)
    snapshots = Snapshots(tmp_path, "fingerprint", minutes=0)
    torch.manual_seed(7)
    with pytest.raises(Stopped):
        solver(Problem(y, A), prior, on_step=stop, snapshots=snapshots)
    torch.manual_seed(8)
    assert torch.equal(solver(Problem(y, A), prior, snapshots=snapshots), whole)


def test_finished_volumes_of_a_batch_are_not_computed_again(tmp_path):
    solver = SOLVERS["ddip"]
    whole, _ = run(solver, batch=(2,))
    with pytest.raises(Stopped):
        run(solver, tmp_path, stop=STEPS + 3, batch=(2,))
    resumed, steps = run(solver, tmp_path, batch=(2,))
    assert steps == [2, 3, 4]  # of the second volume
    assert torch.equal(resumed, whole)


def test_a_snapshot_is_kept_only_when_it_is_due(tmp_path):
    solver, (y, A) = DDS(steps=3), problem()
    solver(Problem(y, A), prior_of(solver), snapshots=Snapshots(tmp_path / "run", "a", minutes=60))
    assert not (tmp_path / "run").exists()


def test_snapshots_of_another_run_and_damaged_ones_are_refused(tmp_path):
    snapshots = Snapshots(tmp_path / "run", "a", minutes=0)
    snapshots.save("loop", {"step": 1})
    with pytest.raises(CheckpointError, match="a snapshot of another run: recipe, input"):
        Snapshots(tmp_path / "run", "b").load("loop")
    path = tmp_path / "run" / "loop.snapshot"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(CheckpointError, match="cannot be read .* start anew without --resume"):
        snapshots.load("loop")
    snapshots.clear()
    assert not path.parent.exists()
    assert snapshots.load("loop") is None
