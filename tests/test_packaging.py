"""What is installed: the wheel by itself, and the dependencies that it declares."""

from __future__ import annotations

import ast
import configparser
import importlib.metadata
import os
import re
import shutil
import site
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("nas_osr", "search_spaces", "strategies", "retrain")
FILES = (
    "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "MANIFEST.in", "Makefile", "README.md", "mkdocs.yml",
    "pyproject.toml", "setup.cfg", "setup.py",
)  # fmt: skip
INDIRECT = {"tensorboard": "torch.utils.tensorboard", "graphviz-pure": '"graphviz-pure"'}  # used without an import
TINY = [
    "--protocol=digits", "--preset=tiny", "--limit_per_class=10", "--batch_size=8", "--device=cpu", "--threads=1",
    "--quiet",
]  # fmt: skip


def run(*command: object, folder: Path) -> str:
    """What a command prints; programs of this environment are found, its Python path is not."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        list(map(str, command)), cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(kind: str, source: Path, out: Path) -> Path:
    out.mkdir()
    code = f"from setuptools import build_meta; build_meta.build_{kind}({str(out)!r})"
    run(sys.executable, "-c", code, folder=source)
    return next(out.iterdir())


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is packaged, links as links."""
    copy = tmp_path_factory.mktemp("source")
    for name in FILES:
        shutil.copy(ROOT / name, copy)
    for name in (*FOLDERS, "tests", "docs"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=ignored)
    return copy


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", source, tmp_path_factory.mktemp("wheel") / "out")


def tree(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_wheel_has_one_package_with_all_its_files(wheel: Path) -> None:
    files = {name for name in contents(wheel) if ".dist-info/" not in name}
    own = {
        path.relative_to(ROOT)
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".json", ".yaml", ".txt", ".typed", ".md", ".html", ".css", ".js")
    }
    assert files == {str(path if path.parts[0] == "nas_osr" else "nas_osr" / path) for path in own}


def test_the_source_archive_is_the_checkout_and_a_wheel_of_it_the_same(
    source: Path, wheel: Path, tmp_path: Path
) -> None:
    shutil.unpack_archive(build("sdist", source, tmp_path / "sdist"), tmp_path / "unpacked")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    assert [name for name in FILES if not (unpacked / name).is_file()] == []
    for folder in (*FOLDERS, "tests", "docs"):
        assert tree(unpacked / folder) == tree(source / folder)
    for link in ("search_spaces", "strategies", "retrain"):
        assert (unpacked / "nas_osr" / link).readlink() == Path("..", link)
    assert contents(build("wheel", unpacked, tmp_path / "wheel")) == contents(wheel)


def test_it_works_without_the_checkout_beside_files_of_the_same_names(wheel: Path, tmp_path: Path) -> None:
    environment, work = tmp_path / "environment", tmp_path / "work"
    venv.create(environment, symlinks=True)
    python = environment / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check"]
    run(*pip, "install", "--quiet", "--no-index", "--no-deps", wheel, folder=tmp_path)
    # what it needs comes from this environment; a .pth inside a folder that a .pth names is not read
    packages = run(python, "-c", "import site; print(site.getsitepackages()[0])", folder=tmp_path).strip()
    Path(packages, "dependencies.pth").write_text("\n".join(site.getsitepackages()))

    (work / "strategies").mkdir(parents=True)
    for name in ("retrain.py", "strategies/__init__.py"):
        (work / name).write_text("raise RuntimeError('this is the user\\'s own')\n")
    code = "import sys, nas_osr; print(nas_osr.__file__, *sys.path, sep='\\n')"
    where, *path = run(python, "-c", code, folder=work).splitlines()
    assert where.startswith(packages) and str(ROOT) not in path

    command = environment / "bin" / "nas-osr"
    run(command, "search", *TINY, "--layers=3", "--epochs=2", "--warmup_epochs=1", "--out=found", folder=work)
    run(command, "retrain", "found", *TINY, "--epochs=1", "--bootstrap=0", "--out=trained", folder=work)
    assert "auroc" in run(command, "evaluate", "trained", "--bootstrap=0", "--device=cpu", folder=work)


OPTIONAL = {"mlflow": "mlflow-skinny"}  # whose module need not be there, and has another name


def test_what_is_imported_is_declared_and_what_is_declared_is_imported() -> None:
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    extras = settings["options.extras_require"]
    own = "\n".join(extras[name] for name in ("analysis", "heic", "mlflow", "onnx", "ood", "timm", "wandb"))
    lines = f"{settings['options']['install_requires']}\n{own}".split()
    declared = {normal(re.split(r"[<>=!~\[]", line)[0]) for line in lines}

    texts = [path.read_text() for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    modules = {module.split(".")[0] for text in texts for module in imported(text)}
    modules -= {"nas_osr", *sys.stdlib_module_names}
    owners = importlib.metadata.packages_distributions()
    used = {normal(owners.get(module, [OPTIONAL.get(module, module)])[0]) for module in modules}
    used |= {name for name, sign in INDIRECT.items() if any(sign in text for text in texts)}
    assert used == declared


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imported(text: str) -> list[str]:
    """The modules that a source imports."""
    nodes = list(ast.walk(ast.parse(text)))
    optional = re.findall(r'\brequire\("(\w+)', text)
    plain = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    return (
        optional + plain + [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom) and not node.level]
    )
