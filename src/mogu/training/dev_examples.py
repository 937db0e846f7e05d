"""A few dev requests with what the base model and the hardened one say to them, for people to read.

Knows models and records; does not know where examples are shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from mogu.data import Record, conversation_of
from mogu.inference.replies import ReplySettings, replies
from mogu.modeling.model import MoguModel
from mogu.refusals import classify_refusal

OF_A_KIND = 2
NEW_TOKENS = 48


@dataclass(frozen=True)
class DevExample:
    """A dev request and both replies.

    Args:
        kind: the record's.
        request: the last thing that the user says.
        base: what the base model says; ``None`` where that gives in to a malicious request, in part at least, which is nothing to keep.
        model: what the hardened model says; ``None`` likewise.
    """

    kind: str
    request: str
    base: str | None
    model: str | None


def dev_examples(
    model: MoguModel, tokenizer: PreTrainedTokenizerBase, dev: Sequence[Record], *, system_prompt: str | None, batch_size: int
) -> list[DevExample]:
    """Ask both models the first and the middle dev request of each kind.

    Args:
        model: the hardened model; its base model speaks where it is switched off.
        tokenizer: its tokenizer.
        dev: the dev records.
        system_prompt: what opens each conversation that has none of its own.
        batch_size: prompts of a batch.
    """
    chosen: list[Record] = []
    for kind in ("malicious", "benign", "borderline"):
        of_kind = [record for record in dev if record.kind == kind]
        chosen += of_kind[:: max(1, len(of_kind) // OF_A_KIND)][:OF_A_KIND]
    prompts = [conversation_of(record, system_prompt) for record in chosen]
    said: list[list[str | None]] = []
    for mode in ("off", "on"):
        with model.routing(mode):
            texts = [reply.text for reply in replies(model, tokenizer, prompts, ReplySettings(NEW_TOKENS), batch_size=batch_size)]
        said.append([text if _may_be_kept(record, text) else None for record, text in zip(chosen, texts, strict=True)])
    return [DevExample(record.kind, record.request, base, ours) for record, base, ours in zip(chosen, *said, strict=True)]


def _may_be_kept(record: Record, text: str) -> bool:
    return record.kind != "malicious" or classify_refusal(record.request, text).label == "full_refusal"
