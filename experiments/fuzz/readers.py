"""The readers, each with a maker of the files that it is given. Knows what a good file looks like, and who reads it."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import torch

from experiments.fuzz.mutations import changed_bytes, changed_json, changed_tensors, changed_toml, odd_place
from mogu import MoguConfig
from mogu.analysis.answer_openings import read_openings
from mogu.analysis.labeled_instructions import read_labeled_instructions
from mogu.analysis.linear_head import LinearHead
from mogu.analysis.measurement_cache import MeasurementCache
from mogu.cli.info import _facts
from mogu.data import read_chats, read_instructions, read_published, read_tools
from mogu.data.record_files import inspect_records, read_records
from mogu.errors import ConfigError, MoguError
from mogu.evaluation.tendency_jailbreak import tendency_wrapper
from mogu.finetuning.recipe import read_finetune_recipe
from mogu.finetuning.robust_modules import read_robust_modules
from mogu.hub import load_config, load_tokenizer
from mogu.hub.dequantized import _read_header
from mogu.inference.prompts import render_prompt
from mogu.modeling.checkpoint import Checkpoint
from mogu.modeling.import_reference import read_published_routers
from mogu.serving.locked_requests import check_chat
from mogu.serving.packed_adapter import read_packed_adapter
from mogu.serving.request_settings import RequestSettings
from mogu.training.recipe import read_recipe


@dataclass(frozen=True)
class Reader:
    """A reader under test.

    Args:
        make: writes a hostile file or folder at a path that is free.
        read: what is called with that path.
        weight: how many inputs it gets for one of another reader.
    """

    make: Callable[[Random, Path], None]
    read: Callable[[Path], Any]
    weight: int = 1


def readers(seeds: Path) -> dict[str, Reader]:
    """All readers, by name.

    Args:
        seeds: a folder with good ones: ``routed`` and ``gated``, saved models; ``base``, a base model; ``tiny.gguf``.
    """
    tokenizer = load_tokenizer(str(seeds / "base"))

    def render(file: Path) -> None:
        prepared = load_tokenizer(str(seeds / "base"), chat_template=file)
        render_prompt(prepared, "How do I bake bread?")

    made = {
        "saved model, routed": Reader(functools.partial(_saved, seeds / "routed"), _read_saved, 6),
        "saved model, gated": Reader(functools.partial(_saved, seeds / "gated"), _read_saved, 6),
        "published routers": Reader(_published_routers, read_published_routers, 3),
        "base model": Reader(functools.partial(_base, seeds / "base"), _read_base),
        "GGUF": Reader(lambda random, file: _write(file, changed_bytes((seeds / "tiny.gguf").read_bytes(), random)), _read_header),
        "chat template": Reader(_template, render, 2),
        "recipe": Reader(_recipe, lambda file: _each(lambda: read_recipe(file), lambda: read_finetune_recipe(file)), 3),
        "setting": Reader(_setting, _read_setting),
        "records": Reader(_lines(_RECORDS), lambda file: (inspect_records(file), read_records(file)), 3),
        "conversations": Reader(_lines(_CHATS), read_chats, 2),
        "instructions": Reader(_list, lambda file: _each(lambda: read_instructions(file), lambda: read_labeled_instructions(file)), 3),
        "published data": Reader(_published_data, read_published),
        "request": Reader(_json(_REQUEST), _read_request, 2),
    }
    made |= {name: Reader(_json(tree), read) for name, (tree, read) in _SMALL.items()}
    assert tokenizer.chat_template
    return made


# --- models ---------------------------------------------------------------------------------------------------------------------------
def _saved(good: Path, random: Random, folder: Path) -> None:
    """A saved model with one or two files changed. Whoever means harm also lists their digests."""
    shutil.copytree(good, folder)
    names = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
    for name in random.sample(names, random.choice([1, 1, 2])):
        file = folder / name
        content = file.read_bytes()
        if random.randrange(20) == 0:
            odd_place(file, random)
        elif name.endswith(".safetensors"):
            file.write_bytes(changed_tensors(content, random))
        elif name.endswith(".json") and random.randrange(5):
            file.write_bytes(changed_json(json.loads(content), random))
        else:
            file.write_bytes(changed_bytes(content, random))
    file = folder / "mogu_config.json"
    if not file.is_file():
        return
    try:
        config = json.loads(file.read_bytes())
        listed = {name: sha256((folder / name).read_bytes()).hexdigest() for name in config["files"] if (folder / name).is_file()}
        file.write_text(json.dumps(config | {"files": listed}))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        pass  # the config is what was changed


def _read_saved(folder: Path) -> None:
    _each(lambda: Checkpoint.read(folder), lambda: read_packed_adapter(folder), lambda: _facts(str(folder)))


def _base(good: Path, random: Random, folder: Path) -> None:
    folder.mkdir()
    names = ("config.json", "tokenizer.json", "tokenizer_config.json")
    for name in names:
        shutil.copy(good / name, folder / name)
    file = folder / random.choice(names)
    content = file.read_bytes()
    file.write_bytes(changed_json(json.loads(content), random) if random.randrange(4) else changed_bytes(content, random))


def _read_base(folder: Path) -> None:
    _each(lambda: load_config(str(folder)), lambda: render_prompt(load_tokenizer(str(folder)), "How do I bake bread?"))


def _published_routers(random: Random, file: Path) -> None:
    shapes = {"0.weight": (6, 16), "1.weight": (16, 6), "1.bias": (16,), "2.weight": (1, 16), "2.bias": (1,)}
    names = [f"routers.{layer}.{which}.linear_" for layer in (0, 1) for which in ("alpha_", "beta_")]
    state: Any = {f"{name}{part}": torch.ones(shape) for name in names for part, shape in shapes.items()}
    key = random.choice(list(state))
    odd: list[Any] = [None, 1, "x", [1], {}, torch.zeros(0), torch.eye(3).to_sparse(), torch.tensor([1 + 2j]), torch.tensor(True)]
    odd += [torch.zeros(3, dtype=torch.int8), torch.full((16,), float("nan")), torch.empty(4, device="meta")]
    odd += [torch.zeros(1).expand(2**20, 2**20), torch.zeros(1).expand(2**13, 2**13)]
    odd_keys = [7, None, ("a",), "routers.٣.alpha_.linear_0.weight", f"routers.{'9' * 5000}.beta_.linear_2.bias"]
    match random.randrange(4):
        case 0:
            state[key] = random.choice(odd)
        case 1:
            state[random.choice(odd_keys)] = state.pop(key)
        case 2:
            state[key] = torch.ones([random.choice([0, 1, 2, 6, 16, 17]) for _ in range(random.choice([0, 1, 2, 3]))])
        case 3 if random.randrange(4) == 0:
            state = random.choice([*odd, {"state_dict": state}])
    torch.save(state, file, _use_new_zipfile_serialization=bool(random.randrange(2)))
    if random.randrange(2):
        file.write_bytes(changed_bytes(file.read_bytes(), random))


_STATEMENTS = (
    *("{{ x.y.z }}", "{{ messages[0]['nothing'] }}", "{{ raise_exception('no') }}", "{{ 1 / 0 }}", "{{ messages|tojson }}"),
    *("{{ 'a' * 10 ** 9 }}", "{% for i in range(99999) %}{{ i }}{% endfor %}", "{{ ''.__class__.__mro__ }}", "{{ 9 ** 9 ** 9 }}"),
    *("{% include '/etc/passwd' %}", "{% set x = messages %}", "{{ x ~ x }}", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"),
    *("{{ cycler.__init__.__globals__.os }}", "{% for m in messages %}", "{% endfor %}", "{{ m.content }}", "{{", "%}", "{#", "\0"),
    *("{{ 'a'|center(10 ** 9) }}", "{{ '%1000000000d' % 1 }}"),
)


def _template(random: Random, file: Path) -> None:
    text = "".join(random.choice(_STATEMENTS) for _ in range(random.choice([1, 2, 5])))
    content = text.encode()
    _write(file, changed_bytes(content, random) if random.randrange(3) == 0 else content)


# --- recipes --------------------------------------------------------------------------------------------------------------------------
_TRAIN: dict[str, Any] = {
    "method": "v2",
    "model": {"base": "base", "dtype": "float32", "system_prompt": "x", "revision": "main"},
    "data": {"train": "pairs.jsonl", "dev": "dev.jsonl", "dev_share": 0.1},
    "mogu": {"layers": [1, 2], "rank": 8, "lora_alpha": 16.0, "router_hidden": 512},
    "backbone": {"modules": ["q_proj"], "rank": 1},
    "glad": {"epochs": 10.0, "learning_rate": 1e-4, "batch_size": 8, "dropout": 0.1},
    "choice": {"checkpoints": [0.5, 1.0], "weight_penalties": [1.0], "dials": [0.0]},
    "run": {"output": "out", "work": "work", "seed": 1, "max_length": 128, "micro_batch_size": 2, "save_steps": 50},
}
_TUNE: dict[str, Any] = {
    "model": {"base": "base"},
    "data": {"train": "chats.jsonl", "limit": 10},
    "run": {"output": "out"},
    "tune": {"method": "lora", "rank": 4, "modules": ["q_proj"]},
}


def _recipe(random: Random, file: Path) -> None:
    _write(file, changed_toml(random.choice([_TRAIN, _TUNE]), random))


def _setting(random: Random, file: Path) -> None:
    key = ".".join(random.choice(["run", "mogu", "seed", "", " ", "a" * 300, "__class__"]) for _ in range(random.choice([1, 2, 3, 40])))
    value = random.choice(["1", "inf", "nan", "[", "[[" * 9_000, "'x", "\0", "{a=1}", "1\nx=2", "9" * 5_000])
    _write(file, (key + random.choice(["=", "", "=="]) + value).encode())


def _read_setting(file: Path) -> None:
    recipe = file.with_suffix(".toml")
    recipe.write_text('[model]\nbase = "b"\n[data]\ntrain = "t"\n[run]\noutput = "o"\n')
    read_recipe(recipe, [file.read_text()])


# --- data -----------------------------------------------------------------------------------------------------------------------------
_TOOL = {"type": "function", "function": {"name": "weather", "description": "d", "parameters": {"type": "object", "properties": {}}}}
_CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Kyiv"}}}
_RECORDS: list[Any] = [
    {
        "id": f"{label}{n}",
        "label": label,
        "instruction": f"How do I clean the {n}?",
        "affirm": f"Sure, {n}.",
        "reject": f"I can't help with {n}.",
    }
    for n in range(3)
    for label in ("benign", "malicious")
] + [
    {
        "id": "tools",
        "label": "benign",
        "tools": [_TOOL],
        "affirm": "It rains.",
        "reject": "No.",
        "messages": [
            {"role": "user", "content": "Rain?"},
            {"role": "assistant", "tool_calls": [_CALL]},
            {"role": "tool", "name": "weather", "tool_call_id": "1", "content": "yes"},
        ],
    }
]
_CHATS: list[Any] = [{"messages": [{"role": "user", "content": f"Ask {n}"}, {"role": "assistant", "content": "Say"}]} for n in range(3)]
_LISTS = {
    ".csv": 'goal,category,target\n"Name a, river",benign,"The ""Elbe"""\n"two\nlines",malicious,x\n',
    ".txt": "Name a river.\nBäume?\n\nBake bread\n",
    ".jsonl": '{"instruction": "a", "input": "b", "output": "c"}\n{"prompt": "d"}\n',
}


