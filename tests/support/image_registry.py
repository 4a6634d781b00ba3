"""A registry of one image, from which the engine pulls by digest (OCI distribution 1.1, pulling alone)."""

from __future__ import annotations

import hashlib
import json
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"


def _blobs(archive: Path, directory: Path) -> tuple[bytes, dict[str, Path]]:
    """Return the manifest of the image in an archive of ``docker save``, and its blobs by digest."""
    with tarfile.open(archive) as saved:
        saved.extractall(directory, filter="data")
    (listed,) = json.loads((directory / "manifest.json").read_text())
    blobs: dict[str, Path] = {}

    def described(name: str, kind: str) -> dict[str, Any]:
        path = (directory / name).resolve()
        with path.open("rb") as stream:
            digest = "sha256:" + hashlib.file_digest(stream, "sha256").hexdigest()
        blobs[digest] = path
        return {"mediaType": kind, "digest": digest, "size": path.stat().st_size}

    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": described(listed["Config"], CONFIG),
        "layers": [described(name, LAYER) for name in listed["Layers"]],
    }
    return json.dumps(manifest).encode(), blobs


@contextmanager
def serve(archive: Path, directory: Path) -> Iterator[tuple[str, str]]:
    """Serve a saved image on this machine; yield the registry's address and the image's digest."""
    manifest, blobs = _blobs(archive, directory)
    digest = "sha256:" + hashlib.sha256(manifest).hexdigest()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            _, kind, wanted = ["", *self.path.rstrip("/").rsplit("/", 2)[-2:]]
            if self.path == "/v2/":
                self._answer(200, "application/json", b"{}")
            elif kind == "manifests" and wanted == digest:
                self._answer(200, MANIFEST, manifest)
            elif kind == "blobs" and wanted in blobs:
                self._answer(200, "application/octet-stream", blobs[wanted])
            else:
                error = {"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}
                self._answer(404, "application/json", json.dumps(error).encode())

        def _answer(self, status: int, kind: str, content: bytes | Path) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            size = content.stat().st_size if isinstance(content, Path) else len(content)
            self.send_header("Content-Length", str(size))
            if isinstance(content, bytes) and kind == MANIFEST:
                self.send_header("Docker-Content-Digest", digest)
            self.end_headers()
            if self.command == "HEAD":
                return
            if isinstance(content, Path):
                with content.open("rb") as stream:
                    while chunk := stream.read(1 << 20):
                        self.wfile.write(chunk)
            else:
                self.wfile.write(content)

        def log_message(self, format: str, *arguments: Any) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}", digest
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
