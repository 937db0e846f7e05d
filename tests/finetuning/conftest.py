"""The tiny chat model and the records that the training tests use as well, conversations, and a recipe to tune with."""

from __future__ import annotations

import json
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

_SPEC = spec_from_file_location("training_fixtures", Path(__file__).parents[1] / "training" / "conftest.py")
assert _SPEC is not None
assert _SPEC.loader is not None
_FIXTURES = module_from_spec(_SPEC)
_SPEC.loader.exec_module(_FIXTURES)

base_folder, records, record_files = _FIXTURES.base_folder, _FIXTURES.records, _FIXTURES.record_files

THINGS = ["kettle", "garden", "window", "bicycle", "ladder", "teapot"]


@pytest.fixture(scope="session")
def chats_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("chats") / "chats.jsonl"
    rows = [
        [
            {"role": "user", "content": f"Where is the {thing}?"},
            {"role": "assistant", "content": f"By the {THINGS[index - 1]}{'!' * index}"},
        ]
        for index, thing in enumerate(THINGS)
    ]
    file.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    return file


@pytest.fixture
def tree(base_folder: Path, chats_file: Path, tmp_path: Path) -> dict[str, Any]:
    return {
        "model": {"base": str(base_folder)},
        "data": {"train": str(chats_file), "dev": str(chats_file)},
        "tune": {"epochs": 3, "batch_size": 6, "learning_rate": 1e-2, "rank": 4, "lora_alpha": 8, "dropout": 0.0},
        "safety": {"max_new_tokens": 3},
        "run": {"output": str(tmp_path / "out"), "max_length": 128, "micro_batch_size": 4, "seed": 5},
    }
