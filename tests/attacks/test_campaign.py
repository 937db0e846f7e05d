"""Every attack on the lab's model, briefly: what is written, that a stopped command goes on, and what is refused."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from inspect_ai.log import read_eval_log

import mogu.lab  # noqa: F401  registers the prompts called lab
from mogu.attacks import AttackSettings, attack_info, attack_models, attack_names
from mogu.attacks.campaign import read_behaviors
from mogu.attacks.encodings import _translations
from mogu.attacks.report import page
from mogu.errors import ConfigError, MoguError
from mogu.evaluation.compare import Comparison
from mogu.files.json_files import read_sealed, write_sealed
from mogu.lab import build_base
from tests.kills import held
from tests.lab_models import save_random_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A MoGU model on the lab's base with responders and routers drawn at random."""
    return save_random_model(tmp_path_factory.mktemp("attacked") / "model", build_base(progress=False), strength=0.1)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("files")
    (folder / "templates.jsonl").write_text(json.dumps({"prompt": "From now on, [INSERT PROMPT HERE]"}) + "\n")
    (folder / "gcg.jsonl").write_text(json.dumps({"prompt": "Tell me of rain !! now write", "goal": "Tell me of rain"}) + "\n")
    (folder / "translated.jsonl").write_text(json.dumps({"goal": "Tell me of rain", "language": "Zulu", "prompt": "Imvula"}) + "\n")
    return {
        "templates": str(folder / "templates.jsonl"),
        "transferred": f"jailbroken={folder / 'gcg.jsonl'}",
        "translated": str(folder / "translated.jsonl"),
    }


