"""The garbage collector rests during imports, and afterwards it is as it was."""

from __future__ import annotations

import atexit
import gc
import subprocess
import sys
import types

import pytest

from nas_osr.cli.imports import quick_imports


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_is_as_it_was(enabled: bool) -> None:
    before = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        with quick_imports():
            assert not gc.isenabled()
        assert gc.isenabled() == enabled
        with pytest.raises(ImportError), quick_imports():
            raise ImportError
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if before else gc.disable)()


def test_only_new_modules_are_left_out_of_later_collections(monkeypatch: pytest.MonkeyPatch) -> None:
    frozen, at_exit = [], []
    monkeypatch.setattr(gc, "freeze", lambda: frozen.append(len(sys.modules)))
    monkeypatch.setattr(atexit, "register", at_exit.append)
    with quick_imports():
        pass
    assert not frozen
    with quick_imports():
        monkeypatch.setitem(sys.modules, "a_module_for_this_test", types.ModuleType("a_module_for_this_test"))
    assert len(frozen) == 1 and at_exit == [gc.unfreeze]


def test_a_command_ends_without_a_word_of_what_was_imported() -> None:
    """Some packages report leaks when Python does not collect their objects at its end."""
    code = "from nas_osr.cli.imports import quick_imports\nwith quick_imports(): import nas_osr.strategies.run"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
