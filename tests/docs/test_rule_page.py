"""docs/how-to/own-rule.md: its rule judges a training, and opens again with --plugin only."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from nas_osr.cli.main import main

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "own-rule.md"


def test_the_rule_of_the_page_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
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
