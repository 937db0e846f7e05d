"""What the report calls things, and how it writes numbers.

Knows names and numbers; knows nothing of plots or pages.
"""

from __future__ import annotations

from typing import Any

DEFENSES = {
    "none": "no defense",
    "sft": "SFT",
    "detect_inp": "Detect-input",
    "self_reminder": "Self-reminder",
    "self_examine": "Self-examine",
    "retokenization": "Retokenization",
    "icd": "ICD",
    "safe_decoding": "SafeDecoding",
    "mogu": "MoGU",
    "mogu_v2": "MoGU V2",
}

CATEGORIES = {
    "malicious": "malicious",
    "malicious_wrapped": "jailbroken",
    "benign": "benign",
    "benign_wrapped": "benign in a wrapper",
    "borderline": "borderline",
    "all_malicious": "all malicious",
    "all_benign": "all benign",
}

OUTCOMES = {"answered": "answered", "refused": "refused", "complied": "complied", "other": "neither"}


def percent(value: float) -> str:
    """A share, in percent; one decimal where rounding would hide that it is not whole."""
    hundred = 100 * value
    if value in (0, 1) or (1 <= hundred <= 99 and abs(hundred - round(hundred)) < 0.05):
        return f"{hundred:.0f} %"
    return f"{hundred:.1f} %"


def interval(row: dict[str, Any]) -> str:
    """The 95 % interval of a share."""
    return f"{100 * row['low']:.1f} to {100 * row['high']:.1f}"


def points(value: float) -> str:
    """A difference of shares, in percentage points."""
    return f"{100 * value:+.1f}".replace("-", "−")


def seconds(value: float) -> str:
    """A time, in the unit that suits it."""
    return f"{value:.2f} s" if value >= 1 else f"{1000 * value:.0f} ms"


def size(value: float) -> str:
    """Bytes, in the unit that suits them."""
    for unit, one in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= one:
            return f"{value / one:.2f} {unit}"
    return f"{value:.0f} B"
