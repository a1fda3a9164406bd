"""A user's own operation and stem, from the page that shows them, in every command."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from nas_osr.cli.main import main
from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.search_spaces.operations import OPERATIONS
from nas_osr.search_spaces.space import Space
from nas_osr.search_spaces.stems import STEMS
from nas_osr.search_spaces.supernet import build_supernet

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "how-to" / "own-operation.md"
DATA = ["--protocol", "digits", "--preset", "tiny", "--limit_per_class", "20", "--batch_size", "16"]
MACHINE = ["--device", "cpu", "--threads", "1"]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The example of the page as a module of its own name; not imported yet."""
    [code] = [
        block
        for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
        if "class Separable" in block
    ]
    (tmp_path / "my_operations.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_operations", raising=False)
    yield "my_operations"
    sys.modules.pop("my_operations", None)


def test_every_command_takes_a_users_own_operation(
    module: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = ["--operations", f"skip,{module}.Separable", "--stem", f"{module}.Patches", "--layers", "3"]
    out, trained, pictures = (str(tmp_path / name) for name in ("search", "retrain", "pictures"))
    searching = ["search", *DATA, *MACHINE, *space, "--epochs", "2", "--warmup_epochs", "1", "--quiet", "--out", out]
    assert main([*searching, "--dry_run"]) == 0
    assert main(searching) == 0
    architecture = Architecture.load(tmp_path / "search" / "architecture.json")
    assert architecture.space.operations == ("skip", f"{module}.Separable")
    record = json.loads((tmp_path / "search" / "history.jsonl").read_text().splitlines()[-1])
    assert set(record["alpha"]["0/0"]) == set(architecture.space.operations)
    assert "parameter_free" in record["monitors"]

    sys.modules.pop(module)  # a new process: only --plugin may import it from now on
    assert main(["export", out, "--out", pictures, "--format", "json,graphml,gv,svg"]) == 0
    graphml = str(tmp_path / "pictures" / "architecture.graphml")
    assert main(["export", graphml, "--out", str(tmp_path / "again"), "--format", "json"]) == 0
    assert main(["export", graphml, "--out", str(tmp_path / "again"), "--format", "svg", "--plugin", module]) == 0
    sys.modules.pop(module)  # without it a picture does not say how large the network is
    for name in ("architecture.json", "architecture.svg"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "search" / name).read_bytes()
    assert ">Separable<" in (tmp_path / "again" / "architecture.svg").read_text()

    # a path that has the operation, whatever so short a search found
    value = json.loads((tmp_path / "search" / "architecture.json").read_text())
    value["branches"]["2"]["operations"] = [f"{module}.Separable", "skip", f"{module}.Separable"]
    (tmp_path / "chosen.json").write_text(json.dumps(value))
    retraining = ["retrain", str(tmp_path / "chosen.json"), *DATA, *MACHINE, "--epochs", "1", "--bootstrap", "0"]
    retraining += ["--quiet", "--out", trained]
    evaluating = ["evaluate", trained, "--bootstrap", "0", "--device", "cpu"]
    capsys.readouterr()
    assert main(retraining) == 2
    assert f"is a plug-in that is not loaded: add --plugin {module}" in capsys.readouterr().err
    assert main([*retraining, "--plugin", module]) == 0
    metrics = (tmp_path / "retrain" / "split-0" / "metrics.json").read_bytes()
    sys.modules.pop(module)
    assert main(evaluating) == 2
    assert module not in sys.modules
    assert main([*evaluating, "--plugin", module]) == 0
    before, after = json.loads(metrics), json.loads((tmp_path / "retrain" / "split-0" / "metrics.json").read_text())
    assert after["metrics"] == before["metrics"]

    benching = ["bench", "--protocol", "digits", "--preset", "tiny", "--steps", "1", "--warmup", "0", *MACHINE, *space]
    assert main([*benching, "--json"]) == 0
    assert {"search", "retrain"} <= json.loads(capsys.readouterr().out.splitlines()[-1]).keys()


def test_a_line_in_the_table_is_all_that_a_new_one_needs(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPERATIONS, "separable", f"{module}:Separable")
    monkeypatch.setitem(STEMS, "patches", f"{module}:Patches")
    space = Space(layers=3, channels=16, operations=("skip", "separable"), stem="patches")
    supernet = build_supernet(space, 1, (0.5,), (0.5,))
    assert supernet(torch.rand(2, 1, 32, 32)).branches[2].shape == (2, 64, 2, 2)
