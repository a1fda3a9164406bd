"""The house: no long file, a name for each thing, tests where their subject is."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("nas_osr", "search_spaces", "strategies", "retrain")
FILES = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]  # links are not followed
LONGEST = 350
SEAMS = {"__init__.py", "base.py", "run.py"}  # a room's own
# an objective and the rule of the same paper, what the command line and Python call alike, and a plug-in and a model
TWICE = {"CAC", "CROSR", "evaluate", "fit", "load", "search", "train"}


def test_no_file_is_long():
    assert {str(path): count for path in FILES if (count := len(path.read_text().splitlines())) > LONGEST} == {}


def test_no_two_files_share_a_name():
    papers = {"cac.py", "crosr.py"}  # objective, rule and network of one paper
    found = defaultdict(list)
    for path in FILES:
        if path.name not in SEAMS | papers and path.parent.name != "cli":  # a command is a file named after it
            found[path.name].append(str(path.relative_to(ROOT)))
    assert {name: places for name, places in found.items() if len(places) > 1} == {}


def test_no_public_name_stands_for_two_things():
    found = defaultdict(list)
    for path in FILES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                found[node.name].append(str(path.relative_to(ROOT)))
    assert {name: places for name, places in found.items() if len(places) > 1 and name not in TWICE} == {}


def test_tests_mirror_the_rooms():
    folders = {path.parent for path in (ROOT / "tests").rglob("test_*.py")}
    mirrored = {path.relative_to(ROOT / "tests") for path in folders} - {Path("."), Path("fuzz"), Path("reliability")}
    assert [str(path) for path in mirrored if not (ROOT / path).is_dir()] == []
