"""`mogu train` as a person meets it: what it prints, and how it ends when something is wrong."""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from mogu import MoguModel
from mogu.data import Record, write_records
from mogu.recipes import shipped_recipe
from tests.gguf_files import write_gguf

Mogu = Callable[..., tuple[int, str, str]]


@pytest.fixture
def config(base: Path, tmp_path: Path) -> Path:
    records = [
        Record(id=f"{label}{number}", label=label, instruction=f"{verb} {number}?", affirm="Sure.", reject="I'm sorry, but no.")
        for label, verb in (("benign", "Add"), ("malicious", "Steal"))
        for number in range(6)
    ]
    write_records(tmp_path / "pairs.jsonl", records)
    (tmp_path / "config.toml").write_text(
        f"""
method = "v1"
[model]
base = {json.dumps(str(base))}
[data]
train = {json.dumps(str(tmp_path / "pairs.jsonl"))}
[glad]
epochs = 1
[unwill]
epochs = 1
[router]
epochs = 1
[choice]
checkpoints = [1.0]
weight_penalties = [2.0]
max_new_tokens = 3
[run]
output = {json.dumps(str(tmp_path / "out"))}
max_length = 64
"""
    )
    return tmp_path / "config.toml"


@pytest.fixture
def mogu(run_mogu: Mogu) -> Mogu:
    """Run ``mogu train``; see :func:`run_mogu`."""
    return functools.partial(run_mogu, "train")


def test_a_run_ends_with_where_things_are_and_what_to_do_next(config: Path, mogu: Mogu, tmp_path: Path) -> None:
    code, out, err = mogu(config, "--set", "glad.epochs=2", "--output", tmp_path / "other")
    assert code == 0
    names = ("training_report.html", "README.md", "loss")  # loss.png, or where matplotlib is missing loss_history.jsonl
    for words in (*(f"other/{name}" for name in names), f"mogu chat {tmp_path / 'other'}", "malicious requests refused"):
        assert words in out
    assert "glad responder" in err
    assert "loss" in err
    assert MoguModel.from_pretrained(tmp_path / "other").mogu_config.rank == 8
    code, out, err = mogu(config, "--set", "glad.epochs=2", "--output", tmp_path / "other", "--json")
    assert code == 0
    assert json.loads(out) == json.loads((tmp_path / "other" / "training_report.json").read_text())
    assert json.loads(out)["recipe"]["glad"]["epochs"] == 2
    assert "trained already" in err


def test_a_stage_alone_says_what_is_left(config: Path, mogu: Mogu, tmp_path: Path) -> None:
    code, _, err = mogu(config, "--stage", "unwill")
    assert code == 0
    assert "The unwill responder is in" in err
    assert (tmp_path / "out-training" / "unwill" / "step-1" / "adapter_model.safetensors").is_file()
    assert not (tmp_path / "out").exists()


