"""A recipe that a tiny chat model is hardened by within a second or two. Knows nothing of what is tested with it."""

from __future__ import annotations

import json
from pathlib import Path

from mogu.data import Record, write_records
from tests.training.conftest import save_chat_model


def write_tiny_recipe(folder: Path) -> Path:
    """Write the recipe ``tiny.toml`` of the method V1, its model and twelve records into a folder."""
    save_chat_model(folder / "base")
    texts = {"affirm": "Sure, here it is.", "reject": "I cannot help with that."}
    records = [
        Record(id=f"{label}{number}", label=label, instruction=f"{verb} {number}?", **texts)
        for label, verb in (("benign", "Add"), ("malicious", "Steal"))
        for number in range(6)
    ]
    write_records(folder / "pairs.jsonl", records)
    file = folder / "tiny.toml"
    file.write_text(
        f"""
method = "v1"
[model]
base = {json.dumps(str(folder / "base"))}
[data]
train = {json.dumps(str(folder / "pairs.jsonl"))}
[mogu]
router_hidden = 16
[glad]
epochs = 1
[unwill]
epochs = 1
[router]
epochs = 1
[choice]
checkpoints = [1.0]
weight_penalties = [2.0]
max_new_tokens = 2
[run]
output = "replaced"
max_length = 128
"""
    )
    return file
