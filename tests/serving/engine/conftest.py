"""Models to serve, the library's replies to compare with, and servers; all on the lab's base model.

Needs vLLM (`make test-vllm`); elsewhere this folder is not collected.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from mogu import MoguConfig, MoguModel
from mogu.hub import load_base, load_tokenizer
from mogu.inference.padding import left_pad
from mogu.inference.prompts import encode_prompt
from mogu.inference.turns import find_turn_marks
from mogu.lab import build_base, prompts
from mogu.modeling.adapter_files import Adapter
from mogu.modeling.config import BackboneConfig, GateConfig
from mogu.modeling.gated.gate import Gate, StreamHead
from mogu.modeling.gated.model import GatedModel

if importlib.util.find_spec("vllm") is None:
    collect_ignore_glob = ["test_*.py"]

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
os.environ["VLLM_NO_USAGE_STATS"] = "1"

KEY = "a-key-of-the-tests"
NEW_TOKENS = 24
TAPS = (1, 2)
"""Decoder layers that the gated models read."""
LISTEN, HOLD_BACK = 0.9, 3
"""From which probability on answers are taken back, and how many tokens callers get late."""

Request = tuple[tuple[int, ...], str | None, tuple[tuple[str, Any], ...]]
"""Prompt tokens; the model (``None`` for the base model, ``"plain"`` for the LoRA, or a MoGU model); and overrides of its settings."""


@pytest.fixture(scope="session")
def base() -> str:
    return str(build_base(progress=False))


@pytest.fixture(scope="session")
def tokenizer(base):
    return load_tokenizer(base)


@pytest.fixture(scope="session")
def save_hardened(base) -> Callable[..., Path]:
    """Save a model whose random responders and routers change every reply: strict for comparisons, useless as a defense."""

    def save(folder: Path, seed: int, **config: Any) -> Path:
        generator = torch.Generator().manual_seed(seed)
        model = MoguModel.from_base(load_base(base), MoguConfig(base_model=base, **config))

        def randn(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=generator)

        for layer in model.routed_layers:
            for name in ("unwill", "glad"):
                layer.set_responder(name, randn(8, layer.in_features) * 0.2, randn(layer.out_features, 8) * 0.2)
            layer.set_router(randn(2, layer.in_features) * 0.5, randn(2))
        lora = model.injected.backbone()
        if lora is not None:
            weights = {name: (randn(*a.shape) * 0.2, randn(*b.shape) * 0.2) for name, (a, b) in lora.weights.items()}
            model.injected.set_backbone(Adapter(weights, lora.rank, lora.lora_alpha))
        model.save_pretrained(folder)
        return folder

    return save


@pytest.fixture(scope="session")
def save_gated(base, tokenizer, lab_prompts) -> Callable[..., Path]:
    """Save a gated model with a random expert that changes every reply, and a random gate that flags half of the prompts.

    With a threshold, a random stream head listens to the answers of the base model. With a careful responder, also random, the gate flags
    a quarter, and another third has that.
    """

    def save(folder: Path, seed: int, listen: float | None = None, **config: Any) -> Path:
        generator = torch.Generator().manual_seed(seed)
        marks = find_turn_marks(tokenizer)
        settings = {"before": marks.before, "after": marks.after, "header": marks.header}
        careful = config.get("careful")
        gate_config = GateConfig(**settings, careful=None if careful is None else 0.5)
        model = MoguModel.from_base(load_base(base), MoguConfig(base_model=base, routed_tokens="all", gate=gate_config, **config))
        assert isinstance(model, GatedModel)
        for responder in model.mogu_config.responders:
            expert = model.injected.responder(responder)
            weights = {
                name: tuple(torch.randn(part.shape, generator=generator) * 0.2 for part in pair) for name, pair in expert.weights.items()
            }
            model.injected.set_responder(responder, Adapter(weights, expert.rank, expert.lora_alpha))
        width = model.base_model.config.hidden_size
        gate = Gate({tap: torch.randn(2 + 2 * 3, width, generator=generator) * 0.1 for tap in TAPS}, 0.0)
        head = StreamHead({tap: torch.randn(2, width, generator=generator) * 0.15 for tap in TAPS}, 0.3, 0.0)
        model.set_gate(gate, None if listen is None else head)
        logits = [float(model.prompt_logits(torch.tensor([prompt]))) for prompt in lab_prompts]
        shares = [0.5, 0.5] if careful is None else [0.75, 0.42]
        refuse, lower = torch.tensor(logits).quantile(torch.tensor(shares)).sigmoid().tolist()
        update = {"refuse": refuse, "careful": None if careful is None else lower, "listen": listen, "hold_back": HOLD_BACK}
        model.gate_config = model.gate_config.model_copy(update=update)
        model.tokenizer = tokenizer
        model.save_pretrained(folder)
        return folder

    return save


@pytest.fixture(scope="session")
def models(save_hardened, save_gated, tmp_path_factory) -> dict[str, Path]:
    """MoGU models, ``"one"`` and, of V2, ``"two"``; gated ones: ``"gated"``, one that listens, and one with a careful responder."""
    folder = tmp_path_factory.mktemp("models")
    return {
        "careful": save_gated(folder / "careful", 7, listen=LISTEN, careful=BackboneConfig(rank=3, lora_alpha=6)),
        "gated": save_gated(folder / "gated", 5),
        "listening": save_gated(folder / "listening", 6, listen=LISTEN),
        "one": save_hardened(folder / "one", 1),
        "two": save_hardened(folder / "two", 2, layers=[1, 3], backbone=BackboneConfig(rank=3, lora_alpha=6)),
    }


@pytest.fixture(scope="session")
def plain_lora(base, tmp_path_factory) -> Path:
    torch.manual_seed(3)
    targets = ["q_proj", "o_proj", "gate_proj", "down_proj"]
    config = LoraConfig(r=8, target_modules=targets, init_lora_weights=False, task_type="CAUSAL_LM")
    model = get_peft_model(load_base(base), config)
    folder = tmp_path_factory.mktemp("lora") / "plain"
    model.save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="session")
def lab_prompts(tokenizer) -> list[list[int]]:
    """200 prompts of mixed lengths from the lab, with one to three turns."""
    instructions = [prompt.instruction for prompt in prompts("test")][::4][:200]
    conversations = [
        [
            turn
            for text in instructions[index : index + 1 + index % 3]
            for turn in ({"role": "user", "content": text}, {"role": "assistant", "content": "Good."})
        ][:-1]
        for index in range(len(instructions))
    ]
    return [encode_prompt(tokenizer, conversation) for conversation in conversations][:200]


class Library:
    """The expected replies: those of this library, which has its own tests, and of PEFT; greedy, with the end token."""

    def __init__(self, base: str, models: Mapping[str, Path], plain: Path, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.models: dict[str | None, Any] = {name: MoguModel.from_pretrained(str(folder)) for name, folder in models.items()}
        self.models["plain"] = PeftModel.from_pretrained(load_base(base), str(plain)).eval()
        self.models[None] = load_base(base).eval()

    def replies(self, requests: Sequence[Request]) -> list[tuple[list[int], float | None]]:
        """Return the tokens of each reply, ``NEW_TOKENS`` at most, and the score of its prompt."""
        replies: dict[int, tuple[list[int], float | None]] = {}
        groups: dict[tuple[Any, ...], list[int]] = {}
        for index, (_, model_name, overrides) in enumerate(requests):
            groups.setdefault((model_name, overrides), []).append(index)
        for (model_name, overrides), indices in groups.items():
            model, options = self.models[model_name], dict(overrides)
            saved_dial = getattr(model, "dial", None)
            if "dial" in options:
                model.dial = options.pop("dial")
            batch = left_pad([list(requests[index][0]) for index in indices], self.tokenizer.pad_token_id, torch.device("cpu"))
            with torch.no_grad():
                output = model.generate(
                    **batch, max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=self.tokenizer.pad_token_id, **options
                )
            scores = getattr(model, "prompt_scores", None) if options.get("routed_tokens", 1) != 0 else None
            for row, index in enumerate(indices):
                reply = output[row, batch["input_ids"].shape[1] :].tolist()
                end = reply.index(self.tokenizer.eos_token_id) + 1 if self.tokenizer.eos_token_id in reply else len(reply)
                replies[index] = (reply[:end], float(scores[row]) if scores is not None else None)
            if saved_dial is not None:
                model.dial = saved_dial
        return [replies[index] for index in range(len(requests))]


@pytest.fixture(scope="session")
def library(base, models, plain_lora, tokenizer) -> Library:
    return Library(base, models, plain_lora, tokenizer)


@dataclass(frozen=True)
class Server:
    """A running `mogu serve`."""

    address: str
    process: subprocess.Popen[bytes]
    key: str = KEY

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}


@pytest.fixture(scope="session")
def run_server() -> Callable[..., contextlib.AbstractContextManager[Server]]:
    """Run `mogu serve ARGUMENTS` as a process on a free port until the context ends; its output goes to a log file."""

    @contextlib.contextmanager
    def run(arguments: Sequence[str], log: Path, *, folder: Path | None = None) -> Iterator[Server]:
        port = _free_port()
        # Like the installed command, which imports nothing from the current folder.
        command = [sys.executable, "-P", "-c", "from mogu.cli import main; main()"]
        command += ["serve", *arguments, "--port", str(port), "--api-key", KEY]
        with log.open("wb") as out:
            process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True, cwd=folder)
        server = Server(f"http://127.0.0.1:{port}", process)
        try:
            deadline = time.monotonic() + 240
            while not _is_healthy(server):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"the server did not start:\n{log.read_text()[-6000:]}")
                time.sleep(0.5)
            yield server
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, 9)
                process.wait()

    return run


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _is_healthy(server: Server) -> bool:
    try:
        return httpx.get(f"{server.address}/health", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False
