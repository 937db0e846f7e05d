"""The lab registers with evaluation when it is imported, and evaluation does without it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from mogu.evaluation.compare import Comparison
from mogu.evaluation.prompts import JUDGES, EvalPrompt
from mogu.evaluation.sources import MODEL_SOURCES, PROMPT_SOURCES, RECORD_SOURCES
from mogu.lab import prompts
from mogu.lab.demo import lab_data, lab_recipe


def test_evaluation_knows_nothing_of_the_lab_until_it_is_imported() -> None:
    code = (
        "import sys, mogu.evaluation.compare, mogu.evaluation.tasks, mogu.evaluation.inspect.provider\n"
        "from mogu.evaluation.prompts import JUDGES\nfrom mogu.evaluation.sources import PROMPT_SOURCES\n"
        "assert not [name for name in sys.modules if name.startswith('mogu.lab')]\n"
        "assert 'lab' not in PROMPT_SOURCES and 'lab' not in JUDGES\n"
        "import mogu.lab\n"
        "assert 'lab' in PROMPT_SOURCES and 'lab' in JUDGES\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_it_offers_its_test_prompts_and_their_judge() -> None:
    assert PROMPT_SOURCES["lab"]() == prompts("test")
    prompt = EvalPrompt.plain("a", "lab", "benign", "What does the fennick eat?", answer="moss")
    assert JUDGES["lab"](prompt, "It eats moss.") == "answered"


def test_a_recipe_of_the_lab_names_records_that_are_found(tmp_path: Path) -> None:
    assert RECORD_SOURCES[str(lab_recipe(tmp_path, tmp_path / "model").data.train)]() == lab_data()


def test_the_lab_s_records_are_there_with_borderline_ones_as_well(tmp_path: Path) -> None:
    comparison = Comparison(("lab",), tmp_path, ("lab",), settings=('data.train="lab-borderline"',))
    for model in MODEL_SOURCES["lab"](comparison):
        made = model.records(model.recipe(0), None, None)  # type: ignore[attr-defined]
        assert [record for record in made["train"] if not record.borderline] == list(lab_data()["train"])
        assert sum(record.borderline for record in made["train"]) == 300
        assert made["dev"] == lab_data()["dev"]


def test_it_trains_by_every_method_for_every_seed_in_folders_of_their_own(tmp_path: Path) -> None:
    comparison = Comparison(("lab",), tmp_path, ("lab",), seeds=2, settings=("glad.epochs=1",))
    recipes = {(model.name, seed): model.recipe(seed) for model in MODEL_SOURCES["lab"](comparison) for seed in (0, 1)}
    methods = {"mogu": "v1", "mogu_v2": "v2", "mogu_gated": "gated"}
    assert {key: recipe.method for key, recipe in recipes.items()} == {(name, seed): methods[name] for name in methods for seed in (0, 1)}
    assert len({recipe.run.output for recipe in recipes.values()}) == 6
    assert {recipe.run.seed for (_, seed), recipe in recipes.items() if seed == 1} == {1}
    assert {recipe.glad.epochs for recipe in recipes.values() if recipe.method != "gated"} == {1}
