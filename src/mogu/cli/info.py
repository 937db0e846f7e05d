"""`mogu info`: facts about a saved model, without loading its base model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mogu.cli._options import ModelPath
from mogu.cli._terminal import echo


def info(path: ModelPath, as_json: Annotated[bool, typer.Option("--json", help="Print the facts as one JSON object.")] = False) -> None:
    """Show a saved model's base model, settings, size and the results of its training.

    Example: mogu info safer-model
    """
    facts = _facts(path)
    if as_json:
        echo(json.dumps(facts, ensure_ascii=False, indent=2))
        return
    table = Table("", "", show_header=False, box=None)
    for name, value in facts.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {_short(inner)}" for key, inner in value.items())
        table.add_row(name.replace("_", " "), escape(_short(value)))
    Console().print(table)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _facts(path: str) -> dict[str, Any]:
    from mogu.hub import fetch_model_folder
    from mogu.modeling.adapter_files import read_adapter, read_tensors
    from mogu.modeling.checkpoint import BACKBONE, CONFIG_FILE, ROUTER_FILE, read_config
    from mogu.modeling.saved_files import check_files

    folder = fetch_model_folder(path, marker=CONFIG_FILE)
    config = read_config(folder)
    backbone = read_adapter(folder / BACKBONE) if config.backbone is not None else None
    adapters = [*(read_adapter(folder / name) for name in config.responders), *([backbone] if backbone is not None else [])]
    routers = read_tensors(folder / ROUTER_FILE)
    check_files(folder, config)
    adapter_sizes = [tensor.numel() for adapter in adapters for pair in adapter.weights.values() for tensor in pair]
    facts: dict[str, Any] = {
        "folder": str(folder),
        "base_model": config.base_model,
        "base_revision": config.base_revision,
        "base_quantization": config.base_quantization,
        "base_shape": config.base_shape.model_dump() if config.base_shape else None,
        "method": config.method,
        "routed_layers": len(adapters[0].weights),
        "responders": ", ".join(config.responders),
        "gate": config.gate.model_dump(include={"refuse", "careful", "listen"}) if config.gate is not None else None,
        "adapted_modules": len(backbone.weights) if backbone is not None else 0,
        "rank": config.rank,
        "lora_alpha": config.lora_alpha,
        "routed_tokens": config.routed_tokens,
        "answer_marker": config.answer_marker,
        "handoff": config.handoff,
        "dial": config.dial,
        "added_parameters": sum(adapter_sizes) + sum(tensor.numel() for tensor in routers.values()),
    }
    report_file = folder / "training_report.json"
    if report_file.is_file():
        facts |= _reported(report_file)
    return facts


def _reported(file: Path) -> dict[str, Any]:
    """What the report of a model's training says of its data and of what it did on the dev records."""
    from mogu.errors import ModelFileError
    from mogu.files.text_files import parse_json
    from mogu.modeling.adapter_files import read_text

    try:
        report = parse_json(read_text(file))
        rates = [rate for rate in ("malicious_refused", "benign_answered", "borderline_answered") if rate in report["chosen"]]
        return {
            "trained_on": {f"{split} {label}": count for split, counts in report["records"].items() for label, count in counts.items()},
            "base_on_dev": {rate: report["base_on_dev"][rate] for rate in rates},
            "mogu_on_dev": {rate: report["chosen"][rate] for rate in rates},
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelFileError(
            f"{file} is no report of a training ({error!r})", expected="the file as `mogu train` wrote it", action="copy the folder again"
        ) from error
