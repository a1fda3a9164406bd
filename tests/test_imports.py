"""Which way imports point, and what the command line does not import."""

from __future__ import annotations

import ast
import configparser
import os
import subprocess
import sys
from pathlib import Path

import pytest

import nas_osr

ROOT = Path(__file__).resolve().parent.parent
SLOW = (
    "torch",
    "nni",
    "sklearn",
    "scipy",
    "networkx",
    "matplotlib",
    "lightning_fabric",
    "pytorch_lightning",
    "numpy",
    "optuna",
    "ray",
)


def python(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_imports_point_one_way():
    program = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([program, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["search", "--help"], ["retrain", "--print_config"], ["data", "list"], ["rules"], ["plot", "--help"]],
)
def test_the_command_line_starts_without_slow_packages(arguments):
    code = (
        "import sys; from nas_osr.cli.main import main; code = main(sys.argv[1:]);"
        f"print('imported', *(name for name in {SLOW!r} if name in sys.modules), file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stderr.strip() == "imported"


def test_the_options_of_every_analysis_import_no_slow_packages():
    code = (
        "import sys; from nas_osr.retrain.analysis import ANALYSES, analysis_class;"
        f"print(*map(analysis_class, ANALYSES), [name for name in {SLOW!r} if name in sys.modules])"
    )
    assert python(code).strip().endswith("[]")


def test_importing_the_package_imports_next_to_nothing_and_offers_the_names():
    out = python(f"import sys, nas_osr; print([name for name in {SLOW!r} if name in sys.modules], dir(nas_osr))")
    assert out.startswith("[] ")
    for name in nas_osr.__all__:
        assert name in out


@pytest.mark.parametrize("name", nas_osr.__all__)
def test_every_public_name_is_there(name):
    value = getattr(nas_osr, name)
    assert value is not None
    assert name == "__version__" or value.__name__ == name


def test_type_checkers_and_editors_see_the_public_names():
    tree = ast.parse((ROOT / "nas_osr" / "__init__.py").read_text())
    [seen] = [node for node in tree.body if isinstance(node, ast.If)]
    imports = [node for node in seen.body if isinstance(node, ast.ImportFrom)]
    assert {alias.asname: node.module for node in imports for alias in node.names} == nas_osr._PUBLIC


def test_a_name_that_is_not_public_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = nas_osr.nonsense


def test_package_data_and_entry_point_are_there():
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    for pattern in settings["options.package_data"]["nas_osr"].split():
        assert list((ROOT / "nas_osr").glob(pattern)), pattern
    assert settings["options.entry_points"]["console_scripts"].strip() == "nas-osr = nas_osr.cli.main:main"
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
