"""The tutorials, word for word: what a page shows is run from its top to its bottom in an empty folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "tutorials"
PAGES = [path for path in sorted(FOLDER.glob("*.md")) if path.name != "index.md"]
BLOCK = re.compile(
    r"(?:^(?P<before>[^\n`]*`(?P<file>\w+\.py)`[^\n]*:)\n\n)?^```(?P<kind>\w+)\n(?P<text>.*?)^```", re.M | re.S
)


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, where `nas-osr` is this checkout's."""
    command = tmp_path / "bin" / "nas-osr"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}:$PYTHONPATH" exec "{sys.executable}" -m nas_osr "$@"\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join([str(command.parent), os.environ["PATH"]]))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def blocks(page: Path) -> list[tuple[str, str, str | None]]:
    """Kind and text of each fenced block, and the file that a sentence before it says it is saved as."""
    return [(found["kind"], found["text"], found["file"]) for found in BLOCK.finditer(page.read_text())]


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_it_works_word_for_word(page: Path, program: Path) -> None:
    names: dict[str, Any] = {}
    outputs = []
    for kind, text, file in blocks(page):
        if file:
            (program / file).write_text(text)
        elif kind == "python":
            exec(compile(text, str(page), "exec"), names)
        elif kind == "sh":
            done = subprocess.run(["bash", "-euo", "pipefail", "-c", text], capture_output=True, text=True, check=False)
            print(text, done.stdout, done.stderr, sep="\n")  # shown where the test fails, or by -rP
            assert done.returncode == 0, text
            outputs += re.findall(r"(?:--out |> )([\w./-]+)", text)
    assert outputs and all(Path(name).exists() for name in outputs)


@pytest.mark.slow
def test_the_lines_of_the_readme_work(program: Path) -> None:
    code, again = (
        re.findall(r"^```python\n(.*?)^```", (ROOT / name).read_text(), flags=re.DOTALL | re.MULTILINE)
        for name in ("README.md", "docs/index.md")
    )
    assert code == again and len(code) == 1
    names: dict[str, Any] = {}
    exec(code[0], names)
    assert 0.5 < names["result"]["metrics"]["auroc"]["mean"] <= 1


@pytest.mark.slow
def test_the_notebook_runs(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(FOLDER / "notebook.ipynb", as_version=4)
    NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(program)}}).execute()
    shown = [set(output.get("data", {})) for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("text/html" in kinds for kinds in shown) >= 3  # the search, the training, the evaluations
    assert any("image/svg+xml" in kinds for kinds in shown) and any("image/png" in kinds for kinds in shown)


def test_the_notebook_ships_without_outputs() -> None:
    notebook = nbformat.read(FOLDER / "notebook.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert [cell.outputs for cell in notebook.cells if cell.cell_type == "code" and cell.outputs] == []
