"""Good files with a few things wrong with them. Knows bytes, JSON, TOML and safetensors; knows nothing of who reads them."""

from __future__ import annotations

import copy
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

ODD_TEXTS = (
    *("", " ", "\0", "\ud800", "\x1b]0;title\x07", "\ufeff", "\u202e", "\r\n", "x" * 5_000, "null", "٣"),
    *("../../../etc/passwd", "/dev/zero", "~", "..", "-rf", "--trust-remote-code", "owner/name", "owner/name@main"),
    *("{{ 7 * 7 }}", "[bold]x[/]", "%n%s", "(a+)+$", "model.layers.0.self_attn.o_proj"),
)
ODD_NUMBERS = (0, -1, 1, 2**31, 2**63, 2**64, 10**30, 10**400, 0.5, -0.0, 1e308, 1e-320, float("inf"), float("-inf"), float("nan"))
ODD_VALUES = (None, True, False, [], {}, [[]], {"": {}}, ["a", 1, None], *ODD_NUMBERS, *ODD_TEXTS)


def odd_value(random: Random) -> Any:
    """Something that stands where something else was expected."""
    kind = random.randrange(10)
    if kind < 8:
        return copy.deepcopy(random.choice(ODD_VALUES))
    if kind == 8:
        return [copy.deepcopy(random.choice(ODD_VALUES)) for _ in range(random.randrange(5))]
    nested: Any = 1
    for _ in range(random.choice([20, 90])):
        nested = [nested] if random.randrange(2) else {"a": nested}
    return nested


def _places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in inner:
        yield from _places(value, (*path, key))


def changed_tree(tree: Any, random: Random) -> Any:
    """A copy of JSON data with one to three changes: values exchanged, dropped, renamed, repeated."""
    tree = copy.deepcopy(tree)
    for _ in range(random.choice([1, 1, 1, 2, 3])):
        path = random.choice(list(_places(tree)))
        if not path:
            if random.randrange(10) == 0:
                return odd_value(random)
            continue
        parent = tree
        for key in path[:-1]:
            parent = parent[key]
        match random.randrange(6):
            case 0 | 1 | 2:
                parent[path[-1]] = odd_value(random)
            case 3:
                del parent[path[-1]]
            case 4 if isinstance(parent, dict):
                parent[random.choice(ODD_TEXTS)] = parent.pop(path[-1])
            case 5 if isinstance(parent, list):
                parent[path[-1] : path[-1]] = [odd_value(random) for _ in range(random.choice([1, 3, 200]))]
            case _:
                parent[path[-1]] = copy.deepcopy(tree)
    return tree


def as_json(tree: Any, random: Random) -> bytes:
    """The text of JSON data, now and then with fields given twice, deep nesting, endless numbers, or something behind it."""
    text = json.dumps(tree, indent=random.choice([None, 2]))
    match random.randrange(16):
        case 0 if isinstance(tree, dict) and tree:
            text = "{" + json.dumps(random.choice(list(tree))) + f": {json.dumps(odd_value(random))}, " + text[1:]
        case 1:
            depth = random.choice([200, 990, 2_000, 100_000])
            nested = "[" * depth + "]" * depth
            text = f'{text[:-1]}, "deep": {nested}}}' if text.endswith("}") else nested
        case 2:
            text = text.replace(": ", f": {'9' * random.choice([20, 400, 5_000])}, " + '"x": ', 1)
        case 3:
            text = "\ufeff" + text
        case 4:
            text += random.choice(["x", "{}", "\0", ",", "\n\n"])
    return text.encode("utf-8", "surrogatepass")


def changed_bytes(content: bytes, random: Random) -> bytes:
    """Bits flipped, parts cut out, put in or repeated, lengths that lie."""
    data = bytearray(content)
    for _ in range(random.choice([1, 1, 2, 8])):
        at = random.randrange(len(data) + 1)
        match random.randrange(8):
            case 0 if data:
                data[at % len(data)] ^= 1 << random.randrange(8)
            case 1:
                del data[at:]
            case 2:
                del data[at : at + random.choice([1, 2, 16, 200])]
            case 3:
                data[at:at] = bytes(random.randrange(256) for _ in range(random.choice([1, 4, 40])))
            case 4:
                data[at:at] = random.choice(
                    [b"\0" * 9, b"\xff", b"\xed\xa0\x80", b'"', b"{", b"[", b"}", b"\\", b"\n", b"\x1b[31m", b"1e999"]
                )
            case 5:
                data[at:at] = data[at : at + random.choice([1, 10, 300])] * random.choice([1, 3, 50])
            case 6:
                data[:0] = random.choice([b"\xef\xbb\xbf", b"\xff\xfe", b"\x1f\x8b", b"PK\x03\x04", b"\x80\x04"])
            case 7:
                data[at : at + 8] = struct.pack("<Q", random.choice([0, 1, 2**20, 2**31, 2**40, 2**63, 2**64 - 1]))
    return bytes(data)


