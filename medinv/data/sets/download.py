"""One file over https: a download that was cut off continues where it stopped.

pooch downloads from the start every time, so the transfer is written here: a ``Range`` request
(RFC 9110, section 14) for what is missing of a partial file, guarded by ``If-Range`` so that two
versions of a file are never joined.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from medinv.errors import DownloadError

if TYPE_CHECKING:
    from http.client import HTTPResponse

_SCHEMES: tuple[str, ...] = ("https",)
_BLOCK = 1 << 20
_TIMEOUT_SECONDS = 60
_TRIES = 5
_PAUSE_SECONDS = 1.0

OnBytes = Callable[[int, int | None], None]


class _SameScheme(HTTPRedirectHandler):
    """Follow redirects, but never from https to an address that anyone on the way can change."""

    def redirect_request(  # noqa: D102  (documented by the class it overrides)
        self, req: Request, fp: Any, code: int, msg: str, headers: HTTPMessage,  # noqa: ANN401
        newurl: str,
    ) -> Request | None:
        _check_scheme(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check_scheme(url: str) -> None:
    if urlsplit(url).scheme not in _SCHEMES:
        raise DownloadError(f"{url}: expected an https address; medinv downloads over https only")


def download(url: str, partial: Path, *, size: int | None = None,
             on_bytes: OnBytes | None = None) -> None:
    """Complete ``partial`` from ``url``; what it already holds is not transferred again.

    Args:
        url: an https address.
        partial: the file to write; it stays, to be continued, if the download is cut off.
        size: bytes of the whole file, where known.
        on_bytes: called with the bytes held so far and the total, where the server says it.

    Raises:
        DownloadError: no answer, an answer of another size, or cut off five times in a row.
    """
    _check_scheme(url)
    partial.parent.mkdir(parents=True, exist_ok=True)
    failures = 0
    while failures < _TRIES:
        before = _held(partial)
        if size is not None and before == size:
            return
        try:
            if _transfer(url, partial, size, on_bytes):
                return
            reason = "the connection was closed early"
        except (OSError, HTTPException) as error:
            reason = _reason(url, error)
        failures = failures + 1 if _held(partial) <= before else 1
        time.sleep(_PAUSE_SECONDS)
    raise DownloadError(
        f"{url}: cut off after {_held(partial)} bytes ({reason}); run the same command again to "
        "continue"
    )


def forget(partial: Path) -> None:
    """Remove a partial file and what is known of it, so that the next download starts afresh."""
    for path in (partial, _tag_file(partial)):
        path.unlink(missing_ok=True)


def _transfer(url: str, partial: Path, size: int | None, on_bytes: OnBytes | None) -> bool:
    """Append what one connection gives; True if the file is whole."""
    start = _held(partial)
    with build_opener(_SameScheme).open(_request(url, partial), timeout=_TIMEOUT_SECONDS) as reply:
        continues = reply.status == 206 and _first_byte(reply) == start
        held = start if continues else 0
        total = _total(reply, held)
        if size is not None and total not in (None, size):
            raise DownloadError(
                f"{url}: expected {size} bytes, the server offers {total}; it may be another "
                "version than the manifest was written for"
            )
        if not continues:
            _tag_file(partial).write_text(reply.headers.get("ETag", ""), encoding="utf-8")
        limit = size if size is not None else total
        with partial.open("ab" if continues else "wb") as file:
            while block := reply.read(_BLOCK):
                held += file.write(block)
                if limit is not None and held > limit:
                    raise DownloadError(f"{url}: sent more than the {limit} bytes it should hold")
                if on_bytes is not None:
                    on_bytes(held, limit)
    return limit is None or held == limit


def _request(url: str, partial: Path) -> Request:
    headers = {"User-Agent": "medinv", "Accept-Encoding": "identity"}
    if start := _held(partial):
        headers["Range"] = f"bytes={start}-"
        tag = _tag_file(partial)
        if tag.is_file() and (value := tag.read_text(encoding="utf-8")).startswith('"'):
            headers["If-Range"] = value
    return Request(url, headers=headers)


def _reason(url: str, error: OSError | HTTPException) -> str:
    """What a broken transfer says; an error that will not pass is raised at once."""
    if isinstance(error, HTTPError) and error.code < 500 and error.code not in (408, 429):
        raise DownloadError(
            f"{url}: the server answered {error.code} {error.reason}; check the address on the "
            "data set's page"
        ) from error
    return str(error.reason if isinstance(error, URLError) else error)


def _held(partial: Path) -> int:
    return partial.stat().st_size if partial.is_file() else 0


def _tag_file(partial: Path) -> Path:
    return partial.with_name(partial.name + ".etag")


def _first_byte(reply: HTTPResponse) -> int | None:
    match = re.match(r"bytes (\d+)-", reply.headers.get("Content-Range", ""))
    return int(match[1]) if match else None


def _total(reply: HTTPResponse, held: int) -> int | None:
    length = reply.headers.get("Content-Length", "")
    return held + int(length) if length.isdigit() else None
