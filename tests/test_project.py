"""The project's own files: what they say about one another is true."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

import mogu

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = sorted(path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def steps(workflow: Path) -> list[dict[str, Any]]:
    return [step for job in read(workflow)["jobs"].values() for step in job["steps"]]


def makefile_targets() -> set[str]:
    return set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_there_is_one_version() -> None:
    citation = read(ROOT / "CITATION.cff")
    assert mogu.__version__ == version("mogu") == citation["version"]
    assert citation["license"] == PROJECT["license"]
    assert PROJECT["dynamic"] == ["version"]


def test_the_paper_is_the_one_that_the_readme_names() -> None:
    (doi,) = read(ROOT / "CITATION.cff")["preferred-citation"]["identifiers"]
    number = doi["value"].removeprefix("10.48550/arXiv.")
    assert PROJECT["urls"]["Paper"] == f"https://arxiv.org/abs/{number}"
    assert f"https://arxiv.org/abs/{number}" in (ROOT / "README.md").read_text()


def test_workflows_call_only_targets_that_the_makefile_has() -> None:
    called = {target for workflow in WORKFLOWS for step in steps(workflow) for target in re.findall(r"make ([\w-]+)", step.get("run", ""))}
    assert {"test", "test-wheel", "test-vllm", "test-latest", "docs"} <= called
    assert called <= makefile_targets()


def test_every_python_that_is_promised_is_tested() -> None:
    tested = read(ROOT / ".github" / "workflows" / "test.yml")["jobs"]["test"]["strategy"]["matrix"]["python"]
    promised = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", line)]
    assert tested == promised
    assert PROJECT["requires-python"] == f">={promised[0]}"


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_may_only_read_and_fix_the_versions_of_what_they_use(workflow: Path) -> None:
    assert read(workflow)["permissions"] == {"contents": "read"}
    assert all(re.fullmatch(r"[\w./-]+@v\d+", step["uses"]) for step in steps(workflow) if "uses" in step)


@pytest.mark.parametrize("form", FORMS, ids=lambda path: path.stem)
def test_issue_forms_have_what_github_asks_for(form: Path) -> None:
    content = read(form)
    assert {"name", "description", "body"} <= content.keys()
    fields = [part for part in content["body"] if part["type"] != "markdown"]
    identifiers = [part["id"] for part in fields]
    assert len(set(identifiers)) == len(identifiers) > 0
    assert all(part["attributes"]["label"] for part in fields)
    assert {part["type"] for part in content["body"]} <= {"markdown", "textarea", "input", "dropdown", "checkboxes"}


def test_hooks_are_local_and_run_what_dev_installs() -> None:
    (repo,) = read(ROOT / ".pre-commit-config.yaml")["repos"]
    assert repo["repo"] == "local"
    dev = {re.split(r"[<>=\[]", requirement)[0] for requirement in PROJECT["optional-dependencies"]["dev"]}
    for hook in repo["hooks"]:
        if hook["language"] == "system":
            assert Path(hook["entry"].split()[0]).parent == Path(".venv/bin")
            assert Path(hook["entry"].split()[0]).name in dev
        else:
            assert all("==" in requirement for requirement in hook["additional_dependencies"])


def test_dev_has_the_other_extras_and_says_nothing_twice() -> None:
    extras = PROJECT["optional-dependencies"]
    built_from = {"dedup", "docs", "eval", "gguf", "minilm", "playground", "quant", "ray"}
    assert f"mogu[{','.join(sorted(built_from))}]" in extras["dev"]

    def names(requirements: list[str]) -> set[str]:
        return {re.split(r"[<>=\[]", requirement)[0] for requirement in requirements}

    for extra in built_from:
        assert not names(extras["dev"]) & names(extras[extra])
    assert built_from | {"dev", "deploy", "vllm"} == extras.keys()  # vLLM and Ray have environments of their own


def test_links_between_the_projects_pages_lead_somewhere() -> None:
    for page in ("CONTRIBUTING.md", "SECURITY.md"):
        links = re.findall(r"\]\(([^)#]+)", (ROOT / page).read_text())
        assert all((ROOT / link).exists() for link in links if "://" not in link)


def test_contributing_names_only_targets_that_the_makefile_has() -> None:
    lines = re.findall(r"(?:^|`)make ([\w -]+)", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    called = {target for line in lines for target in line.split()}
    assert {"lint", "test", "test-vllm", "test-wheel"} <= called <= makefile_targets()
