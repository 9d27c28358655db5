"""Memory that the process keeps: fewer page faults, in commands and on request only."""

import platform
import subprocess
import sys

import pytest

import medinv.allocator
from medinv.cli import main

CHURN = """
import resource
import medinv, numpy
{before}
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def make(): # 16 MiB, of which every page is touched
    numpy.empty(2**24, numpy.uint8)[::4096] = 1
make()
start = faults()
for _ in range(20):
    make()
print(faults() - start)
"""
glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone can be told")


def page_faults(before):
    done = subprocess.run([sys.executable, "-c", CHURN.format(before=before)], check=True,
                          capture_output=True, text=True)
    return int(done.stdout)


@glibc
def test_kept_memory_is_not_mapped_again():
    """Twenty times the same array: the first costs 4096 faults (8 of huge pages), the rest none
    (but for a few of Python's own).

    Importing medinv changes nothing.
    """
    assert page_faults("assert medinv.keep_memory()") < 20
    assert page_faults("") >= 20 * 8


@pytest.mark.parametrize("library", [object(), None], ids=["another C library", "no Linux"])
def test_other_systems_are_left_alone(monkeypatch, library):
    if library is None:
        monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(medinv.allocator.ctypes, "CDLL", lambda _: library)
    assert medinv.keep_memory() is False


def test_commands_keep_memory(monkeypatch):
    called = []
    monkeypatch.setattr("medinv.cli.keep_memory", lambda: called.append(True))
    monkeypatch.setattr("medinv.cli.app", lambda: None)
    main()
    assert called == [True]
