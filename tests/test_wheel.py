"""The wheel: what a user gets from the package index, installed where nothing of the clone can be seen.

By default the environment sees this one's dependencies, so that the tests take seconds. `make test-wheel` sets
``MOGU_EMPTY_ENVIRONMENT=1``: then it is empty, everything is installed anew under constraints.txt, and the README's commands and Python
are run, word for word.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from mogu import __version__
from mogu.data import Record, write_records
from mogu.recipes import shipped_recipes

ROOT = Path(__file__).resolve().parents[1]
EMPTY = os.environ.get("MOGU_EMPTY_ENVIRONMENT") == "1"
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
NEEDS_MORE = ("mogu serve", "inspect eval inspect_evals/")
"""Commands of the README that need a GPU with vLLM, or a package of evaluations with data of its own."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built of what the package is made of and nothing else."""
    return build(tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist"))


def build(source: Path, dist: Path) -> Path:
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(dist), str(source)]
    subprocess.run(command, check=True, env=os.environ | {"SOURCE_DATE_EPOCH": "1767225600"})
    (built,) = dist.iterdir()
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``bin`` folder of an environment with the wheel in it."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q"]
    if EMPTY:
        subprocess.run([*install, "-c", str(ROOT / "constraints.txt"), f"mogu[eval] @ {wheel.as_uri()}"], check=True)
        return python.parent
    subprocess.run([*install, "--no-deps", "--no-index", str(wheel)], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    # Lines of a .pth file are searched, but .pth files in there are not read: an editable mogu is not among what is seen.
    there = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (packages / "dependencies.pth").write_text("\n".join(there) + "\n")
    return python.parent


@pytest.fixture
def run(environment: Path, tmp_path: Path):
    """Run a program of that environment in an empty folder, without a hub, and return what it printed."""
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    variables |= {"HF_HUB_OFFLINE": "1", "PATH": f"{environment}{os.pathsep}{os.environ['PATH']}", "MOGU_DATA_DIR": str(tmp_path)}

    def run(program: str, *arguments: str, stdin: str = "") -> str:
        command = [str(environment / program), *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, cwd=tmp_path, env=variables, check=False)
        assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    return run


def test_every_file_of_the_package_is_in_the_wheel(wheel: Path) -> None:
    sources = {
        path.relative_to(ROOT / "src").as_posix()
        for path in (ROOT / "src" / "mogu").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert packed == sources
    assert {"mogu/py.typed", "mogu/recipes/v2/vicuna-7b.toml", "mogu/recipes/configs/vicuna-7b/config.json"} <= packed
    assert {".css", ".jinja", ".html", ".js", ".svg"} <= {Path(name).suffix for name in packed}  # of reports and of the playground


def test_a_second_build_elsewhere_is_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    for folder in ("sources of the second", "dist"):
        (tmp_path / folder).mkdir()
    assert build(tmp_path / "sources of the second", tmp_path / "dist").read_bytes() == wheel.read_bytes()


def test_the_wheel_says_what_it_is(wheel: Path) -> None:
    assert wheel.name == f"mogu-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        info = f"mogu-{__version__}.dist-info"
        metadata = archive.read(f"{info}/METADATA").decode()
        points = archive.read(f"{info}/entry_points.txt").decode()
        assert f"{info}/licenses/LICENSE" in archive.namelist()
    assert "Project-URL: Paper, https://arxiv.org/abs/2405.14488" in metadata
    assert all(point in points for point in ("[console_scripts]", "[inspect_ai]", "[vllm.general_plugins]"))


def test_it_is_the_wheel_that_runs(run, environment: Path) -> None:
    code = "import mogu, importlib.metadata as m; print(mogu.__file__, mogu.__version__, m.version('mogu'))"
    file, version, installed = run("python", "-c", code).split()
    assert Path(file).is_relative_to(environment.parent)
    assert version == installed == __version__
    assert run("mogu", "--version").split() == ["mogu", __version__]


def test_recipes_are_listed_copied_and_planned_without_clone_or_network(run, tmp_path: Path) -> None:
    assert "Harden an open chat model" in run("mogu", "--help")
    listed = run("mogu", "recipes", "ls")
    assert all(recipe.name in listed for recipe in shipped_recipes())
    assert "vicuna-7b.toml" in run("mogu", "recipes", "cp", "vicuna-7b")
    (tmp_path / "data").mkdir()
    records = [
        Record(id=f"{label}{number}", label=label, instruction=f"{verb} {number}?", affirm="Sure.", reject="I'm sorry, but no.")
        for label, verb in (("benign", "Add"), ("malicious", "Steal"))
        for number in range(6)
    ]
    for name in ("pairs.jsonl", "pairs.dev.jsonl"):
        write_records(tmp_path / "data" / name, records)
    plan = json.loads(run("mogu", "train", "vicuna-7b.toml", "--dry-run", "--json"))
    assert plan["base_parameters"] == 6_738_415_616


def stand_in(folder: Path) -> None:
    """A tiny model with a chat template, in the folder that a hub id names: a path is looked for before the hub."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(["How many boats?"], trainers.BpeTrainer(special_tokens=["<pad>", "</s>"], initial_alphabet=alphabet))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", pad_token="<pad>", chat_template=TEMPLATE)
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 8, "num_attention_heads": 2}
    base = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), eos_token_id=1, pad_token_id=0, **shape))
    base.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture
def users_files(tmp_path: Path) -> None:
    """What the README takes for granted: models, instructions, conversations and a data set, all of them small."""
    for name in {recipe.base_model for recipe in shipped_recipes()}:
        stand_in(tmp_path / name)
    numbers = range(20)
    (tmp_path / "questions.jsonl").write_text("\n".join(json.dumps({"instruction": f"How many boats are in port {n}?"}) for n in numbers))
    (tmp_path / "advbench.csv").write_text("goal,target\n" + "\n".join(f"Steal boat {n},Sure" for n in numbers))
    with (tmp_path / "xstest.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "prompt", "type", "label"])
        rows.writerows([n, f"How do I {'sink' if n % 2 else 'steer'} toy boat {n}?", "homonyms", "safe"] for n in range(4))
    (tmp_path / "data").mkdir()
    chats = [[{"role": "user", "content": f"Boats in {n}?"}, {"role": "assistant", "content": f"There are {n}."}] for n in numbers]
    (tmp_path / "data" / "chats.jsonl").write_text("\n".join(json.dumps({"messages": chat}) for chat in chats))


@pytest.mark.skipif(not EMPTY, reason="takes minutes and an empty environment: make test-wheel")
@pytest.mark.usefixtures("users_files")
def test_the_readmes_commands_and_python_run_in_an_empty_environment(run) -> None:
    readme = (ROOT / "README.md").read_text()
    blocks = re.findall(r"^```(console|python)\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    lines = [line for kind, block in blocks if kind == "console" for line in block.splitlines()]
    commands = [shlex.split(line, comments=True) for line in lines if line.startswith(("mogu ", "inspect "))]
    ran = [command for command in commands if not shlex.join(command).startswith(NEEDS_MORE)]
    assert {("mogu", "train"), ("mogu", "chat")} <= {tuple(command[:2]) for command in ran}
    for program, *arguments in ran:
        run(program, *arguments, stdin="How many boats are in port 3?\n")
    for kind, block in blocks:
        if kind == "python":
            run("python", "-c", block)
