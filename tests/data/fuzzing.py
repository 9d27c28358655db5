"""Damaged files for readers: each gives a medinv error or a right-typed answer, in time.

    assert_survives(read_nifti, ".nii", [path.read_bytes()], 200, answer=Volume)

The damage is reproducible: mutation ``i`` of a seed file is the same in every run. The environment
variable ``MEDINV_FUZZ`` sets the number of files per reader (the full check takes 2000).
"""

from __future__ import annotations

import itertools
import os
import random
import re
import resource
import signal
import struct
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from medinv.errors import MedinvError

SECONDS = 20  # a tiny file is read in milliseconds; this leaves room for a loaded machine
SPARE_BYTES = 3 * 2**30  # what a reader may allocate for a tiny file before it counts as a bomb

_ABSURD = tuple(
    struct.pack(order + code, value)
    for order in "<>"
    for code, values in {
        "B": (0, 127, 255),
        "h": (0, -1, 32767, -32768),
        "i": (0, -1, 2**31 - 1, -(2**31)),
        "q": (0, -1, 2**63 - 1, -(2**63)),
        "f": (0.0, -1.0, float("nan"), float("inf"), 3e38),
        "d": (0.0, -1.0, float("nan"), float("-inf"), 1e308),
    }.items()
    for value in values
)


_WORD = re.compile(rb"[\w.+-]+")
_ABSURD_WORDS = (
    b"", b"null", b"-1", b"0", b"1e999", b".nan", b"-.inf", b"0x" + b"f" * 300, b"9" * 5000, b"{}",
    b"[" * 3000, b"[[[]]]", b"&a [*a]", b"&a x",
    b"*a", b"'", b'"', b'"\\ud800"', b"\xff\xfe", b"\0",
    b"2026-99-99", b"!!python/object:os.system", b"../../x", b"/etc/passwd", b": :", b"true",
    b"NaN", b"Infinity", b'{"a": 1}', b"1e308", b"999999999999",
)


def mutations(seed_bytes: bytes, n: int, seed: int) -> Iterator[bytes]:
    """``n`` damaged copies of a file: cut off, with flipped bits, spliced, with absurd values."""
    damages = (_cut, _flip, _splice, _overwrite, _erase)
    damages += (_replace_word,) * len(damages) if is_text(seed_bytes) else ()
    for i in range(n):
        rng = random.Random(f"{seed}-{i}")
        damaged = bytearray(seed_bytes)
        for _ in range(rng.choice((1, 1, 2, 4))):
            rng.choice(damages)(damaged, rng)
        yield bytes(damaged)


def assert_survives(
    read: Callable[[Path], object],
    suffix: str,
    seeds: Sequence[bytes],
    n: int,
    *,
    answer: type | tuple[type, ...] = object,
) -> None:
    """Read ``n`` damaged files made from ``seeds``; ``MEDINV_FUZZ`` overrides ``n``.

    Warnings are let pass. A reader may not take more than `SECONDS` or `SPARE_BYTES`.

    Args:
        read: takes the path of a damaged file.
        suffix: of its name, such as ``.nii.gz``.
        seeds: contents of sound files.
        n: damaged files in all.
        answer: what ``read`` may return.
    """
    for content in seeds:
        _read(read, suffix, content)  # a sound file reads, or the test would show nothing
    n = int(os.environ.get("MEDINV_FUZZ", n))
    files = [mutations(content, n, seed) for seed, content in enumerate(seeds)]
    for i, content in enumerate(itertools.islice(_in_turn(files), n)):
        name = f"damaged file {i // len(seeds)} of seed {i % len(seeds)}, {len(content)} bytes"
        try:
            with _limits():
                result = _read(read, suffix, content)
        except MedinvError:
            continue
        except BaseException as error:
            raise AssertionError(f"{name}: {type(error).__name__}: {error}") from error
        assert isinstance(result, answer), f"{name}: got {type(result).__name__}"


def _read(read: Callable[[Path], object], suffix: str, content: bytes) -> object:
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder, f"file{suffix}")
        path.write_bytes(content)
        return read(path)


def _in_turn(files: Sequence[Iterator[bytes]]) -> Iterator[bytes]:
    return itertools.chain.from_iterable(zip(*files, strict=True))


@contextmanager
def _limits() -> Iterator[None]:
    """Raise `TimeoutError` or `MemoryError` where a reader takes too much."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"the reader took more than {SECONDS} s")

    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    handler = signal.signal(signal.SIGALRM, stop)
    resource.setrlimit(resource.RLIMIT_AS, (used + SPARE_BYTES, before[1]))
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
        resource.setrlimit(resource.RLIMIT_AS, before)


def _place(content: bytearray, rng: random.Random) -> int:
    """A position; headers stand in front, so half of the damage falls into the first 512 bytes."""
    end = len(content) if rng.random() < 0.5 else min(len(content), 512)
    return rng.randrange(end) if end else 0


def _cut(content: bytearray, rng: random.Random) -> None:
    del content[_place(content, rng):]


def _flip(content: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 4, 16))):
        if content:
            content[_place(content, rng)] ^= 1 << rng.randrange(8)


def _splice(content: bytearray, rng: random.Random) -> None:
    """Copy one block of the file over another, or between two bytes of it."""
    start, size, at = _place(content, rng), rng.choice((1, 4, 64, 1024)), _place(content, rng)
    block = content[start:start + size]
    content[at:at + rng.choice((0, len(block)))] = block


def _overwrite(content: bytearray, rng: random.Random) -> None:
    at, number = _place(content, rng), rng.choice(_ABSURD)
    at -= at % rng.choice((1, len(number)))  # numbers often stand at multiples of their size
    content[at:at + len(number)] = number


def is_text(content: bytes) -> bool:
    """Whether a file is text, of which words are replaced as well as bytes."""
    return content.isascii() and content.decode("ascii").replace("\n", "").isprintable()


def _replace_word(content: bytearray, rng: random.Random) -> None:
    words = list(_WORD.finditer(bytes(content)))
    if words:
        word = rng.choice(words)
        content[word.start():word.end()] = rng.choice(_ABSURD_WORDS)


def _erase(content: bytearray, rng: random.Random) -> None:
    at, size = _place(content, rng), rng.choice((1, 8, 128))
    content[at:at + size] = bytes(rng.choice((0, size)))
