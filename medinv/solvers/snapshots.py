"""Where `medinv.samplers.snapshots` was before."""

from medinv.samplers.snapshots import Resumable, Snapshots, Stateful

__all__ = ["Resumable", "Snapshots", "Stateful"]
