"""What the operating system refuses is one line: files, folders, and the streams that a command prints to."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nas_osr.cli.main import main
from nas_osr.cli.streams import write_plainly

ROOT = Path(__file__).resolve().parents[3]
NOBODY = 65534
LONG = "a" * 300
SMALL_SEARCH = ["search", "--protocol", "digits", "--preset", "tiny"]


def shell(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a line in which $N is nas-osr."""
    called = f'N="{sys.executable} -m nas_osr"; set -o pipefail; {line}'
    return subprocess.run(
        ["bash", "-c", called],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize(
    ("line", "code", "shown"),
    [
        ("$N rules >&-", 0, ""),
        ("$N nosuch 2>&-", 2, ""),
        ("$N rules >&- 2>&- <&-", 0, ""),
        ("$N rules > /dev/full", 1, "nas-osr: error: No space left on device\n"),
        ("$N --help > /dev/full", 1, "nas-osr: error: No space left on device\n"),
        ("$N nosuch 2> /dev/full", 2, ""),
        ("$N search --help | true", 141, ""),
    ],
)
def test_streams_that_take_nothing(line: str, code: int, shown: str) -> None:
    done = shell(line)
    assert (done.returncode, done.stderr) == (code, shown), done


def test_a_closed_stream_is_not_the_next_file(tmp_path: Path) -> None:
    """Without a stand-in, the first file that is opened is number 1, and what is printed goes into it."""
    code = (
        "import os, sys; from nas_osr.cli.streams import prepare_streams; prepare_streams();"
        f"file = open({str(tmp_path / 'f')!r}, 'w'); print('lost'); os.write(2, b'lost');"
        "print(file.fileno(), file=file)"
    )
    subprocess.run(["bash", "-c", '"$0" -c "$1" <&- >&- 2>&-', sys.executable, code], check=True, cwd=ROOT)
    assert int((tmp_path / "f").read_text()) > 2


def test_a_terminal_without_the_characters_gets_others() -> None:
    done = shell("$N compare --help", PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and "mean +- std" in done.stdout, done
    error = UnicodeEncodeError("ascii", "a±…\udc80b", 1, 4, "")
    assert write_plainly(error) == ("+-...?", 4)


@contextmanager
def another_user() -> Iterator[None]:
    """Inside, root is somebody else; other users are themselves, who may not read what they have closed either."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


COMMANDS: list[Callable[[str], list[str]]] = [
    lambda path: ["evaluate", path],
    lambda path: ["compare", path],
    lambda path: ["analyse", "confusion", path],
    lambda path: ["export", path],
    lambda path: ["retrain", path, "--dry_run"],
    lambda path: ["score", path, "--rule", "msp"],
    lambda path: ["sweep", path],
    lambda path: ["search", "--config", path],
    lambda path: ["data", "check", "--data_dir", path],
    lambda path: ["doctor", "--data_dir", path],
    lambda path: [*SMALL_SEARCH, "--out", path],
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command("")[0])
def test_what_may_not_be_read_is_one_line(
    command: Callable[[str], list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(command("/dev/null/nothing"))  # whatever is imported on the way, another user may not be able to
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    capsys.readouterr()
    try:
        with another_user():
            code = main(command(str(closed / "inside" / "run")))
    finally:
        closed.chmod(0o700)
    error = capsys.readouterr().err
    assert code == 2 and error.count("\n") == 1 and "Permission denied" in error and str(closed) in error, error


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command("")[0])
@pytest.mark.parametrize("kind", ["long", "loop", "file", "user"])
def test_what_is_no_path_is_one_line(
    kind: str, command: Callable[[str], list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one")
    (tmp_path / "file").write_text("text")
    paths = {"long": f"{tmp_path}/{LONG}", "loop": f"{tmp_path}/one/x", "file": f"{tmp_path}/file/x"}
    code = main(command(paths.get(kind, "~nobody_of_this_name/x")))
    error = capsys.readouterr().err
    if command("")[0] == "doctor" and code == 0:
        return  # it says that there is no such folder, which is an answer
    assert code == 2 and error.count("\n") == 1, error
    assert kind != "user" or "~nobody_of_this_name has no home folder here" in error, error


def test_a_home_is_found_wherever_a_path_comes_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "made.yaml").write_text(
        "protocol: digits\npreset: tiny\ndata_dir: ~/images\nout: ~/run\ndry_run: true\n"
    )
    assert main(["search", "--config", "~/made.yaml"]) == 0
    assert f"data_dir: {tmp_path}/images" in capsys.readouterr().out
    assert main(["export", "published", "--format", "json", "--out", "~/pictures"]) == 0
    assert main(["export", "~/pictures/architecture.json", "--format", "gv", "--out=~/more"]) == 0
    assert (tmp_path / "more" / "architecture.gv").is_file()
    (tmp_path / "images").mkdir()
    monkeypatch.setenv("NAS_OSR_DATA", "~/images")
    capsys.readouterr()
    assert main(["doctor", "--json"]) == 0
    assert f'"folder": "{tmp_path}/images"' in capsys.readouterr().out


def test_other_failures_of_the_system_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for error, code in ((OSError(errno.EROFS, "Read-only file system", "/x"), 2), (OSError(errno.EIO, "I/O error"), 1)):

        def fail(error: OSError = error) -> None:
            raise error

        monkeypatch.setattr("nas_osr.cli.main.load", lambda name, call=fail: call)
        assert main(["rules"]) == code
        shown = capsys.readouterr().err
        assert shown.count("\n") == 1 and str(error.strerror) in shown