def test_a_dry_run_trains_and_writes_nothing(config: Path, mogu: Mogu, tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    code, out, _ = mogu(config, "--dry-run")
    assert code == 0
    for wanted in ("parameters trained", "memory", "router", "steps in all", "on disk", "nothing was trained or written"):
        assert wanted in out
    code, out, _ = mogu(config, "--dry-run", "--json")
    plan = json.loads(out)
    assert code == 0
    assert [stage["trained_parameters"] for stage in plan["stages"]] == [2 * 8 * 16] * 2 + [2 * (512 * 16 + 16 * 512 + 16 + 16 + 1)]
    assert sorted(tmp_path.iterdir()) == before


def test_a_dry_run_of_seven_billion_parameters_takes_seconds(config: Path) -> None:
    shape = shipped_recipe("llama-2-7b-chat").shape
    command = [sys.executable, "-m", "mogu", "train", str(config), "--dry-run", "--set", f"model.base={shape}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "6,738,415,616" in done.stdout


def broken_toml(config: Path) -> list[Any]:
    config.write_text("[model\nbase = 1")
    return [config]


def one_label(config: Path) -> list[Any]:
    data = config.parent / "pairs.jsonl"
    data.write_text("".join(line for line in data.read_text().splitlines(keepends=True) if '"benign"' in line))
    return [config]


def empty_data(config: Path) -> list[Any]:
    (config.parent / "pairs.jsonl").write_text("")
    return [config]


def bad_record(config: Path) -> list[Any]:
    data = config.parent / "pairs.jsonl"
    data.write_text(data.read_text().replace('"malicious"', '"evil"', 1))
    return [config]


def taken_output(config: Path) -> list[Any]:
    (config.parent / "out").mkdir()
    (config.parent / "out" / "thesis.tex").write_text("years of work")
    return [config]


def taken_work(config: Path) -> list[Any]:
    (config.parent / "out-training").mkdir()
    (config.parent / "out-training" / "thesis.tex").write_text("years of work")
    return [config, "--restart"]


@pytest.mark.parametrize("dry", [False, True])
@pytest.mark.parametrize(
    ("arrange", "says"),
    [
        (lambda config: [config.with_name("none.toml")], "cannot be read"),
        (broken_toml, "not valid TOML"),
        (lambda config: [config, "--set", "glad.epoch=3"], "glad.epoch"),
        (lambda config: [config, "--set", "glad.epochs=many"], "glad.epochs"),
        (lambda config: [config, "--set", "glad.epochs"], "section.key=value"),
        (lambda config: [config, "--set", "router.learning_rate=-1"], "greater than 0"),
        (lambda config: [config, "--set", "choice.checkpoints=[1.5]"], "shares of a stage"),
        (lambda config: [config, "--set", "data.train=nowhere.jsonl"], "nowhere.jsonl"),
        (one_label, "all 6 records are benign"),
        (empty_data, "pairs.jsonl"),
        (bad_record, "line 7"),
        (lambda config: [config, "--set", "run.max_length=16"], "fewer than max_length"),
        (lambda config: [config, "--set", "model.base=./nowhere"], "nowhere"),
        (lambda config: [config, "--chat-template", config.with_name("none.jinja")], "none.jinja"),
        (lambda config: [config, "--set", "mogu.layers=[0, 7]"], "layers"),
        (taken_output, "was not written by mogu"),
        (taken_work, "was not written by mogu"),
    ],
)
def test_bad_input_ends_with_one_clear_error(
    arrange: Callable[[Path], list[Any]], says: str, dry: bool, config: Path, mogu: Mogu, tmp_path: Path
) -> None:
    arguments = arrange(config)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    code, out, err = mogu(*arguments, *(["--dry-run"] if dry else []))
    assert code == 2
    assert says in err
    assert "What to do" in err
    assert "Traceback" not in err
    assert out == ""
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert after == before


def test_a_tokenizer_without_a_template_is_helped_by_the_option(config: Path, base: Path, mogu: Mogu, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    tokenizer = PreTrainedTokenizerFast.from_pretrained(base)
    template, tokenizer.chat_template = tokenizer.chat_template, None
    tokenizer.save_pretrained(bare)
    LlamaForCausalLM.from_pretrained(base).save_pretrained(bare)
    code, _, err = mogu(config, "--set", f"model.base={bare}")
    assert code == 2
    assert "--chat-template FILE" in err
    (tmp_path / "chat.jinja").write_text(template)
    code, _, err = mogu(config, "--set", f"model.base={bare}", "--chat-template", tmp_path / "chat.jinja", "--stage", "glad")
    assert code == 0, err


def test_resume_and_restart_exclude_each_other(config: Path, mogu: Mogu) -> None:
    code, _, err = mogu(config, "--resume", "--restart")
    assert code == 2
    assert "one of the two" in err


def test_ctrl_c_says_how_to_go_on(config: Path, mogu: Mogu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = torch.optim.AdamW.step
    calls: list[int] = []

    def interrupted(self: torch.optim.AdamW, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", interrupted)
    settings = ["--set", "run.save_steps=1", "--set", "glad.epochs=4"]
    code, _, err = mogu(config, *settings)
    assert code == 130
    assert "--resume" in err
    code, _, err = mogu(config, *settings, "--resume")
    assert code == 0, err
    assert len(calls) == 3 + 2 + 1 + 1  # glad's third and fourth step, and one step of each other stage


def test_a_model_trained_with_a_template_from_a_file_is_used_with_it(config: Path, base: Path, run_mogu: Mogu, tmp_path: Path) -> None:
    """The base's tokenizer has no template, as Vicuna's has none: nothing but the saved model knows how it was asked."""
    shutil.copytree(base, tmp_path / "plain")
    (tmp_path / "plain" / "chat_template.jinja").unlink()
    template = tmp_path / "vicuna.jinja"
    template.write_text(
        "{% for m in messages %}{{ m.role | upper }}: {{ m.content }} {% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
    )
    settings = {"base": str(tmp_path / "plain"), "chat_template": str(template), "system_prompt": "Be kind."}
    options = [part for name, value in settings.items() for part in ("--set", f"model.{name}={json.dumps(value)}")]
    code, out, err = run_mogu("train", config, *options)
    assert code == 0, err
    assert f"mogu chat {tmp_path / 'out'}" in out
    template.unlink()
    code, out, err = run_mogu("generate", tmp_path / "out", "Add 3?", "--max-new-tokens", "4", "--json")
    assert code == 0, err
    model = MoguModel.from_pretrained(tmp_path / "out").eval()
    ids = AutoTokenizer.from_pretrained(tmp_path / "plain")("SYSTEM: Be kind. USER: Add 3? ASSISTANT:", add_special_tokens=False)
    with torch.no_grad(), model.routing("on") as call:
        model(input_ids=torch.tensor([ids["input_ids"]]))
        weights = call.last_token_weights(model.device)
    share = float((weights["unwill"] / (weights["unwill"] + weights["glad"])).mean())
    assert json.loads(out)["score"] == pytest.approx(share, abs=1e-5)


def test_a_gguf_file_by_path_is_hardened_and_answers_again(
    config: Path, run_mogu: Mogu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOGU_CACHE", str(tmp_path / "cache"))
    file = write_gguf(tmp_path / "tiny.gguf", "Q8_0")
    code, _, err = run_mogu("train", config, "--set", f"model.base={json.dumps(str(file))}")
    assert code == 0, err
    saved = json.loads((tmp_path / "out" / "mogu_config.json").read_text())
    assert saved["base_model"] == str(file)
    assert saved["base_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    code, out, err = run_mogu("generate", tmp_path / "out", "Hello", "--max-new-tokens", "3", "--json")
    assert code == 0, err
    assert "reply" in json.loads(out)


def test_an_adapter_is_refused_as_a_base_and_merged_on_request(config: Path, base: Path, run_mogu: Mogu, tmp_path: Path) -> None:
    torch.manual_seed(0)
    settings = LoraConfig(r=2, target_modules=["q_proj", "o_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    get_peft_model(LlamaForCausalLM.from_pretrained(base), settings).save_pretrained(tmp_path / "adapter")
    change = f"model.base={json.dumps(str(tmp_path / 'adapter'))}"
    for extra in ([], ["--dry-run"]):
        code, _, err = run_mogu("train", config, "--set", change, *extra)
        assert code == 2
        assert "--merge-adapter" in err
    assert not (tmp_path / "out-training").exists()
    assert run_mogu("train", config, "--set", change, "--merge-adapter", "--dry-run")[0] == 0
    assert not (tmp_path / "out-base").exists()
    code, _, err = run_mogu("train", config, "--set", change, "--merge-adapter")
    assert code == 0, err
    model = MoguModel.from_pretrained(tmp_path / "out")
    assert model.mogu_config.base_model == str(tmp_path / "out-base")


def test_what_mogu_finetune_made_is_hardened_next(config: Path, base: Path, run_mogu: Mogu, tmp_path: Path) -> None:
    rows = [[{"role": "user", "content": f"Add {n}."}, {"role": "assistant", "content": "Done."}] for n in range(12)]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    names = {
        name: json.dumps(str(path)) for name, path in (("base", base), ("chats", tmp_path / "chats.jsonl"), ("tuned", tmp_path / "tuned"))
    }
    (tmp_path / "tune.toml").write_text(
        f"[model]\nbase = {names['base']}\n[data]\ntrain = {names['chats']}\n[tune]\nlearning_rate = 0.1\nepochs = 3\n"
        f"[safety]\nmax_new_tokens = 3\n[run]\noutput = {names['tuned']}\nmax_length = 96\n"
    )
    code, _, err = run_mogu("finetune", tmp_path / "tune.toml")
    assert code == 0, err
    code, _, err = run_mogu("train", config, "--set", f"model.base={names['tuned']}", "--merge-adapter")
    assert code == 0, err
    prompt = torch.tensor([[5, 6, 7, 8]])
    tuned = PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(base), tmp_path / "tuned")(prompt).logits
    model = MoguModel.from_pretrained(tmp_path / "out")
    with model.routing("off"):
        assert torch.allclose(model(prompt).logits, tuned, atol=1e-4)
    assert not torch.allclose(LlamaForCausalLM.from_pretrained(base)(prompt).logits, tuned, atol=1e-2)
