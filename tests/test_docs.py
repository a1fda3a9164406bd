"""What the documentation shows works."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from nas_osr.cli.main import COMMANDS, is_own_analysis, main

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_the_rule_of_the_docs_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "how-to" / "own-rule.md").read_text(), flags=re.DOTALL)
    [code] = [block for block in blocks if "class Margin" in block]
    (tmp_path / "my_rules.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    out = str(tmp_path / "run")
    arguments = ["random:0", "--protocol", "digits", "--preset", "tiny", "--epochs", "1", "--limit_per_class", "20"]
    settings = ["--batch_size", "32", "--device", "cpu", "--threads", "1", "--bootstrap", "0", "--quiet"]
    try:
        assert main(["retrain", *arguments, *settings, "--rule", "my_rules.Margin", "--out", out]) == 0
        assert main(["evaluate", out, "--bootstrap", "0", "--device", "cpu"]) == 0
        sys.modules.pop("my_rules")
        assert main(["evaluate", out, "--bootstrap", "0", "--device", "cpu"]) == 2
        assert main(["evaluate", out, "--bootstrap", "0", "--device", "cpu", "--plugin", "my_rules"]) == 0
    finally:
        sys.modules.pop("my_rules", None)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_that_are_shown_exist(page: Path) -> None:
    for words in re.findall(r"^\s*nas-osr (\w+)(?: ([\w.]+))?", page.read_text(), flags=re.MULTILINE):
        name = " ".join(words)
        assert words[0] in COMMANDS or name in COMMANDS or is_own_analysis(name), words
