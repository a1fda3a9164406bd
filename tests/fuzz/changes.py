"""How a sound content is broken: bytes, JSON, YAML, lines and zip archives."""

from __future__ import annotations

import copy
import io
import json
import warnings
import zipfile
from collections.abc import Iterator
from random import Random
from typing import Any

import yaml

# What stands in for a value of a document.
NASTY: list[Any] = [
    None, True, False, 0, 1, -1, 2, 3, 10**6, -(10**9), 1 << 64, 10**40, 0.5, -0.5, 1e308, 1e-320, float("nan"),
    float("inf"), "", "0", "0-3", "0-999999999", "a", "os.system", "nas_osr.errors.UserError", "x" * 300, "{out}",
    "{a}", "\x00", "\ud800", "é", "\n", "../../etc/passwd", "/dev/zero", [], {}, [[]], [0], ["a"], [None], {"": None},
    {"a": 1}, {"mean": 1}, [[[[[[[[[[[[[[[[0]]]]]]]]]]]]]]]],
]  # fmt: skip


ODD_YAML = [
    '!!int ""', "!!python/object/apply:os.system [id]", "!!bool x", "!!timestamp x", "!!binary é", "*b", "&a [*a]",
    "1" + ":59" * 300 + ".5", "0x" + "f" * 5000, "{<<: 1}", "2020-99-99", "!!set {a}", "!!omap [a]", "? [a]",
]  # fmt: skip


def change_bytes(data: bytes, random: Random) -> bytes:
    """Cut, flip, repeat, insert, or write in another encoding."""
    for _ in range(random.randint(1, 4)):
        at, to = sorted((random.randint(0, len(data)), random.randint(0, len(data))))
        kind = random.randint(0, 8)
        if kind == 0:
            data = data[:at]
        elif kind == 1 and data:
            at = min(at, len(data) - 1)
            data = data[:at] + bytes([data[at] ^ (1 << random.randint(0, 7))]) + data[at + 1 :]
        elif kind == 2:
            data = data[:at] + data[to:]
        elif kind == 3:
            data = data[:to] + data[at:]
        elif kind == 4:
            data = data[:at] + bytes(random.randint(0, 255) for _ in range(random.randint(1, 8))) + data[at:]
        elif kind == 5:
            data = data[:at] + random.choice([b"\xff" * 4, b"\x00" * 8, b"\x7f\xff\xff\xff", b"\x80"]) + data[at + 4 :]
        elif kind == 6:
            data = random.choice([b"\xef\xbb\xbf", b"\xff\xfe", b"\x1f\x8b"]) + data
        elif kind == 7:
            data = data.decode("latin-1").encode(random.choice(["utf-16", "utf-8", "utf-32"]))
        else:
            data = (
                data[:at]
                + random.choice([b"[" * 3000, b'{"a":' * 3000, b"9" * 6000, b"&a [*a]", b"- " * 2000])
                + data[at:]
            )
    return data


def change_value(value: Any, random: Random) -> Any:
    """A document with something deleted, replaced, renamed, doubled or nested."""
    value = copy.deepcopy(value)
    for _ in range(random.randint(1, 3)):
        inside = list(containers(value))
        place = random.choice(inside) if inside else None
        if not place:
            return random.choice(NASTY)
        key = random.choice(list(place) if isinstance(place, dict) else range(len(place)))
        kind = random.randint(0, 5)
        if kind == 0:
            del place[key]
        elif kind == 1 and isinstance(place, dict):
            place[random.choice(["", "a", "unknown", "x" * 300, "é\ud800"])] = place.pop(key)
        elif kind == 2 and isinstance(place, list):
            place.insert(key, copy.deepcopy(place[key]))
        elif kind == 3:
            place[key] = [copy.deepcopy(place[key])]
        else:
            place[key] = copy.deepcopy(random.choice(NASTY))
    return value


def containers(value: Any) -> Iterator[Any]:
    """Every list and mapping in a document that is not empty."""
    if isinstance(value, dict | list) and value:
        yield value
        for item in value.values() if isinstance(value, dict) else value:
            yield from containers(item)


def change_json(data: bytes, random: Random) -> bytes:
    if random.random() < 0.3:
        return change_bytes(data, random)
    text = json.dumps(change_value(json.loads(data), random))
    if random.random() < 0.1:  # a key twice
        text = text.replace("{", '{"schema": 1, "schema": 1, ', 1)
    return text.encode()


def change_lines(data: bytes, random: Random) -> bytes:
    """JSON lines: one of them, or their order."""
    if random.random() < 0.3:
        return change_bytes(data, random)
    lines = data.splitlines()
    at = random.randrange(len(lines))
    lines[at : at + random.randint(0, 1)] = [change_json(lines[at], random)]
    return b"\n".join(lines) + b"\n" * random.randint(0, 2)


def change_yaml(data: bytes, random: Random) -> bytes:
    if random.random() < 0.3:
        return change_bytes(data, random)
    if random.random() < 0.2:
        lines = data.decode().splitlines()
        at = random.randrange(len(lines))
        lines[at] = lines[at].partition(":")[0] + ": " + random.choice(ODD_YAML)
        return "\n".join(lines).encode()
    value = change_value(yaml.safe_load(data), random)
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=random.random() < 0.5).encode("utf-8", "surrogatepass")


def change_zip(data: bytes, random: Random) -> bytes:
    """The members of an archive, with checksums that are right."""
    if random.random() < 0.3:
        return change_bytes(data, random)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [[info.filename, archive.read(info)] for info in archive.infolist()]
    at = random.randrange(len(members))
    kind = random.randint(0, 9)
    if kind == 0:
        del members[at]
    elif kind == 1:
        members.append(list(members[at]))
    elif kind == 2:
        members[at][0] = random.choice(["../outside", "/etc/x", "data.pkl", "test_logits.npy", "x" * 200])
    else:
        members[at][1] = change_bytes(members[at][1], random)
    written = io.BytesIO()
    method = random.choice([zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    with warnings.catch_warnings(), zipfile.ZipFile(written, "w", method) as archive:
        warnings.simplefilter("ignore")  # a name twice
        for name, content in members:
            archive.writestr(name, content)
    return written.getvalue()
