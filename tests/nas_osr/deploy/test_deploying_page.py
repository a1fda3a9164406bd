"""docs/how-to/deploying.md and onnx.md, as they are written."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

import nas_osr
from nas_osr.cli.main import main

HOW_TO = Path(__file__).resolve().parents[3] / "docs" / "how-to"


@pytest.mark.slow
def test_the_pages_work(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(pictures, "photos")
    for name in ("2/a.png", "8/b.png"):
        shutil.copy(min(Path("photos", name).parent.iterdir()), Path("photos", name))
    pages = (HOW_TO / "deploying.md").read_text() + (HOW_TO / "onnx.md").read_text()
    blocks = re.findall(r"```(sh|python)\n(.*?)```", pages, flags=re.DOTALL)
    assert [kind for kind, _ in blocks] == ["sh", "sh", "sh", "python", "python", "sh", "sh", "sh"]
    for kind, text in blocks:
        if kind == "python":
            exec(compile(text, "deploying.md", "exec"), {})
            continue
        for line in text.splitlines():
            program, *arguments = shlex.split(line)
            assert program == "nas-osr" and main(arguments) == 0, line
    assert len(Path("answers.jsonl").read_text().splitlines()) == 242
    assert nas_osr.load("calibrated").model.class_thresholds is not None
    assert nas_osr.load("my_model").classes_.tolist() == list("012345")
