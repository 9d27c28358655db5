"""Put pip into a virtual environment of a Python without ensurepip (Debian lacks python3-venv).

Usage: python .ci/bootstrap_pip.py .venv/bin/python

Only the standard library is used. The wheel comes from PyPI, its checksum is pinned, and it
installs itself: a pip wheel is a program.
"""

import hashlib
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

WHEEL = "pip-25.3-py3-none-any.whl"
FOLDER = "44/3c/d717024885424591d5376220b5e836c2d5293ce2011523c9de23ff7bf068"
URL = f"https://files.pythonhosted.org/packages/{FOLDER}/{WHEEL}"
SHA256 = "9655943313a94722b7774661c21049070f6bbb0a1516bf02f7c8d5d9201514cd"


def main(python: str) -> None:
    """Install pip for the interpreter ``python``."""
    with urllib.request.urlopen(URL, timeout=60) as response:
        content = response.read()
    if hashlib.sha256(content).hexdigest() != SHA256:
        sys.exit(f"{URL}: the checksum is not {SHA256}; nothing was installed")
    with tempfile.TemporaryDirectory() as folder:
        wheel = Path(folder, WHEEL)
        wheel.write_bytes(content)
        pip = [python, str(wheel / "pip"), "install", "--quiet", "--no-index", str(wheel)]
        subprocess.run(pip, check=True)


if __name__ == "__main__":
    main(sys.argv[1])
