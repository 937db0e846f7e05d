"""Whether a reply refuses, judged from its text and its prompt; nothing here needs a model, a network or PyTorch."""

from mogu.refusals.classifier import Label, RefusalVerdict, classify_refusal, is_refusal

__all__ = ["Label", "RefusalVerdict", "classify_refusal", "is_refusal"]
