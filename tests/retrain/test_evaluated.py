"""Several retrainings of one method: found by a pattern, put together under one name, each split and seed once."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from nas_osr.cli.main import main
from nas_osr.data.protocols import make_protocol
from nas_osr.data.rehearsal import rehearse
from nas_osr.errors import UserError
from nas_osr.retrain.comparison import find_rows
from nas_osr.retrain.evaluated import find_runs

from .conftest import write_metrics, write_retraining, write_run


def write_cells(folder: Path, aurocs: dict[str, float]) -> None:
    """A retraining for each split and seed, as a sweep leaves them: folder/plain-2-0 is split 2 with seed 0."""
    for name, auroc in aurocs.items():
        _, split, seed = name.split("-")
        part = f"split-{split}-seed-{seed}"
        write_retraining(folder / name, {part: auroc}, splits=split, seeds=seed, network="plain")


CELLS = {"plain-2-0": 0.7, "plain-2-1": 0.8, "plain-0-0": 0.9, "plain-0-1": 0.8}


def test_retrainings_of_one_name_are_one_method(tmp_path: Path) -> None:
    """As one retraining of the same splits and seeds is."""
    write_cells(tmp_path, CELLS)
    parts = {f"split-{name[-3]}-seed-{name[-1]}": auroc for name, auroc in CELLS.items()}
    whole = write_retraining(tmp_path / "whole", parts, splits="0,2", seeds="0-1", network="plain")
    [one] = find_rows([whole], ["A"])
    for paths in ([tmp_path / "plain-*"], [tmp_path / name for name in CELLS], [tmp_path / "plain-[02]-?"]):
        [row] = find_rows(paths, ["A"] * len(paths))
        for key, value in one.metrics["auroc"].items():
            assert row.metrics["auroc"][key] == pytest.approx(value)
        assert (row.method, row.parts, row.incomplete) == ("A", "2 x 2", False)
        assert re.search(r"plain-\d-\d and 3 more$", row.source)
    assert one.parts == "2 x 2" and one.source == str(whole)


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    write_cells(tmp_path, {name: CELLS[name] for name in list(CELLS)[:3]})
    [row] = find_rows([tmp_path / "plain-*"], ["A"])
    assert row.parts == "3 of 2 x 2" and not row.incomplete  # each has all that it was asked for
    write_retraining(tmp_path / "plain-more", {"split-3": 0.9}, splits="3-4", network="plain")
    [row] = find_rows([tmp_path / "plain-*"], ["A"])
    assert row.incomplete
    write_retraining(tmp_path / "plain-most", {"split-4": 0.9}, splits="4", network="plain")
    [row] = find_rows([tmp_path / "plain-*"], ["A"])
    assert not row.incomplete  # what one has left out another has
    write_retraining(tmp_path / "plain-all", {"split-5": 0.9}, splits="5-5000", seeds="0-5000", network="plain")
    [row] = find_rows([tmp_path / "plain-*"], ["A"])
    assert row.incomplete


def test_a_mean_of_different_networks_has_their_mean_size(tmp_path: Path) -> None:
    write_cells(tmp_path, {name: CELLS[name] for name in list(CELLS)[:2]})
    file = tmp_path / "plain-2-1" / "split-2-seed-1" / "metrics.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "parameters": 639_002, "macs": None}))
    [row] = find_rows([tmp_path / "plain-*"], ["A"])
    assert (row.parameters, row.macs) == (639_001, None)


def test_one_split_and_seed_twice_is_no_method(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_cells(tmp_path / "a", CELLS)
    write_cells(tmp_path / "b", CELLS)
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--name", "A,A"]) == 2
    message = capsys.readouterr().err
    assert "both have split 0, seed 0" in message and message.count("\n") == 1
    assert len(find_rows([tmp_path / "a", tmp_path / "b"], ["A", "B"])) == 2
    assert len(find_rows([tmp_path / "a", tmp_path / "b"])) == 8  # nobody has called them one
    with pytest.raises(UserError, match="is named twice"):
        find_rows([tmp_path / "a", tmp_path / "a"], ["A", "B"])


def test_protocols_and_rules_of_one_name_stand_apart(tmp_path: Path) -> None:
    write_cells(tmp_path, {"plain-2-0": 0.7, "plain-2-1": 0.8})
    write_retraining(tmp_path / "plain-svhn", {"split-2": 0.9}, protocol="svhn", splits="2", network="plain")
    write_metrics(tmp_path / "plain-2-0" / "split-2-seed-0", 0.6, make_protocol("cifar10").to_dict(), "cac", "cac")
    rows = find_rows([tmp_path / "plain-*"], ["A"])
    assert [(row.method, row.protocol, row.parts, row.incomplete) for row in rows] == [
        ("A, mls", "cifar10", "1 x 2", False), ("A, mls", "svhn", "1 x 1", False),
        ("A, cac", "cifar10", "1 x 1", True),
    ]  # fmt: skip


def test_rehearsals_with_other_classes_out_are_other_splits(tmp_path: Path) -> None:
    for name, classes in (("a", ["airplane", "frog"]), ("b", ["deer", "truck"])):
        run = write_retraining(tmp_path / f"rehearsed-{name}", {"split-0": 0.7}, network="plain")
        write_metrics(run / "split-0", 0.7, rehearse(make_protocol("cifar10"), classes).to_dict())
        file = run / "split-0" / "config.yaml"
        file.write_text(file.read_text().replace("pseudo_unknown: null", f"pseudo_unknown: {classes}"))
    [row] = find_rows([tmp_path / "rehearsed-*"], ["A"])
    assert row.protocol == "cifar10 rehearsed" and row.parts == "2 x 1"


def test_patterns_pass_over_what_is_no_retraining(tmp_path: Path) -> None:
    write_cells(tmp_path, CELLS)
    write_run(tmp_path / "search-plain-2-0", {"split": 2})
    (tmp_path / "plain.log").write_text("")
    assert [path.name for path in find_runs(tmp_path / "*plain*")] == sorted(CELLS)
    write_retraining(tmp_path / "[odd]", {"split-0": 0.7})
    assert [path.name for path in find_runs(tmp_path / "[odd]")] == ["[odd]"]  # a folder of that very name
    with pytest.raises(UserError, match="no evaluated retraining"):
        find_runs(tmp_path / "search*")
