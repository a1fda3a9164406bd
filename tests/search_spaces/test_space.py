"""The one description of a space: what it refuses, in a request, a dry run and a file alike."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from nas_osr.cli.main import main
from nas_osr.configuration import make_request
from nas_osr.errors import UserError
from nas_osr.plain import plain
from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.search_spaces.architectures.references import published
from nas_osr.search_spaces.architectures.sampling import sample_architecture
from nas_osr.search_spaces.operations import OPERATIONS
from nas_osr.search_spaces.presets import PRESETS, space_of
from nas_osr.search_spaces.space import Space
from nas_osr.strategies.run import run_search
from nas_osr.strategies.search_plan import plan_space, record_space
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
        ("operations", ["pool"], "operations: unknown operation 'pool': choose from skip, conv, conv2, conv3"),
        ("operations", ["a..B"], "operations: unknown operation 'a..B'"),
        ("operations", [".B"], "operations: unknown operation '.B'"),
        ("operations", ["a-b.C"], "operations: unknown operation 'a-b.C'"),
        ("operations", ["a." + 200 * "b"], "operations: unknown operation 'a.bbb"),
        (
            "stem",
            "dense",
            "stem: unknown stem 'dense': choose from strided, pooled, whitened or give package.module.Class",
        ),
        ("branches", [0], "branches must contain 2 and otherwise only 0 and 1, got [0]"),
        ("branches", [2, 3], "branches must contain 2"),
        ("branches", [2, 2], "branches must contain 2"),
        ("operations", ["none"], "operations must name one that computes something beside none"),
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


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (
            "stems",
            ["dense"],
            "stems: unknown stem 'dense': choose from strided, pooled, whitened or give package.module.Class",
        ),
        ("activations", ["tanh"], "activations: unknown 'tanh': choose from leaky_relu, relu, gelu, silu"),
        ("poolings", ["average", "average"], "poolings must be different names, got 'average', 'average'"),
        ("outputs", [0, 2], "outputs: unknown 0: choose from 1, 2"),
        ("widths", [0.0], "widths must lie in (0, 1] and make channels 256 a multiple of 4, got 0.0"),
        ("widths", [0.3], "widths must lie in (0, 1] and make channels 256 a multiple of 4, got 0.3"),
        ("widths", [2.0], "widths must lie in (0, 1]"),
    ],
)
def test_a_file_refuses_choices_that_a_space_refuses(field: str, value: Any, message: str) -> None:
    with pytest.raises(UserError) as refused:
        Space(**{field: tuple(value)})
    assert str(refused.value).startswith(message)
    plain = sample_architecture(Space(poolings=("average", "both")), 0).to_dict()
    plain["space"][field] = value
    with pytest.raises(UserError) as read:
        Architecture.from_dict(plain, "file")
    assert str(read.value) == f"file: not an architecture: space.{refused.value}"


def test_a_choice_of_outputs_is_of_one_output() -> None:
    with pytest.raises(UserError, match="outputs can be chosen only where branches is 2 alone"):
        Space(branches=(0, 2), outputs=(1, 2))


def test_a_space_of_ones_own_is_a_plain_value_at_the_presets_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The example of the page, which nothing needs but the request."""
    page = (ROOT / "docs" / "how-to" / "own-operation.md").read_text()
    [code] = [block for block in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL) if "class Smooth" in block]
    (tmp_path / "my_spaces.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_spaces", raising=False)
    space = space_of("my_spaces.Smooth", "tiny")
    assert type(space) is Space
    operations, activations, poolings = ("skip", "separable3", "inverted"), ("gelu", "silu"), ("average", "both")
    assert space == Space(4, 16, operations, activations=activations, poolings=poolings)
    assert space_of("paper", "tiny") == space_of(None, "tiny") == PRESETS["tiny"].space
    assert space_of("wide", "small").layers < PRESETS["small"].space.layers
    sys.modules.pop("my_spaces")
    run = ["--protocol", "digits", "--preset", "tiny", "--limit_per_class", "20", "--batch_size", "16", "--quiet"]
    out = str(tmp_path / "run")
    searching = ["search", *run, "--space", "my_spaces.Smooth", "--epochs", "2", "--strategy_config.warmup_epochs", "1"]
    assert main([*searching, "--out", out]) == 0
    assert Architecture.load(tmp_path / "run" / "architecture.json").space == space
    sys.modules.pop("my_spaces")
    assert main(["retrain", out, "--epochs", "1", "--bootstrap", "0", "--quiet", "--out", str(tmp_path / "again")]) == 0
    assert "my_spaces" not in sys.modules
    for name, message in (("narrow", "unknown space 'narrow': choose from paper, wide or give"), ("os.PathLike", "os")):
        with pytest.raises(UserError, match=message):
            space_of(name, "tiny")


