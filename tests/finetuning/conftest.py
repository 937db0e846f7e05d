"""The tiny chat model and the records that the training tests use as well."""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

_SPEC = spec_from_file_location("training_fixtures", Path(__file__).parents[1] / "training" / "conftest.py")
assert _SPEC is not None
assert _SPEC.loader is not None
_FIXTURES = module_from_spec(_SPEC)
_SPEC.loader.exec_module(_FIXTURES)

base_folder, records, record_files = _FIXTURES.base_folder, _FIXTURES.records, _FIXTURES.record_files
