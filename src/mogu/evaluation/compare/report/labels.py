"""What the report calls categories, outcomes and scorers.

Knows words; knows nothing of plots or pages. Labels of defenses and models are in the results.
"""

from __future__ import annotations

CATEGORIES = {
    "malicious": "malicious",
    "malicious_wrapped": "jailbroken",
    "benign": "benign",
    "benign_wrapped": "benign in a wrapper",
    "borderline": "borderline",
    "all_malicious": "all malicious",
    "all_benign": "all benign",
}

SCORERS = {"classifier": "the classifier", "strings": "the list of published strings", "guard": "the guard"}

OUTCOMES = {"answered": "answered", "refused": "refused", "complied": "complied", "other": "neither"}
