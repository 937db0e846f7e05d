"""Judge from the texts of a prompt and its reply whether the reply refuses; this needs no model, no network and no PyTorch."""

from mogu.refusals.classifier import RefusalLabel, RefusalVerdict, classify_refusal, is_refusal

__all__ = ["RefusalLabel", "RefusalVerdict", "classify_refusal", "is_refusal"]