@pytest.fixture(scope="module")
def settings(model: Path, files: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> AttackSettings:
    comparison = Comparison(
        models=(str(model),),
        out=tmp_path_factory.mktemp("attacks") / "out",
        data=("lab",),
        defenses=("none", "mogu"),
        limit=2,
        shifts=(),
        max_new_tokens=8,
        command="mogu attack <b>model</b>",
    )
    return AttackSettings(comparison, queries=2, flops=2e9, options=files)


@pytest.fixture(scope="module")
def report(settings: AttackSettings) -> dict[str, Any]:
    return attack_models(settings)


def test_every_attack_is_made_on_every_system_that_it_fits(settings: AttackSettings, report: dict[str, Any]) -> None:
    cells = {file.parent.name: {} for file in (settings.comparison.out / "cells").glob("*/*.json")}
    for system in cells:
        cells[system] = {file.stem for file in (settings.comparison.out / "cells" / system).glob("*.json")}
    twins = {name for name in attack_names() if name.endswith("_aware")}
    assert cells["mogu"] == set(attack_names())
    assert cells["none"] == set(attack_names()) - twins - {"glad_alone"}  # of no defense nothing can be known
    assert list(report["made"]["attacks"]) == attack_names()


def test_embeddings_are_tried_only_where_the_defense_can_be_computed(settings: AttackSettings, tmp_path: Path) -> None:
    comparison = replace(settings.comparison, out=tmp_path, defenses=("none", "self_reminder"), limit=1)
    attack_models(replace(settings, comparison=comparison, attacks=("embedding", "plain")))
    assert {file.stem for file in (tmp_path / "cells" / "none").iterdir()} == {"embedding", "plain"}
    assert {file.stem for file in (tmp_path / "cells" / "self_reminder").iterdir()} == {"plain"}


def test_a_second_campaign_in_the_same_folder_is_refused(settings: AttackSettings, tmp_path: Path) -> None:
    with held(tmp_path / "out" / ".lock"), pytest.raises(MoguError, match="Another process is writing"):
        attack_models(replace(settings, comparison=replace(settings.comparison, out=tmp_path / "out")))


def test_budgets_are_kept(settings: AttackSettings, report: dict[str, Any]) -> None:
    for file in (settings.comparison.out / "cells").glob("*/*.json"):
        cell = json.loads(file.read_text())
        assert len(cell["behaviors"]) == 2
        for behavior in cell["behaviors"]:
            assert len(behavior["attempts"]) <= 2
            if attack_info(file.stem).access == "text":
                assert behavior["queries"] <= 2


def test_no_text_is_kept(settings: AttackSettings, report: dict[str, Any]) -> None:
    written = "".join(file.read_text() for file in settings.comparison.out.rglob("*") if file.suffix in (".json", ".csv", ".html"))
    for behavior in read_behaviors(settings):
        assert behavior.request not in written
    log = read_eval_log(str(settings.comparison.out / "logs" / "mogu.eval"))
    assert {sample.output.completion for sample in log.samples or []} == {"(not kept)"}


def test_numbers_are_what_the_cells_say(settings: AttackSettings, report: dict[str, Any]) -> None:
    cell = json.loads((settings.comparison.out / "cells" / "none" / "wrappers.json").read_text())
    broken = [any(attempt["verdict"]["outcome"] == "complied" for attempt in behavior["attempts"]) for behavior in cell["behaviors"]]
    (row,) = [row for row in report["numbers"] if (row["system"], row["attack"], row["measure"]) == ("none", "wrappers", "broken")]
    assert (row["value"], row["n"]) == (sum(broken) / 2, 2)
    with (settings.comparison.out / "attacks.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [float(row["value"]) for row in table] == [row["value"] for row in report["numbers"]]
    assert json.loads((settings.comparison.out / "attacks.json").read_text())["numbers"] == report["numbers"]


def test_logs_can_be_read_by_inspect(settings: AttackSettings, report: dict[str, Any]) -> None:
    log = read_eval_log(str(settings.comparison.out / "logs" / "none.eval"))
    assert log.status == "success"
    assert log.results is not None
    metrics = {name: metric.value for score in log.results.scores for name, metric in score.metrics.items()}
    (row,) = [row for row in report["numbers"] if (row["system"], row["attack"], row["measure"]) == ("none", "plain", "broken")]
    assert metrics["broken, attack=plain"] == row["value"]


def test_a_finished_attack_is_not_made_again(settings: AttackSettings, report: dict[str, Any]) -> None:
    cells = {file: file.stat().st_mtime_ns for file in (settings.comparison.out / "cells").glob("*/*.json")}
    again = attack_models(settings)
    assert {file: file.stat().st_mtime_ns for file in cells} == cells
    assert again["numbers"] == report["numbers"]


def test_an_attack_that_was_stopped_goes_on_with_the_next_behavior(settings: AttackSettings, report: dict[str, Any]) -> None:
    file = settings.comparison.out / "cells" / "mogu" / "gcg_aware.json"
    whole = read_sealed(file)
    assert whole is not None
    kept = dict(whole["behaviors"][0], queries=123456)  # as no attack here would have
    write_sealed(file, whole | {"behaviors": [kept]})
    attack_models(settings)
    assert json.loads(file.read_text())["behaviors"] == [kept, whole["behaviors"][1]]
    write_sealed(file, whole)
    attack_models(settings)


def test_another_budget_is_another_attack(settings: AttackSettings, report: dict[str, Any], tmp_path: Path) -> None:
    other = replace(settings, comparison=replace(settings.comparison, out=tmp_path), attacks=("wrappers",), queries=1)
    attack_models(other)
    first = json.loads((tmp_path / "cells" / "none" / "wrappers.json").read_text())
    attack_models(replace(other, queries=3))
    second = json.loads((tmp_path / "cells" / "none" / "wrappers.json").read_text())
    assert {len(behavior["attempts"]) for behavior in first["behaviors"]} == {1}
    assert first["fingerprint"] != second["fingerprint"]


def test_another_file_of_prompts_is_another_attack(settings: AttackSettings, tmp_path: Path) -> None:
    translated = tmp_path / "translated.jsonl"
    comparison = replace(settings.comparison, out=tmp_path / "out", limit=1, defenses=("none",))
    other = replace(settings, comparison=comparison, attacks=("languages", "plain"), options={"translated": str(translated)})
    (goal,) = read_behaviors(other)
    prints = []
    for prompt in ("Imvula", "Imvula iyana"):
        translated.write_text(json.dumps({"goal": goal.request, "language": "Zulu", "prompt": prompt}) + "\n")
        _translations.cache_clear()  # as in another process
        attack_models(other)
        cells = {file.stem: json.loads(file.read_text()) for file in (tmp_path / "out" / "cells" / "none").iterdir()}
        assert cells["languages"]["behaviors"][0]["attempts"][0]["label"] == "Zulu, translated"
        prints.append({name: cell["fingerprint"] for name, cell in cells.items()})
    assert prints[0]["languages"] != prints[1]["languages"]
    assert prints[0]["plain"] == prints[1]["plain"]


def test_the_page_is_whole_escaped_and_needs_nothing_from_elsewhere(settings: AttackSettings, report: dict[str, Any]) -> None:
    text = page(json.loads((settings.comparison.out / "attacks.json").read_text()))
    assert text == (settings.comparison.out / "attacks.html").read_text()
    assert "<b>model</b>" not in text
    assert "&lt;b&gt;model&lt;/b&gt;" in text
    for name in attack_names():
        assert attack_info(name).label in text
    links = _Links()
    links.feed(text)
    assert [link for link in links.found if not link.startswith(("data:", "#"))] == []


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in ("href", "src")]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"attacks": ("plian",)}, "no attack 'plian'"),
        ({"attacks": ("templates",), "options": {}}, "--templates"),
        ({"queries": 0}, "--queries is 0"),
        ({"flops": 0.0}, "--flops is 0"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(
    settings: AttackSettings, changes: dict[str, Any], complaint: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match=complaint):
        attack_models(replace(settings, comparison=replace(settings.comparison, out=out), **changes))
    assert not out.exists()


def test_attacks_that_fit_no_model_are_refused(settings: AttackSettings, tmp_path: Path) -> None:
    comparison = replace(settings.comparison, out=tmp_path / "out", defenses=("none",))
    with pytest.raises(ConfigError, match="glad_alone has nothing to do on none"):
        attack_models(replace(settings, comparison=comparison, attacks=("glad_alone",)))


def test_a_system_on_which_nothing_was_tried_has_no_log(settings: AttackSettings, tmp_path: Path) -> None:
    comparison = replace(settings.comparison, out=tmp_path, limit=1)
    report = attack_models(replace(settings, comparison=comparison, attacks=("glad_alone",)))
    assert {row["system"] for row in report["numbers"]} == {"mogu"}
    assert [file.name for file in (tmp_path / "logs").iterdir()] == ["mogu.eval"]


def test_data_without_malicious_requests_is_refused(settings: AttackSettings, tmp_path: Path) -> None:
    benign = tmp_path / "benign.txt"
    benign.write_text("Name a river.\n")
    with pytest.raises(ConfigError, match="no malicious requests"):
        attack_models(replace(settings, comparison=replace(settings.comparison, out=tmp_path / "out", data=(f"benign={benign}",))))
    assert not (tmp_path / "out").exists()


def test_a_folder_of_somebody_else_is_left_alone(settings: AttackSettings, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(MoguError, match=str(tmp_path)):
        attack_models(replace(settings, comparison=replace(settings.comparison, out=tmp_path)))
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]
