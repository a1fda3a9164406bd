"""The one description of a space: what it refuses, in a request, a dry run and a file alike."""

from __future__ import annotations

import copy
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from nas_osr.errors import UserError
from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.search_spaces.architectures.references import published
from nas_osr.search_spaces.presets import PRESETS
from nas_osr.search_spaces.space import Space
from nas_osr.strategies.run import run_search
from nas_osr.strategies.search_request import SearchRequest

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("layers", 2, "layers must be from 3 to 64, got 2"),
        ("layers", 65, "layers must be from 3 to 64, got 65"),
        ("channels", 3, "channels must be from 4 to 8192, got 3"),
        ("channels", 8193, "channels must be from 4 to 8192, got 8193"),
        ("operations", [f"a.B{i}" for i in range(17)], "operations must be 1 to 16 names, got 17"),
        ("operations", ["skip", "skip"], "operations must be different names, got 'skip', 'skip'"),
        ("operations", ["pool"], "operations: unknown operation 'pool': choose from skip, conv, conv2 or give"),
        ("operations", ["a..B"], "operations: unknown operation 'a..B'"),
        ("operations", [".B"], "operations: unknown operation '.B'"),
        ("operations", ["a-b.C"], "operations: unknown operation 'a-b.C'"),
        ("operations", ["a." + 200 * "b"], "operations: unknown operation 'a.bbb"),
        ("stem", "dense", "stem: unknown stem 'dense': choose from strided, pooled or give package.module.Class"),
        ("branches", [0], "branches must contain 2 and otherwise only 0 and 1, got [0]"),
        ("branches", [2, 3], "branches must contain 2"),
        ("branches", [2, 2], "branches must contain 2"),
    ],
)
def test_a_dry_run_and_a_file_refuse_what_the_space_refuses(
    tmp_path: Path, field: str, value: Any, message: str
) -> None:
    with pytest.raises(UserError) as refused:
        Space(**{field: tuple(value) if isinstance(value, list) else value})
    assert str(refused.value).startswith(message)
    request = SearchRequest(protocol="digits", preset="tiny", dry_run=True, out=str(tmp_path / "run"), **{field: value})
    with pytest.raises(UserError) as dry:
        run_search(request, ["nas-osr"], estimate=False)
    assert str(dry.value) == str(refused.value)
    if field != "branches":
        plain = copy.deepcopy(published().to_dict())
        plain["space"][field] = value
        with pytest.raises(UserError) as read:
            Architecture.from_dict(plain, "file")
        assert str(read.value) == f"file: not an architecture: space.{refused.value}"


def test_lists_of_any_order_are_the_same_space() -> None:
    listed: Any = {"operations": ["skip", "conv"], "branches": [2, 0]}
    assert Space(**listed) == Space(operations=("skip", "conv"), branches=(0, 2))


def test_an_architecture_has_the_branches_of_its_space() -> None:
    with pytest.raises(UserError, match="branches: expected those of the space, 1, 2, got \\[2\\]"):
        Architecture(Space(branches=(1, 2)), published().branches)


def test_the_papers_space_is_what_a_space_is_by_itself() -> None:
    assert Space() == PRESETS["paper"].space == published().space
    assert asdict(Space())["operations"] == ("skip", "conv", "conv2")


def test_names_can_be_read_without_torch() -> None:
    code = (
        "import sys; from nas_osr.search_spaces.operations import OPERATIONS; from nas_osr.search_spaces.stems import "
        "STEMS; from nas_osr.search_spaces import presets; print(*OPERATIONS, *STEMS, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "skip conv conv2 strided pooled False\n"
