"""Pushing to the hub and loading from it: the real client against a small hub of our own on this machine."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub
import pytest
import torch

from mogu import MoguConfig, MoguModel
from mogu.errors import ModelFileError, MoguError
from mogu.hub import fetch_model_folder
from mogu.inference.prompts import render_prompt
from mogu.modeling.config import BackboneConfig
from mogu.modeling.loading import load_model
from mogu.modeling.prompt_contract import record_prompt

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "somebody/safer-model"
IDS = torch.tensor([[5, 9, 33, 12, 60, 7]])


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's interface as one model repository needs."""

    files: dict[str, bytes] = {}

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
        prefix = f"/{REPOSITORY}/resolve/{COMMIT}/"
        if self.path.startswith(f"/api/models/{REPOSITORY}") and "/tree/" not in self.path:
            siblings = [{"rfilename": name} for name in self.files]
            self.answer(json.dumps({"id": REPOSITORY, "sha": COMMIT, "siblings": siblings}).encode())
        elif self.path.startswith(f"/api/models/{REPOSITORY}/tree/"):
            tree = [{"type": "file", "path": name, "size": len(content), "oid": name} for name, content in self.files.items()]
            self.answer(json.dumps(tree).encode())
        elif self.path.startswith(prefix) and self.path.removeprefix(prefix) in self.files:
            content = self.files[self.path.removeprefix(prefix)]
            self.answer(content, {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT})
        else:
            self.answer(b"{}", {"X-Error-Code": "RepoNotFound"}, status=404)

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


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path) -> Iterator[dict[str, bytes]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Hub.files = {}
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    yield Hub.files
    server.shutdown()
    server.server_close()


def test_there_and_back(hub, make_pair, make_base):
    model, _ = make_pair("llama", torch.float32)
    url = model.push_to_hub(REPOSITORY, token="hf_none", card="# Safer\n")
    assert url.endswith(REPOSITORY)
    adapters = {f"{name}/{file}" for name in ("glad", "unwill") for file in ("adapter_config.json", "adapter_model.safetensors")}
    assert adapters | {"README.md", "mogu_config.json", "router.safetensors"} <= set(hub)
    assert hub["README.md"] == b"# Safer\n"
    loaded = MoguModel.from_pretrained(REPOSITORY, base_model=make_base("llama", torch.float32))
    with torch.no_grad():
        torch.testing.assert_close(loaded(IDS).logits, model(IDS).logits, atol=1e-6, rtol=0)


def test_a_model_from_the_hub_asks_what_it_was_trained_with(hub, make_pair, make_base, tokenizer, tmp_path):
    base = tmp_path / "base"
    make_base("llama", torch.float32).save_pretrained(base)
    tokenizer.save_pretrained(base)
    model, _ = make_pair("llama", torch.float32)
    trained = copy.copy(tokenizer)
    trained.chat_template = "{% for message in messages %}[{{ message['role'] }}] {{ message['content'] }} {% endfor %}"
    record_prompt(model.mogu_config, trained, "Be kind.")
    model.push_to_hub(REPOSITORY, token="hf_none")
    model.save_pretrained(tmp_path / "saved")
    hub["training_report.json"] = b"{}"
    for source in (REPOSITORY, str(tmp_path / "saved")):
        loaded = load_model(source, base_model=str(base))
        assert render_prompt(loaded.tokenizer, "hello") == "[system] Be kind. [user] hello "
        assert torch.equal(loaded.mogu.score("hello"), load_model(tmp_path / "saved", base_model=str(base)).mogu.score("hello"))


def test_a_repository_that_is_not_there(hub, make_base):
    with pytest.raises(ModelFileError, match=r"somebody/else was not found.*log in to the hub"):
        MoguModel.from_pretrained("somebody/else", base_model=make_base())


@pytest.mark.parametrize("repository", ["somebody/locked", "no//name"])
def test_a_hub_that_refuses(hub, make_pair, repository):
    model, _ = make_pair()
    with pytest.raises(MoguError, match=rf"could not be pushed to {repository}.*What to do: check the name"):
        model.push_to_hub(repository, token="hf_none")
    assert hub == {}


def test_a_download_brings_the_files_of_a_saved_model_and_no_others(hub, make_pair):
    model, _ = make_pair("llama", torch.float32, config=MoguConfig(backbone=BackboneConfig()))
    model.push_to_hub(REPOSITORY, token="hf_none", card="# Safer\n")
    saved = set(hub) - {".gitattributes"}
    assert any(name.startswith("backbone/") for name in saved)
    beside = (
        "glad/adapter_notes.py",
        "model/adapter_notes.py",
        "unwill/adapter_model.bin",
        "vllm.py",
        "modeling_llama.py",
        "router.safetensors.py",
    )
    hub.update(dict.fromkeys(beside, b"print('ran')"))
    folder = fetch_model_folder(REPOSITORY, marker="mogu_config.json")
    assert {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()} == saved
