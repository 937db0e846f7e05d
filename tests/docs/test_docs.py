"""README and docs say what is so: every block runs or says what it needs, every command line parses, generated pages are up to date.

The pages stand in the order of the tutorials: the first one makes a small hardened model, and every other page runs where that was done.
"""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from mogu.cli import app
from tests.docs.blocks import LANGUAGES, NEEDS, PAGES, ROOT, Block, blocks, run_page

FIRST = ROOT / "docs" / "tutorials" / "harden.md"
ALL = [block for page in PAGES for block in blocks(page)]
RUNNABLE = [page for page in PAGES if page != FIRST and any(block.runs for block in blocks(page))]

# Words of the field, or of this project, that a newcomer may not know.
TERMS = """
accuracy|activation|adapter|affirm|alpha|answer marker|attack success|augment|auroc|backbone|bank|base model|baseline|batch|benign
calibrat|candidate|cell|chat template|checkpoint|data-mix|defense|dial|draw|dry run|dtype|epoch|fold|frontier|glad|greedy|grid|guard
handoff|hardened|hub|jailbreak|judge|lab|latency|lora|malicious|margin|ml-lr|module|noise|opening|output projection|prefill|probe|proxy
recipe|recompute|record|refus|release|responder|revision|robust|routed|router|sampl|score|seed|share|shift|slow factor|stage|strength
system prompt|temperature|template|tendency|threshold|tolerance|unwill|v2|wrapper
"""


def name(thing: Path | Block) -> str:
    return str(thing.relative_to(ROOT)) if isinstance(thing, Path) else str(thing)


def test_first_tutorial_makes_a_hardened_model(after_first_tutorial: Path) -> None:
    assert (after_first_tutorial / "safer-model" / "mogu_config.json").is_file()


@pytest.mark.parametrize("page", RUNNABLE, ids=name)
def test_blocks_run_where_the_first_tutorial_was_followed(page: Path, tutorial: Path) -> None:
    run_page(page, tutorial)


@pytest.mark.parametrize("block", ALL, ids=str)
def test_block_names_its_language_and_known_needs(block: Block) -> None:
    assert block.language in LANGUAGES
    assert set(block.needs) <= set(NEEDS)
    if block.language not in ("console", "python", "text"):
        assert not block.needs
        assert not re.search(r"^(mogu|pip|python) ", block.code, re.MULTILINE), "a command belongs into a console block"


@pytest.mark.parametrize("block", [block for block in ALL if block.language == "console"], ids=str)
def test_every_command_line_parses(block: Block) -> None:
    for arguments in block.commands():
        command = typer.main.get_command(app)
        while hasattr(command, "commands"):
            command, arguments = command.commands[arguments[0]], arguments[1:]
        command.make_context("mogu", list(arguments))  # unknown options and values of the wrong type raise


@pytest.mark.parametrize("block", [block for block in ALL if block.language == "python" and block.needs], ids=str)
def test_python_that_is_not_run_compiles_and_imports_what_exists(block: Block) -> None:
    for node in ast.walk(ast.parse(block.code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "mogu":
            module = importlib.import_module(node.module or "")
            assert all(hasattr(module, alias.name) for alias in node.names)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_no_line_of_prose_is_over_150_characters_and_no_code_is_indented(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert not [line for line in text.splitlines() if len(line) > 150 and not line.startswith("|")]
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    assert not re.search(r"(?<=\n\n)    \S", prose), "code stands in a fenced block, where it is run"


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 120


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    prose = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", prose):
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), f"{name(page)}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}
            assert anchor in anchors, f"{name(page)}: {target}#{anchor}"


def test_pages_that_other_files_name_exist() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    named = {
        (file, page)
        for file in tracked
        if Path(file).suffix in {".py", ".toml", ".md", ".yaml", ".yml", ".jinja"} and (ROOT / file).is_file()
        for page in re.findall(r"(?<![\w/])docs/[\w/-]+\.md", (ROOT / file).read_text(encoding="utf-8"))
    }
    assert not [f"{file}: {page}" for file, page in sorted(named) if not (ROOT / page).is_file()]


def test_generated_pages_are_what_the_source_says() -> None:
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        generate = importlib.import_module("generate")
    finally:
        sys.path.pop(0)
    for page, text in generate.pages().items():
        assert page.read_text(encoding="utf-8") == text, f"{page.name} is out of date: run `make docs`"


def test_site_builds_with_no_page_left_out_and_no_link_broken(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="the site needs mogu[docs]; `make docs` installs it")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "concepts.html").is_file()


def test_concepts_define_the_terms_that_the_help_uses() -> None:
    concepts = (ROOT / "docs" / "concepts.md").read_text(encoding="utf-8").lower()
    defined = " ".join(re.findall(r"\*+([^*]+)\*+", concepts))
    used = (ROOT / "docs" / "reference" / "cli.md").read_text(encoding="utf-8").lower()
    assert not [term for term in re.split(r"[|\n]", TERMS.strip()) if term in used and term not in defined]


def test_concepts_define_each_term_once() -> None:
    concepts = (ROOT / "docs" / "concepts.md").read_text(encoding="utf-8")
    entries = [term.strip().lower() for entry in re.findall(r"^\*\*(.+?)\.?\*\*", concepts, re.MULTILINE) for term in entry.split(",")]
    assert len(entries) == len(set(entries))
