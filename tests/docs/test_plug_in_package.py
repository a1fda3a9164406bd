"""docs/examples/osr-extras: what the how-to pages show, as a package that is installed and used."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from nas_osr.cli.main import main
from nas_osr.runs.run_folder import RunFolder

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "docs" / "examples" / "osr-extras"
SMALL = "--epochs 1 --limit_per_class 20 --batch_size 32 --device cpu --threads 1 --quiet"


@pytest.mark.parametrize("kind", ["rule", "objective", "operation", "strategy", "source"])
def test_a_module_is_what_its_page_shows(kind: str) -> None:
    plural = "strategies" if kind == "strategy" else f"{kind}s"
    page = (ROOT / "docs" / "how-to" / f"own-{kind}.md").read_text()
    shown = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)[0].replace("my_sets", "osr-extras")
    assert (PACKAGE / "osr_extras" / f"{plural}.py").read_text().split('"""\n\n', 1)[1] == shown


def test_it_is_installed_and_a_search_a_training_and_an_evaluation_use_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "installed"
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--target", str(target)]
    source = tmp_path / "source"
    subprocess.run(["cp", "-r", str(PACKAGE), str(source)], check=True)  # a build leaves files beside what it builds
    subprocess.run([*pip, "--quiet", "--no-index", str(source)], check=True)
    assert list(target.glob("osr_extras-*.dist-info"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(target))
    text = (PACKAGE / "README.md").read_text().replace("\\\n", " ")
    (commands,) = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    _, search, retrain, evaluate = (shlex.split(line)[1:] for line in commands.splitlines())
    try:
        assert main([*search, *SMALL.split(), "--strategy_config.trials", "2", "--layers", "3"]) == 0
        found = json.loads((tmp_path / "RUN" / "architecture.json").read_text())
        assert found["found"]["strategy"] == "osr_extras.Climb" and found["space"]["stem"] == "osr_extras.Patches"
        for name in [name for name in sys.modules if name.startswith("osr_extras")]:
            del sys.modules[name]  # from now on only --plugin imports it
        assert main([word for word in retrain if word not in ("--plugin", "osr_extras")]) == 2
        assert "--plugin osr_extras" in capsys.readouterr().err
        assert main([*retrain, *SMALL.split(), "--bootstrap", "0"]) == 0
        assert main([*evaluate, "--bootstrap", "0", "--device", "cpu"]) == 0
    finally:
        for name in [name for name in sys.modules if name.startswith("osr_extras")]:
            del sys.modules[name]
    config = RunFolder.open(tmp_path / "RUN2" / "split-0").read_config()
    assert (config["objective"], config["rule"]) == ("osr_extras.Prototypes", "osr_extras.Margin")
    (metrics,) = (tmp_path / "RUN2" / "split-0").glob("metrics-*.json")
    assert json.loads(metrics.read_text())["test_images"]["unknown"] == 100


def test_the_objectives_page_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "how-to" / "own-objective.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    (commands,) = re.findall(r"```sh\n(.*?)```", page, flags=re.DOTALL)
    _, search, retrain, evaluate = (shlex.split(line)[1:] for line in commands.splitlines())
    (tmp_path / "my_objectives.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        assert main([*search, *SMALL.replace("--epochs 1", "--epochs 2").split(), "--warmup_epochs", "1"]) == 0
        assert main([*retrain, *SMALL.split(), "--bootstrap", "0"]) == 0
        assert main([*evaluate, "--bootstrap", "0", "--device", "cpu"]) == 0
    finally:
        sys.modules.pop("my_objectives", None)
    config = RunFolder.open(tmp_path / "RUN2" / "split-0").read_config()
    assert config["objective_config"]["scale"] == 10.0  # taken over from the search