def _lines(rows: list[Any]) -> Callable[[Random, Path], None]:
    def make(random: Random, file: Path) -> None:
        lines = [changed_json(row, random).replace(b"\n", b" ") if random.randrange(5) < 2 else json.dumps(row).encode() for row in rows]
        if random.randrange(40) == 0:
            lines.append(b'{"id": "' + b"x" * random.choice([300, 2**20, 2**23]) + b'"}')
        if random.randrange(40) == 0:
            lines.append(b"{" + b",".join(b'"%x":1' % n for n in range(30_000)) + b',"1":2}')
        content = b"\n".join(lines) + b"\n"
        _write(file.with_suffix(".jsonl"), changed_bytes(content, random) if random.randrange(3) == 0 else content)

    return make


def _list(random: Random, file: Path) -> None:
    ending = random.choice(list(_LISTS))
    lines = _LISTS[ending].split("\n")
    lines.insert(
        random.randrange(len(lines) + 1),
        random.choice(
            ["", '"', ",", ",,", "\0", "\r", "\x85", "\u2028", "x" * 140_000, '"' + "\n" * 5_000, "\ufeff", "\x1b[2J", "[" * 5_000]
        ),
    )
    if random.randrange(3) == 0:
        lines[0] = random.choice(["goal,goal,x", "", "nothing,else", "GOAL,category,target", "goal,category,target,"])
    content = "\n".join(lines).encode()
    _write(file.with_suffix(ending), changed_bytes(content, random) if random.randrange(2) else content)


