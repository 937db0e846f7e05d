"""A hub on this machine: as much of the real one's interface as the real client needs for one model repository."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "somebody/safer-model"


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's interface as one model repository needs."""

    files: dict[str, bytes] = {}
    asked: list[str] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        if self.path == "/api/repos/create" and json.loads(body)["name"] == "locked":
            self.answer(b'{"error": "no"}', status=403)
        elif self.path == "/api/repos/create":
            self.answer(json.dumps({"url": f"http://{self.headers['Host']}/{REPOSITORY}", "id": REPOSITORY}).encode())
        elif self.path == "/api/validate-yaml":
            self.answer(b'{"errors": [], "warnings": []}')
        elif "/preupload/" in self.path:
            files = [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in json.loads(body)["files"]]
            self.answer(json.dumps({"files": files}).encode())
        elif "/commit/" in self.path:
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    self.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            url = f"http://{self.headers['Host']}/{REPOSITORY}/commit/{COMMIT}"
            self.answer(json.dumps({"commitUrl": url, "commitOid": COMMIT}).encode())
        else:
            self.answer(b'{"error": "not here"}', status=404)

    def do_GET(self) -> None:
        self.asked.append(self.path)
        file = re.sub(rf"^/{REPOSITORY}/resolve/(?:{COMMIT}|main)/", "", self.path)
        if self.path.startswith(f"/api/models/{REPOSITORY}") and "/tree/" not in self.path:
            siblings = [{"rfilename": name} for name in self.files]
            self.answer(json.dumps({"id": REPOSITORY, "sha": COMMIT, "siblings": siblings}).encode())
        elif self.path.startswith(f"/api/models/{REPOSITORY}/tree/"):
            tree = [{"type": "file", "path": name, "size": len(content), "oid": name} for name, content in self.files.items()]
            self.answer(json.dumps(tree).encode())
        elif file in self.files:
            content = self.files[file]
            self.answer(content, {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT})
        else:
            self.answer(b"{}", {"X-Error-Code": "RepoNotFound" if file == self.path else "EntryNotFound"}, status=404)

    do_HEAD = do_GET

    def answer(self, content: bytes, headers: dict[str, str] | None = None, status: int = 200) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), "Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def running_hub(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[dict[str, bytes]]:
    """Let the client find this hub in place of the real one; gives the files of the repository, by name."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Hub.files = {}
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    yield Hub.files
    server.shutdown()
    server.server_close()
