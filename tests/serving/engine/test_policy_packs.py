"""Several gated models on one base, each by its name, that come and go while a server answers."""

from __future__ import annotations

import shutil

import httpx
import pytest

from .conftest import NEW_TOKENS, Library


@pytest.fixture(scope="module")
def prompts(lab_prompts):
    return [tuple(prompt) for prompt in lab_prompts if len(prompt) > 64][:12]


def test_models_are_loaded_and_unloaded_while_others_answer(
    run_server, base, models, save_gated, plain_lora, tokenizer, library, prompts, tmp_path, monkeypatch
):
    monkeypatch.setenv("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "True")
    pack = tmp_path / "packs" / "pack"
    first, second = save_gated(tmp_path / "first", 8), save_gated(tmp_path / "second", 9)
    of_first, of_second = (Library(base, {"pack": folder}, plain_lora, tokenizer) for folder in (first, second))
    arguments = [str(models["gated"]), "--open", "--enforce-eager", "--dtype", "float32", "--max-model-len", "512"]
    arguments += ["--max-loras", "3", "--block-size", "32"]
    with run_server(arguments, tmp_path / "log") as server, httpx.Client(base_url=server.address, headers=server.headers) as client:

        def answered(name: str) -> list[tuple[str, float]]:
            found = []
            for prompt in prompts:
                body = {"model": name, "prompt": list(prompt), "temperature": 0, "max_tokens": NEW_TOKENS}
                answer = client.post("/v1/completions", json=body, timeout=60).json()
                found.append((answer["choices"][0]["text"], answer["mogu"]["score"]))
            return found

        def assert_answers(name: str, of: Library) -> None:
            replies = of.replies([(prompt, name, ()) for prompt in prompts])
            for (text, score), (reply, expected) in zip(answered(name), replies, strict=True):
                assert text == tokenizer.decode(reply, skip_special_tokens=True)
                assert score == pytest.approx(expected, abs=1e-4)

        def load(name: str, folder: object, **options: object) -> httpx.Response:
            body = {"lora_name": name, "lora_path": str(folder)} | options
            return client.post("/v1/load_lora_adapter", json=body, timeout=60)

        assert_answers("gated", library)  # its blocks, most of them the base model's, are there before the other gate is
        shutil.copytree(first, pack)
        assert load("pack", pack).status_code == 200
        assert_answers("pack", of_first)
        assert_answers("gated", library)

        broken = shutil.copytree(first, tmp_path / "broken")
        (broken / "router.safetensors").write_bytes(b"no weights")
        assert "is not a whole safetensors file" in load("broken", broken).text
        assert "adapts" in load("careful", models["careful"]).text  # layers that this server has no slots for
        assert "load_inplace" in load("pack", pack, load_inplace=True).text
        assert client.post("/v1/completions", json={"model": "broken", "prompt": "Hello"}, timeout=60).status_code == 404
        assert_answers("pack", of_first)

        assert client.post("/v1/unload_lora_adapter", json={"lora_name": "pack"}, timeout=60).status_code == 200
        assert client.post("/v1/completions", json={"model": "pack", "prompt": "Hello"}, timeout=60).status_code == 404
        assert_answers("gated", library)

        shutil.rmtree(pack)
        shutil.copytree(second, pack)
        assert load("pack", pack).status_code == 200
        assert_answers("pack", of_second)  # none of the blocks that the first one has left under this name
        assert_answers("gated", library)