def changed_json(tree: Any, random: Random) -> bytes:
    """JSON with something wrong in what it says, in how it is written, or in its bytes."""
    content = as_json(changed_tree(tree, random), random)
    return changed_bytes(content, random) if random.randrange(4) == 0 else content


def changed_tensors(content: bytes, random: Random) -> bytes:
    """A safetensors file with other bytes, or with a header that lies: types, shapes, offsets, names, its own length."""
    if random.randrange(3) == 0:
        return changed_bytes(content, random)
    (length,) = struct.unpack("<Q", content[:8])
    header, body = json.loads(content[8 : 8 + length]), content[8 + length :]
    names = [name for name in header if name != "__metadata__"]
    name = random.choice(names)
    match random.randrange(7):
        case 0:
            header[name]["shape"] = random.choice([[], [0], [2**40, 2**40], [-1, 8], [1] * 300, "x", [0, 2**62], [1.5], None])
        case 1:
            header[name]["dtype"] = random.choice(["F64", "F16", "I64", "U8", "BOOL", "F8_E4M3", "F4", "C64", "X9", "", None, 3])
        case 2:
            start, end = header[name]["data_offsets"]
            header[name]["data_offsets"] = random.choice([[0, 0], [end, start], [start, 2**62], [-8, end], [start + 1, end + 1], None])
        case 3:
            header[random.choice([*ODD_TEXTS, "layers.-1.weight", "layers.00.weight", "gate.999999.weight"])] = header.pop(name)
        case 4:
            del header[name]
        case 5:
            other = random.choice(names)
            header[name], header[other] = header[other], header[name]
        case 6:
            at = random.randrange(max(1, len(body) // 4)) * 4
            body = body[:at] + struct.pack("<f", random.choice([float("nan"), float("inf"), 3.4e38, -3.4e38])) + body[at + 4 :]
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    stated = random.choice([0, 1, len(text) + 1, 2**27, 2**40, 2**64 - 1]) if random.randrange(8) == 0 else len(text)
    return struct.pack("<Q", stated) + text + body


def as_toml(tree: Any) -> str:
    """The text of nested dictionaries as TOML, as far as it can say such things."""
    if not isinstance(tree, dict):
        return _toml_value(tree)
    lines = [f"{json.dumps(str(key))} = {_toml_value(value)}" for key, value in tree.items() if not isinstance(value, dict)]
    for key, section in tree.items():
        if isinstance(section, dict):
            lines += [f"[{json.dumps(str(key))}]", *(f"{json.dumps(str(name))} = {_toml_value(value)}" for name, value in section.items())]
    return "\n".join(lines) + "\n"


def _toml_value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(str(key))} = {_toml_value(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml_value, value)) + "]"
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return json.dumps(value)
    return repr(value)


def changed_toml(tree: Any, random: Random) -> bytes:
    """A recipe with something wrong in it."""
    text = as_toml(changed_tree(tree, random))
    match random.randrange(12):
        case 0:
            depth = random.choice([200, 2_000, 50_000])
            text += "[zz]\nx = " + "[" * depth + "]" * depth + "\n"
        case 1:
            text += ".".join(["a"] * random.choice([100, 5_000, 200_000])) + " = 1\n"
        case 2:
            text += f"[zz]\ny = {'9' * random.choice([30, 5_000])}\n"
        case 3:
            text += text
    content = text.encode("utf-8", "surrogatepass")
    return changed_bytes(content, random) if random.randrange(4) == 0 else content


def odd_place(file: Path, random: Random) -> None:
    """Put something at a file's place that is no file."""
    file.unlink(missing_ok=True)
    match random.randrange(5):
        case 0:
            file.mkdir()
        case 1:
            file.symlink_to(file.name)
        case 2:
            file.symlink_to("/dev/zero")
        case 3:
            file.symlink_to("../" * 30 + "etc/hostname")
