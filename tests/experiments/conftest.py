"""Puts the project's root on the path: ``experiments`` is a folder of scripts, not an installed package."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