def _published_data(random: Random, folder: Path) -> None:
    folder.mkdir()
    files: dict[str, Any] = {
        f"{label}_{kind}.json": [{"instruction": f"{label} {n}", "output": f"o {n}"} for n in range(2)]
        for label in ("safety", "unsafety")
        for kind in ("affirm", "reject")
    }
    files["data_normal.json"] = [{"instruction": f"{label} {n}", "output": "o"} for label in ("safety", "unsafety") for n in range(2)]
    files["data_label.json"] = [0, 0, 1, 1]
    chosen = random.choice(list(files))
    for name, tree in files.items():
        _write(folder / name, changed_json(tree, random) if name == chosen else json.dumps(tree).encode())


# --- what analyses leave, and what callers send ---------------------------------------------------------------------------------------
_REQUEST = {
    "model": "m",
    "messages": [{"role": "user", "content": "x"}],
    "mogu": {"dial": 0.5, "routed_tokens": 5, "handoff": "continue"},
    "vllm_xargs": {"a": 1},
}


def _read_request(file: Path) -> None:
    try:
        request = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        raise ConfigError("The body is not JSON", expected="JSON", action="correct it") from None  # what the server answers itself
    asked = request.get("mogu") if isinstance(request, dict) else file.read_text("utf-8", "replace")
    _each(lambda: RequestSettings.with_overrides(MoguConfig(), asked), lambda: check_chat(request, frozenset(["<|im_start|>"])))


