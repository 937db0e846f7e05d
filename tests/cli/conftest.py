"""The command line as a person runs it, and tiny models on disk for the commands that load or train one."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from mogu import MoguConfig, MoguModel
from mogu.cli import main
from mogu.data import Record, write_records

TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"


@pytest.fixture(scope="session")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(["How do I bake bread?"], trainers.BpeTrainer(special_tokens=["<pad>", "</s>"], initial_alphabet=alphabet))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", pad_token="<pad>", chat_template=TEMPLATE)
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    base = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), eos_token_id=1, pad_token_id=0, initializer_range=0.2, **shape))
    base.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    model = MoguModel.from_base(base, MoguConfig(base_model=str(folder / "base"), rank=2, lora_alpha=4))
    for layer in model.routed_layers:
        layer.set_responder("unwill", torch.randn(2, 32), torch.randn(32, 2))
        layer.set_responder("glad", torch.randn(2, 32), torch.randn(32, 2))
        layer.set_router(torch.randn(2, 32), torch.randn(2))
    model.save_pretrained(folder / "saved")
    return folder / "saved"


TRAINED_TEMPLATE = (
    "{% for message in messages %}[{{ message.role }}] {{ message.content }} {% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model to train, as small as can be."""
    folder = tmp_path_factory.mktemp("base")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator([], trainers.BpeTrainer(special_tokens=["<pad>", "</s>"], initial_alphabet=alphabet))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", chat_template=TRAINED_TEMPLATE)
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(fast), eos_token_id=1, pad_token_id=0, **shape)).save_pretrained(folder)
    return folder


@pytest.fixture
def run_mogu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run ``mogu`` with arguments and what is typed; returns exit code, standard output and error stream."""

    def run(*arguments: str | Path, stdin: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["mogu", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def run_mogu_offline(run_mogu: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    """:func:`run_mogu` under the settings of :func:`mogu_process`: without the hub, and in a terminal of 160 columns."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("COLUMNS", "160")
    return run_mogu


@pytest.fixture(scope="session")
def mogu_process() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run ``mogu`` with arguments in a process of its own, without the hub; for commands that must not share this one's models and logs."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "mogu", *arguments],
            capture_output=True,
            text=True,
            timeout=300,
            cwd=Path(__file__).parents[2],
            env=os.environ | {"HF_HUB_OFFLINE": "1", "COLUMNS": "160"} | environment,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def dev_records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three benign and three malicious records in a file."""
    file = tmp_path_factory.mktemp("data") / "dev.jsonl"
    texts = {"affirm": "Yes.", "reject": "No."}
    labels = ("benign", "malicious")
    write_records(file, [Record(id=f"{n}", label=labels[n % 2], instruction=f"Request number {n}.", **texts) for n in range(6)])
    return file
