"""What requests must be answered with: the library's own greedy replies, which have tests of their own, and PEFT's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from mogu import MoguModel
from mogu.hub import load_base
from mogu.inference.padding import left_pad

NEW_TOKENS = 24


@dataclass(frozen=True)
class Asked:
    """One request: its prompt, and whom it asks: ``None`` the base model, ``"plain"`` the LoRA, or a MoGU model."""

    prompt: tuple[int, ...]
    model: str | None
    opening: tuple[tuple[str, Any], ...] = ()

    @property
    def settings(self) -> dict[str, Any]:
        return dict(self.opening)


class Library:
    """Greedy replies of ``NEW_TOKENS`` tokens at most, end of sequence included, and scores."""

    def __init__(self, base: str, models: dict[str, Path], plain: Path, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.models: dict[str | None, Any] = {name: MoguModel.from_pretrained(str(folder)) for name, folder in models.items()}
        self.models["plain"] = PeftModel.from_pretrained(load_base(base), str(plain)).eval()
        self.models[None] = load_base(base).eval()

    def replies(self, asked: list[Asked]) -> list[tuple[list[int], float | None]]:
        found: dict[int, tuple[list[int], float | None]] = {}
        groups: dict[tuple[Any, ...], list[int]] = {}
        for index, one in enumerate(asked):
            groups.setdefault((one.model, one.opening), []).append(index)
        for (name, opening), indices in groups.items():
            model, settings = self.models[name], dict(opening)
            before = getattr(model, "dial", None)
            if "dial" in settings:
                model.dial = settings.pop("dial")
            batch = left_pad([list(asked[index].prompt) for index in indices], self.tokenizer.pad_token_id, torch.device("cpu"))
            with torch.no_grad():
                output = model.generate(
                    **batch, max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=self.tokenizer.pad_token_id, **settings
                )
            scores = getattr(model, "prompt_scores", None) if settings.get("routed_tokens", 1) != 0 else None
            for row, index in enumerate(indices):
                reply = output[row, batch["input_ids"].shape[1] :].tolist()
                end = reply.index(self.tokenizer.eos_token_id) + 1 if self.tokenizer.eos_token_id in reply else len(reply)
                found[index] = (reply[:end], float(scores[row]) if scores is not None else None)
            if before is not None:
                model.dial = before
        return [found[index] for index in range(len(asked))]
