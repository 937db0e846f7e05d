"""Read a file of tools: a JSON list of the tools that a model is offered.

Knows one small JSON file; knows nothing of chat templates or of what tools do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from mogu.data.records import Tool
from mogu.errors import DataError
from mogu.files.text_files import parse_json, read_whole

MAX_FILE_BYTES = 1_048_576
_TOOLS: TypeAdapter[list[dict[str, Any]]] = TypeAdapter(list[Tool])


def read_tools(path: Path) -> list[dict[str, Any]]:
    """Read the tools of a file, in the form that ``apply_chat_template`` takes.

    Raises:
        DataError: there is no such file, or it is not a list of tools.
    """
    expected = 'a JSON list of {"type": "function", "function": {"name": "…", "description": "…", "parameters": {…}}}'
    try:
        tools = _TOOLS.validate_python(parse_json(read_whole(path, MAX_FILE_BYTES)))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = f", tool {first['loc'][0]}" if first["loc"] else ""
        raise DataError(f"{path}{where}: {first['msg'].removeprefix('Value error, ')}", expected=expected, action="correct it") from error
    except ValueError as error:
        raise DataError(f"{path} {error}", expected=expected, action="correct it") from error
    if not tools:
        raise DataError(f"{path} holds an empty list", expected=expected, action="name a tool, or leave --tools out")
    return tools
