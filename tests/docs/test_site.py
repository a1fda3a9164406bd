"""`make docs`: the site is built without a network, whole, and asks nothing of anybody else."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import nas_osr
from nas_osr.cli.commands import COMMANDS
from nas_osr.option_docs import list_options

ROOT = Path(__file__).resolve().parents[2]
SILENT = {
    "NO_MKDOCS_2_WARNING": "1",
    "PYTHONPATH": str(ROOT),
    "http_proxy": "http://127.0.0.1:9",
    "https_proxy": "http://127.0.0.1:9",
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole site; a link, an anchor or a page outside the navigation that is wrong fails it."""
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **SILENT}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.slow
def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 80
    for page in pages:
        loaded = re.findall(r"<(?:script|img|iframe|link)[^>]*(?:src|href)=\"?(?:https?:)?//[^>]*", page.read_text())
        assert loaded == [], page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(?:https?:)?//", sheet.read_text()), sheet


@pytest.mark.slow
def test_every_command_option_and_public_name_has_its_place(site: Path) -> None:
    for name, command in COMMANDS.items():
        page = (site / "reference" / "commands" / f"{name.replace(' ', '-')}.html").read_text()
        assert [option.name for option in list_options(command.options) if f"--{option.name}" not in page] == []
    python = (site / "reference" / "python" / "index.html").read_text()
    assert [name for name in nas_osr.__all__ if name != "__version__" and f">{name}<" not in python] == []


@pytest.mark.slow
def test_the_notebook_is_a_page(site: Path) -> None:
    page = (site / "tutorials" / "notebook.html").read_text()
    assert "load_architecture" in page and 'href="notebook.ipynb"' in page
    assert (site / "tutorials" / "notebook.ipynb").exists()


def test_generated_tables_keep_their_columns() -> None:
    place = ROOT / "docs" / "_site" / "reference_pages.py"
    spec = importlib.util.spec_from_file_location("reference_pages", place)
    assert spec is not None and spec.loader is not None
    pages = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pages)
    for name, command in COMMANDS.items():
        rows = [line for line in pages.command_page(name, command).splitlines() if line.startswith("|")]
        assert rows and all(len(re.findall(r"(?<!\\)\|", row)) == 3 for row in rows), name
    assert pages.cell("a|b `c|d` *e*") == "a\\|b `c\\|d` \\*e\\*"
