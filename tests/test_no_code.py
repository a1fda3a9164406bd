"""Nothing that is read can run code: live samples do nothing. (What the packages may not call, ruff looks for.)"""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nas_osr.cli.main import main
from nas_osr.errors import UserError
from nas_osr.evaluation.user_arrays import read_arrays
from nas_osr.files.storage import read_config
from nas_osr.runs.checkpoints import check_checkpoint, read_checkpoint
from nas_osr.search_spaces.architectures.graph import format_graphml, read_graphml, to_graph
from nas_osr.search_spaces.architectures.references import load_architecture, published


class Malicious:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)


class Large:
    """Asks for 64 GiB of zeros by a name that torch itself allows."""

    def __reduce__(self) -> Any:
        return bytearray, (64 << 30,)


def checkpoint_of(value: Any, path: Path, method: int = zipfile.ZIP_STORED) -> Path:
    """An archive as torch.save writes it, whatever the value."""
    sound = io.BytesIO()
    torch.save({"epoch": 0}, sound)
    with zipfile.ZipFile(sound) as old, zipfile.ZipFile(path, "w", method) as new:
        for member in old.infolist():
            content = pickle.dumps(value, 2) if member.filename.endswith("data.pkl") else old.read(member)
            new.writestr(member.filename, content)
    return path


def test_a_live_checkpoint_is_refused_and_not_run(tmp_path: Path) -> None:
    path = checkpoint_of({"learner": Malicious(tmp_path / "it-ran")}, tmp_path / "checkpoint.pt")
    with pytest.raises(UserError, match=r"damaged checkpoint \(it asks for .*mkdir"):
        read_checkpoint(path)
    with pytest.raises(pickle.UnpicklingError):  # and torch alone would have refused it, too
        torch.load(path, weights_only=True)
    assert not (tmp_path / "it-ran").exists()
    torch.load(path, weights_only=False)
    assert (tmp_path / "it-ran").exists()  # the sample was a live one


def test_checkpoints_take_no_more_memory_than_they_have(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="it asks for .*bytearray"):
        read_checkpoint(checkpoint_of({"a": Large()}, tmp_path / "a.pt"))
    with pytest.raises(UserError, match="compressed"):
        read_checkpoint(checkpoint_of({"a": "x" * 10**6}, tmp_path / "b.pt", zipfile.ZIP_DEFLATED))
    pickled = tmp_path / "c.pt"
    pickled.write_bytes(pickle.dumps({"epoch": Malicious(tmp_path / "it-ran")}))  # as torch wrote before version 1.6
    with pytest.raises(UserError, match="not an archive of torch.save"):
        read_checkpoint(pickled)
    assert not (tmp_path / "it-ran").exists()


def test_what_torch_saves_passes(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    kinds = (torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool, torch.complex64)
    state = {
        "model": model.state_dict(),
        "parameters": list(model.parameters()),
        "kinds": [torch.zeros(2, dtype=kind) for kind in kinds],
        "plain": [None, True, 1, 0.5, "é", (1, 2), {"a": {1}}, torch.Size([1]), torch.device("cpu"), torch.float32, 1j],
        "random": torch.get_rng_state(),
    }
    torch.save(state, tmp_path / "checkpoint.pt")
    check_checkpoint(tmp_path / "checkpoint.pt")
    assert read_checkpoint(tmp_path / "checkpoint.pt")["plain"] == state["plain"]


def test_arrays_with_objects_are_refused_and_not_run(tmp_path: Path) -> None:
    array = np.empty(1, dtype=object)
    array[0] = Malicious(tmp_path / "it-ran")
    np.savez(tmp_path / "arrays.npz", train_logits=array)
    with pytest.raises(UserError, match="train_logits.npy: expected numbers or text"):
        read_arrays(tmp_path / "arrays.npz")
    assert not (tmp_path / "it-ran").exists()
    np.load(tmp_path / "arrays.npz", allow_pickle=True)["train_logits"]
    assert (tmp_path / "it-ran").exists()


def test_an_architecture_names_a_class_and_nothing_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Reading and drawing it need no class; what builds a network refuses one that the user has not named."""
    (tmp_path / "trap_cell.py").write_text("open('it-ran', 'w')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    value = published().to_dict()
    text = published().to_json().replace('"conv2"', '"trap_cell.Cell"')
    (tmp_path / "architecture.json").write_text(text)
    assert load_architecture(tmp_path / "architecture.json").space.operations[2] == "trap_cell.Cell" != value["space"]
    assert main(["export", "architecture.json", "--format", "gv,graphml", "--out", "drawn"]) == 0
    stem = replace(published(), space=replace(published().space, stem="trap_cell.Stem"))
    stem.save(tmp_path / "stem.json")
    options = ["--protocol", "digits", "--preset", "tiny", "--out", "run", "--device", "cpu"]
    for reference in ("architecture.json", "drawn/architecture.graphml", "stem.json"):
        assert main(["retrain", reference, *options]) == 2
        assert "--plugin trap_cell" in capsys.readouterr().err
    assert not (tmp_path / "it-ran").exists()


@pytest.mark.parametrize(
    "tag", ["!!python/object/apply:os.mkdir [it-ran]", "!!python/name:os.system", "!!python/module:this"]
)
def test_tags_in_yaml_are_refused(tag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(f"out: {tag}\n")
    with pytest.raises(UserError, match="not valid YAML"):
        read_config(tmp_path / "config.yaml")
    for line in (["search", "--config", "config.yaml"], ["sweep", "config.yaml"]):
        assert main(line) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


LAUGHS = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10 if i else "ha"}">' for i in range(12))


@pytest.mark.parametrize(
    "head",
    [
        f"<!DOCTYPE x [{LAUGHS}]>",
        '<!DOCTYPE x [<!ENTITY l11 SYSTEM "file:///etc/passwd">]>',
        '<!DOCTYPE x SYSTEM "http://127.0.0.1:9/x.dtd">',
        "<!doctype x>",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-7"])
def test_entities_in_graphml_are_refused(head: str, encoding: str, tmp_path: Path) -> None:
    text = format_graphml(to_graph(published())).replace("?>", f"?>{head}", 1).replace("hierarchical", "&l11;")
    path = tmp_path / "a.graphml"
    path.write_bytes(text.replace('encoding="utf-8"', f'encoding="{encoding}"').encode(encoding))
    with pytest.raises(UserError, match="document type or entities|UTF-8|not GraphML"):
        read_graphml(path)
