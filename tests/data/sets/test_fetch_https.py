"""Downloads against a server on this machine: continued, verified, never half installed."""

from __future__ import annotations

import hashlib
import io
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from medinv.data.sets import download as downloading
from medinv.data.sets.check import check
from medinv.data.sets.fetch import fetch
from medinv.data.sets.manifests import Collection, DataFile, Manifest
from medinv.errors import DataError, DownloadError

CONTENT = bytes(range(256)) * 400


class Server(ThreadingHTTPServer):
    """Serves `CONTENT`, and can be told to misbehave."""

    daemon_threads = True
    content = CONTENT
    etag = '"one"'
    ranges = True  # whether Range is honoured
    cut_after: int | None = None  # close every connection after so many bytes
    status = 200
    redirect: str | None = None
    length = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[str | None] = []
        self.sent = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/file.bin"


class Handler(BaseHTTPRequestHandler):
    """One request; see `Server`."""

    server: Server

    def do_GET(self) -> None:
        server, wanted = self.server, self.headers.get("Range")
        server.requests.append(wanted)
        if server.redirect or server.status != 200:
            self.send_response(302 if server.redirect else server.status)
            self.send_header("Location", server.redirect or "")
            self.end_headers()
            return
        start = 0
        matches = self.headers.get("If-Range") in (None, server.etag)
        if wanted and server.ranges and matches:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            self.send_response(206)
            total = len(server.content)
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        else:
            self.send_response(200)
        body = server.content[start:]
        if server.length:
            self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", server.etag)
        self.end_headers()
        body = body[: server.cut_after]
        server.sent += len(body)
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch, tmp_path) -> Iterator[Server]:
    monkeypatch.setattr(downloading, "_SCHEMES", ("http",))
    monkeypatch.setattr(downloading, "_PAUSE_SECONDS", 0.0)
    monkeypatch.setenv("MEDINV_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MEDINV_SHARED_DATA", raising=False)
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def manifest(server: Server, **known: object) -> Manifest:
    """A set of one file; its address is put in after the validation that allows https alone."""
    whole = Manifest.model_validate({
        "name": "served", "title": "A test", "modality": "CT", "licence": "MIT",
        "source": "https://example.org", "access": {"kind": "https"},
        "files": {"image": {"path": "file.bin", "url": "https://example.org/f", **known}},
        "geometry": {"shape": [1], "axes": ["i"], "unit": "HU"},
    })
    file: DataFile = whole.files["image"].model_copy(update={"url": server.url})
    return whole.model_copy(update={"files": {"image": file}})


def checksums(algorithm: str = "sha256") -> dict[str, object]:
    return {"size": len(CONTENT), algorithm: hashlib.new(algorithm, CONTENT).hexdigest()}


@pytest.mark.parametrize("known", [{}, checksums(), checksums("md5")])
@pytest.mark.parametrize("progress", [False, True])
def test_download_once(server, tmp_path, known, progress):
    path = fetch(manifest(server, **known), None, progress=progress)["image"]
    assert path == tmp_path / "cache" / "served" / "file.bin"
    assert path.read_bytes() == CONTENT
    assert [file.name for file in path.parent.iterdir()] == ["file.bin"]
    assert fetch(manifest(server, **known), None, progress=progress)["image"] == path
    assert server.requests == [None]


def test_a_partial_file_continues_and_nothing_is_sent_twice(server, tmp_path):
    server.cut_after = 30_000
    fetch(manifest(server, **checksums()), None, progress=False)
    assert server.requests[:3] == [None, "bytes=30000-", "bytes=60000-"]
    assert server.sent == len(CONTENT)


def test_a_killed_download_continues_in_the_next_run(server, tmp_path, monkeypatch):
    folder = tmp_path / "cache" / "served"
    folder.mkdir(parents=True)
    (folder / "file.bin.partial").write_bytes(CONTENT[:1000])
    path = fetch(manifest(server, **checksums()), None, progress=False)["image"]
    assert path.read_bytes() == CONTENT
    assert server.requests == ["bytes=1000-"]


def test_a_server_without_ranges_starts_again(server, tmp_path):
    server.ranges = False
    partial = tmp_path / "file.partial"
    partial.write_bytes(b"x" * 1000)
    downloading.download(server.url, partial)
    assert partial.read_bytes() == CONTENT


def test_two_versions_of_a_file_are_never_joined(server, tmp_path):
    partial = tmp_path / "file.partial"
    server.cut_after = 30_000
    server.ranges = False
    with pytest.raises(DownloadError, match="cut off after 30000 bytes.*again to continue"):
        downloading.download(server.url, partial)
    server.cut_after, server.ranges, server.etag = None, True, '"two"'
    server.content = CONTENT[::-1]
    downloading.download(server.url, partial)
    assert partial.read_bytes() == CONTENT[::-1]


def test_a_wrong_checksum_leaves_nothing(server, tmp_path):
    server.content = CONTENT[::-1]
    with pytest.raises(DownloadError, match="not what was expected.*sha256"):
        fetch(manifest(server, **checksums()), None, progress=False)
    assert list((tmp_path / "cache" / "served").iterdir()) == []


def test_another_size_is_refused_before_it_is_downloaded(server):
    server.content = CONTENT + b"more"
    with pytest.raises(DownloadError, match="expected 102400 bytes, the server offers 102404"):
        fetch(manifest(server, **checksums()), None, progress=False)
    server.length = False
    with pytest.raises(DownloadError, match="sent more than the 102400 bytes"):
        fetch(manifest(server, **checksums()), None, progress=False)


def test_only_the_wanted_roles(server):
    whole = manifest(server)
    other = whole.files["image"].model_copy(update={"path": "other.bin"})
    both = whole.model_copy(update={"files": {"image": whole.files["image"], "other": other}})
    assert list(both.fetch(only=["other"])) == ["other"]
    assert len(server.requests) == 1
    with pytest.raises(DataError, match="no role nothing; it has image, other"):
        both.fetch(only=["nothing"])


def test_an_archive_is_unpacked_once(server, tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("sub/one.npy", b"1")
    server.content = buffer.getvalue()
    packed = manifest(server, unpack="content")
    packed = packed.model_copy(update={"collections": {
        "arrays": Collection(pattern="content/**/*.npy")}})
    folder = tmp_path / "cache" / "served"
    assert packed.fetch(progress=True)["arrays"] == folder
    (folder / "content/sub/one.npy").write_bytes(b"2")
    (folder / "file.bin").unlink()  # what was unpacked is enough
    assert packed.fetch()["image"] == folder / "content"
    assert (folder / "content/sub/one.npy").read_bytes() == b"2"
    assert len(server.requests) == 1
    assert check(packed, folder) == []


def test_errors_of_the_server(server, tmp_path):
    server.status = 404
    with pytest.raises(DownloadError, match="answered 404"):
        downloading.download(server.url, tmp_path / "p")
    assert len(server.requests) == 1
    server.status = 503
    with pytest.raises(DownloadError, match="cut off after 0 bytes"):
        downloading.download(server.url, tmp_path / "p")
    assert len(server.requests) == 6


def test_only_https(server, tmp_path, monkeypatch):
    server.redirect = "ftp://example.org/file"
    with pytest.raises(DownloadError, match="over https only"):
        downloading.download(server.url, tmp_path / "p")
    monkeypatch.undo()
    for url in ("http://example.org/a", "file:///etc/passwd"):
        with pytest.raises(DownloadError, match="over https only"):
            downloading.download(url, tmp_path / "p")