def own_space(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The dotted path of a space S that is written so, `@` for its decorator."""
    head = "from dataclasses import dataclass, field\nfrom nas_osr.search_spaces.space import Space\n"
    more = "from nas_osr.search_spaces.spaces import Wide\n"
    written = code.replace("S: ", "class S(Space):\n    ").replace("@ ", "@dataclass(frozen=True)\n")
    (tmp_path / "written_space.py").write_text(head + more + written)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "written_space", raising=False)
    return "written_space.S"


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("S: operations = ('skip', 'conv')", {"operations": ("skip", "conv")}),
        ("@ S: operations = ['skip', 'conv']", {"operations": ("skip", "conv")}),
        ("S: layers: int = 6\n    channels = 256", {"layers": 6, "channels": 256}),
        ("@ S: widths: list = field(default_factory=lambda: [1, 0.5])", {"widths": (0.5, 1.0)}),
        ("S: widths: list = field(default_factory=lambda: [1, 0.5])", {"widths": (0.5, 1.0)}),
        ("@dataclass(frozen=True, slots=True)\nS: stems: tuple = ('pooled',)", {"stems": ("pooled",)}),
        ("class A(Space):\n    layers = 5\n@ class S(A):\n    channels: int = 8", {"layers": 5, "channels": 8}),
        ("S: _light = ('skip', 'conv')\n    operations = _light", {"operations": ("skip", "conv")}),
    ],
)  # fmt: skip
def test_what_a_class_says_counts_however_it_says_it(
    code: str, expected: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = own_space(code, tmp_path, monkeypatch)
    assert space_of(name, "tiny") == replace(PRESETS["tiny"].space, **expected)


def test_a_space_may_restrict_a_shipped_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = own_space("class S(Wide):\n    two_inputs = False", tmp_path, monkeypatch)
    assert space_of(name, "tiny") == replace(space_of("wide", "tiny"), channels=16, two_inputs=False)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("@ S: depth: int = 3", "depth is no field of a space: leave it out, or call it _depth"),
        ("S: depth: int", "depth is no field of a space: leave it out"),
        ("S: operation = ('skip',)", r"operation is no field of a space: .*; did you mean operations\?"),
        ("S: def helper(self): pass", "helper is no field of a space"),
        ("S: selectable = property(lambda self: ('skip',))", "selectable would be ignored, since"),
        ("S: def _check_choices(self): pass", "_check_choices would be ignored"),
        ("S: def __post_init__(self): pass", "__post_init__ would be ignored"),
        ("@ S: def __init__(self): pass", "__init__ would be ignored"),
        ("class A(Space):\n    cells = ()\nclass S(A):\n    layers = 4", "cells would be ignored"),
        ("S: operations = property(lambda self: ('skip',))", r"operations must be a list \[text, ...\]"),
        ("S: operations = ('skip')", r"operations must be a list \[text, ...\], got 'skip'"),
        ("S: widths = 0.5", r"widths must be a list \[a finite number, ...\], got 0.5"),
        ("S: layers = 4.0", "layers must be a whole number, got 4.0"),
        ("S: layers = 1", "layers must be from 3 to 64, got 1"),
        ("S: widths = (0.3,)", "widths must lie in .* make channels 16 a multiple of 4, got 0.3"),
    ],
)  # fmt: skip
def test_what_a_search_would_not_heed_is_refused_in_one_line(
    code: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = own_space(code, tmp_path, monkeypatch)
    with pytest.raises(UserError, match=f"^space written_space.S: {message}") as refused:
        space_of(name, "tiny")
    assert "\n" not in str(refused.value)


def test_a_fixed_stem_is_no_choice() -> None:
    """What a user says wins over the space; and what config.yaml holds of it gives the same space again."""
    request = SearchRequest(space="wide", preset="tiny", stem="pooled", widths=[1.0])
    space = plan_space(request)
    assert (space.stem, space.stems, space.widths) == ("pooled", (), (1.0,))
    recorded = plain(record_space(request, space) | {"preset": "tiny"}, "recorded")
    assert plan_space(make_request(SearchRequest, recorded, "recorded")) == space
    usual = record_space(SearchRequest(preset="tiny"), plan_space(SearchRequest(preset="tiny")))
    assert list(usual) == ["layers", "channels", "operations", "branches", "stem"]


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
    assert done.stdout == f"{' '.join(OPERATIONS)} strided pooled whitened False\n"
