"""Damage thousands of files of every kind that medinv reads, and count what goes wrong.

    PYTHONPATH=. nice python benchmarks/fuzz.py --files 10000

Each kind is read in a process of its own, which is watched from outside: a file that takes longer
than the limit is counted and the process started anew behind it, as after a crash. Counted are
errors that are not medinv's, crashes, files over 20 s of computing (or 60 s on the clock) and over
4 GiB. Files are reproducible: the same numbers damage the same bytes. Prints a Markdown table, and
a line for each failure.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from medinv.errors import MedinvError
from medinv.resources import measure
from tests.data.fuzz_readers import Reader, readers
from tests.data.fuzzing import mutations

SECONDS, WALL_SECONDS, GIB = 20.0, 60.0, 4.0


@dataclass(frozen=True)
class End:
    """How the reading of one damaged file ended."""

    kind: str  # read, refused, foreign, crash, slow, large
    told: str = ""
    seconds: float = 0.0
    gib: float = 0.0


def damaged_files(reader: Reader, n: int, run: int) -> Iterator[tuple[str, bytes]]:
    """``n`` files of one kind, from its seeds in turn."""
    with tempfile.TemporaryDirectory() as folder:
        seeds = reader.seeds(Path(folder))
    for seed in seeds:
        if (end := read(reader, seed)).kind != "read":  # of damaged ones, nothing would be learned
            raise SystemExit(f"{reader.name}: a sound file was not read: {end}")
    streams = [mutations(seed, n, 1000 * run + i) for i, seed in enumerate(seeds)]
    for i in range(n):
        which = i % len(seeds)
        yield f"file {i // len(seeds)} of seed {which}, run {run}", next(streams[which])


def read(reader: Reader, content: bytes) -> End:
    """Read one file, measured."""
    kind, told, start = "read", "", time.process_time()
    with tempfile.TemporaryDirectory() as folder, measure() as cost:
        path = Path(folder, f"file{reader.suffix}")
        path.write_bytes(content)
        try:
            reader.read(path)
        except MedinvError:
            kind = "refused"
        except BaseException as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            kind = "foreign"
            told = (f"{type(error).__name__}: {str(error)[:100]!r} "
                    f"({Path(last.filename).name}:{last.lineno})")
    seconds, gib = time.process_time() - start, cost.peak_bytes / 2**30
    if kind != "foreign" and (seconds > SECONDS or gib > GIB):
        kind, told = ("slow" if seconds > SECONDS else "large"), f"{seconds:.1f} s, {gib:.1f} GiB"
    return End(kind, told, seconds, gib)


def work(reader: Reader, n: int, run: int, first: int, sender: Connection) -> None:
    """In a process of its own: read the files from ``first`` on, and tell each end."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for _, content in islice(damaged_files(reader, n, run), first, None):
        sender.send(read(reader, content))
    sender.close()


def watched(reader: Reader, n: int, run: int) -> list[End]:
    """The ends of all files of a kind."""
    ends: list[End] = []
    context = multiprocessing.get_context("fork")
    while len(ends) < n:
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=work, args=(reader, n, run, len(ends), sender))
        process.start()
        sender.close()
        try:
            while len(ends) < n:
                if not receiver.poll(WALL_SECONDS):
                    ends.append(End("slow", "killed", WALL_SECONDS))
                    break
                ends.append(receiver.recv())
        except EOFError:
            process.join()
            ends.append(End("crash", f"exit code {process.exitcode}"))
        process.kill()
        process.join()
    return ends


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=10_000, help="in all, over all kinds")
    parser.add_argument("--run", type=int, default=0, help="another number damages otherwise")
    parser.add_argument("--only", help="kinds whose name holds this")
    options = parser.parse_args()
    chosen = [reader for reader in readers() if (options.only or "") in reader.name]
    n = -(-options.files // len(chosen))
    kinds = ("read", "refused", "foreign", "crash", "slow", "large")
    sys.stdout.write(f"| reader | files | {' | '.join(kinds)} | slowest, s | most, GiB |\n"
                     f"|{'---|' * (len(kinds) + 4)}\n")
    total: Counter[str] = Counter()
    told: list[str] = []
    for reader in chosen:
        ends = watched(reader, n, options.run)
        count = Counter(end.kind for end in ends)
        total += count
        sys.stdout.write(f"| {reader.name} | {len(ends)} | "
                         f"{' | '.join(str(count[kind]) for kind in kinds)} | "
                         f"{max(end.seconds for end in ends):.1f} | "
                         f"{max(end.gib for end in ends):.2f} |\n")
        sys.stdout.flush()
        told += [f"{reader.name}, number {i}: {end.kind}: {end.told}"
                 for i, end in enumerate(ends) if end.told]
    sys.stdout.write(f"| all | {total.total()} | "
                     f"{' | '.join(str(total[kind]) for kind in kinds)} | | |\n\n")
    sys.stdout.write("".join(f"- {line}\n" for line in told))


if __name__ == "__main__":
    main()