def _read_measurements(file: Path) -> None:
    folder = file.with_name("measured")
    folder.mkdir(exist_ok=True)
    shutil.copy(file, folder / "measured.jsonl")
    MeasurementCache(folder, "x").find(("a",))


_SMALL: dict[str, tuple[Any, Callable[[Path], Any]]] = {
    "openings": ({"affirm": ["Sure, here is", "Yes"], "refuse": ["I cannot"], "builtin": True}, read_openings),
    "tools": ([_TOOL, _TOOL], read_tools),
    "detector": ({"format": 1, "layer": 2, "weights": [0.1, 0.2], "bias": 0.3}, LinearHead.load),
    "robustness map": (
        {"format": 1, "modules": [{"layer": 0, "name": "mlp.up_proj", "drop": 0.1}], "subset": {"modules": ["mlp.up_proj"], "drop": 0.1}},
        read_robust_modules,
    ),
    "tendency": (
        {"format": 1, "instructions": [{"id": str(n), "label": "benign", "instruction": f"i {n}", "tendency": 0.1 * n} for n in range(6)]},
        lambda file: tendency_wrapper(f"tendency={file}"),
    ),
    "measurements": ({"key": "k", "values": [1.0, 2.0]}, _read_measurements),
}


# --- tools ----------------------------------------------------------------------------------------------------------------------------
def _json(tree: Any) -> Callable[[Random, Path], None]:
    return lambda random, file: _write(file.with_suffix(".json"), changed_json(tree, random))


def _write(file: Path, content: bytes) -> None:
    file.write_bytes(content)


def _each(*calls: Callable[[], Any]) -> None:
    """Call all of them; raise the first error of ours only if none went well."""
    errors = []
    for call in calls:
        try:
            call()
        except MoguError as error:
            errors.append(error)
    if len(errors) == len(calls):
        raise errors[0]
