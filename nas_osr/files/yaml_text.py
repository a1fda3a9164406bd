"""YAML from users, read with care: plain values only, and small even when every alias is written out."""

from __future__ import annotations

import re
from typing import Any, ClassVar

import yaml

from nas_osr.errors import UserError, show

MAX_YAML_BYTES = 1 << 20  # of a file: the parser is slow
MAX_CHARACTERS = 4 << 20  # with aliases written out
MAX_DEPTH = 64
MAX_BRACKETS = 4 * MAX_DEPTH  # open at once, those in comments and quotes included; the parser takes seconds for more
MAX_NUMBER = 100  # characters; 1:59:59:... and 0xfff... give numbers without end
CLASS_LISTS = frozenset({"known", "unknown", "pseudo_unknown"})  # options that list classes: what is in them is text
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_WORDS = {  # as YAML 1.2 has them: `no`, 1:30 and dates are text, and 1e-3 is a number
    "tag:yaml.org,2002:int": ("[-+]?(0|[1-9][0-9]*)|0x[0-9a-fA-F]+", "-+0123456789"),
    "tag:yaml.org,2002:bool": ("true|True|TRUE|false|False|FALSE", "tTfF"),
    "tag:yaml.org,2002:float": (
        r"[-+]?((\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.(inf|Inf|INF))|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
}
_REPLACED = (*_WORDS, "tag:yaml.org,2002:timestamp")


class PlainLoader(yaml.SafeLoader):
    """The safe loader, with fewer words and numbers that are not text."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in _REPLACED]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


class _Dumper(yaml.SafeDumper):
    """Quotes what a reader of either version would take for more than text, or for the end of a line."""

    def analyze_scalar(self, scalar: str) -> Any:
        analysis = super().analyze_scalar(scalar)
        if set(scalar) & set("\x85\u2028\u2029"):  # what PyYAML escapes in double quotes only
            analysis.allow_single_quoted = analysis.allow_flow_plain = analysis.allow_block_plain = False
        return analysis


for _tag, (_pattern, _first) in _WORDS.items():
    for _kind in (PlainLoader, _Dumper):
        _kind.add_implicit_resolver(_tag, re.compile(f"({_pattern})\\Z"), list(_first))


def parse_yaml(text: str, where: str, *, names: bool = False) -> Any:
    """The plain value of a YAML text; `where` names the origin.

    With `names` every scalar is text as it is spelled, as it always is in the lists of `CLASS_LISTS`: `no`, `1e3`,
    `01` and `null` are classes there.

    Raises:
        UserError: the text is not YAML of plain values, names a key twice, or would be larger than 4 MiB or deeper
            than 64 when its aliases are written out.
    """
    root = compose_yaml(text, where)
    if names and root is not None:
        _as_texts(root)
    return construct_yaml(root, where)


def format_yaml(value: Any) -> str:
    """Plain values as YAML, in their own order; `parse_yaml` reads them back."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def compose_yaml(text: str, where: str) -> yaml.Node | None:
    """The nodes of a YAML text, checked as for `parse_yaml`; None for an empty one. Raises UserError."""
    _check_brackets(text, where)
    try:
        root = yaml.compose(text, Loader=PlainLoader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UserError(f"{where}: not valid YAML: {_one_line(error)}") from None
    if root is not None:
        size, _ = _measure(root, where, 0, {})
        if size > MAX_CHARACTERS:
            raise UserError(f"{where}: larger than {MAX_CHARACTERS >> 20} MiB with its aliases written out")
        _read_class_lists(root, set())
    return root


def construct_yaml(root: yaml.Node | None, where: str) -> Any:
    """The plain value of checked nodes. Raises UserError on a tag or a scalar that stands for none."""
    if root is None:
        return None
    try:
        return yaml.constructor.SafeConstructor().construct_document(root)
    except Exception as error:  # `!!int ""` is an IndexError, `!!bool x` a KeyError, and so on
        raise UserError(f"{where}: not valid YAML: {_one_line(error)}") from None


def _check_brackets(text: str, where: str) -> None:
    """UserError where so many brackets are open that the text cannot be sound."""
    depth = 0
    for bracket in re.finditer(r"[][{}]", text):
        depth = depth + 1 if bracket[0] in "[{" else max(0, depth - 1)
        if depth > MAX_BRACKETS:
            raise UserError(f"{where}:{text.count(chr(10), 0, bracket.start()) + 1}: nested too deeply")


def _measure(node: yaml.Node, where: str, depth: int, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """(characters, height) of a node with its aliases written out; each node is looked at once."""
    line = node.start_mark.line + 1
    if depth + known.get(id(node), (0, 0))[1] > MAX_DEPTH:  # so ends a list that contains itself, too
        raise UserError(f"{where}:{line}: nested too deeply")
    if id(node) in known:
        return known[id(node)]
    if isinstance(node, yaml.ScalarNode):
        if node.tag in _NUMBERS and len(node.value) > MAX_NUMBER:
            raise UserError(f"{where}:{line}: a number of more than {MAX_NUMBER} characters")
        return 1 + len(node.value), 0
    inside = node.value
    if isinstance(node, yaml.MappingNode):
        inside = [part for pair in node.value for part in pair]
        names = set()
        for key in inside[::2]:
            if isinstance(key, yaml.ScalarNode) and key.value in names:
                raise UserError(f"{where}:{key.start_mark.line + 1}: {show(key.value)[1:-1]} is given twice")
            names.add(key.value if isinstance(key, yaml.ScalarNode) else id(key))
    sizes = [_measure(part, where, depth + 1, known) for part in inside]
    known[id(node)] = 1 + sum(size for size, _ in sizes), 1 + max((height for _, height in sizes), default=0)
    return known[id(node)]


def _read_class_lists(node: yaml.Node, seen: set[int]) -> None:
    """Make what is in the lists of `CLASS_LISTS` text."""
    if id(node) in seen or isinstance(node, yaml.ScalarNode):
        return
    seen.add(id(node))
    for part in node.value:
        if isinstance(node, yaml.MappingNode):
            key, part = part
            if isinstance(key, yaml.ScalarNode) and key.value in CLASS_LISTS and isinstance(part, yaml.SequenceNode):
                _as_texts(part)
        _read_class_lists(part, seen)


def _as_texts(node: yaml.Node) -> None:
    """Make the scalars of a node, and of lists in it, text as they are spelled."""
    if isinstance(node, yaml.ScalarNode):
        node.tag = "tag:yaml.org,2002:str"
    elif isinstance(node, yaml.SequenceNode):
        for part in node.value:
            _as_texts(part)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
