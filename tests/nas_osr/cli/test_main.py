"""The command line as a user meets it: help, commands, errors, exit codes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import nas_osr
from nas_osr.cli import main as cli
from nas_osr.errors import UserError
from nas_osr.runs.stopping import Terminated


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    code = cli.main(arguments)
    out, err = capsys.readouterr()
    return code, out, err


def test_help_lists_every_command(capsys):
    for arguments in ((), ("--help",), ("-h",), ("help",)):
        code, out, err = run(capsys, *arguments)
        assert (code, err) == (0, "")
        for name, command in cli.COMMANDS.items():
            assert f"  {name} " in out
            assert command.summary in out


def test_version(capsys):
    assert run(capsys, "--version") == (0, f"nas-osr {nas_osr.__version__}\n", "")


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help_for_every_option(capsys, name):
    code, out, err = run(capsys, *name.split(), "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"usage: nas-osr {name}")
    from nas_osr.option_docs import list_options

    command = cli.COMMANDS[name]
    options = list_options(command.options)
    assert set(command.positionals) <= {option.name for option in options}
    assert "examples:\n  nas-osr " in out and max(map(len, out.splitlines())) <= 100
    for option in options:
        assert f"--{option.name}" in out
        assert len(option.help) > 10, f"{name} --{option.name} has no help"


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_the_examples_of_a_command_are_accepted(name):
    from nas_osr.cli.options import parse_options

    command = cli.COMMANDS[name]
    assert command.examples
    for example in command.examples:
        found, arguments = cli.split_command(example.split())
        assert found == name
        assert parse_options(command.options, arguments, name, command.positionals) is not None


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_function_can_be_loaded(name):
    assert callable(cli.load(cli.COMMANDS[name].function))


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        ("search --protocol cifr10", "cifar10"),
        ("search --strategy dart", "darts"),
        ("search --objective vae_contrastiv", "vae_contrastive"),
        ("search --operations skip,konv", "conv"),
        ("search --rule openmacs", "openmax"),
        ("search --preset smal", "small"),
        ("search --preset tiny --objective_config.class_dimm 3", "class_dim"),
        ("retrain --network resnet81 --objective cac", "resnet18"),
        ("retrain publishd", "published"),
        ("retrain published --recipe gradmx", "gradmix"),
        ("data prepare cifr10", "cifar10"),
        ("analyse confusio x", "confusion"),
        ("sweep cac-ablatio", "cac-ablation"),
    ],
)
def test_a_name_that_is_nearly_right_is_told(capsys, tmp_path, arguments, meant):
    out = [] if arguments.split()[0] in ("data", "analyse") else ["--dry_run", "--out", str(tmp_path / "run")]
    code, _, error = run(capsys, *arguments.split(), *out)
    assert code == 2 and error.count("\n") == 1
    assert error.endswith(f"did you mean {meant}?\n")


def test_a_terminal_sees_at_once_what_begins(capsys, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(cli, "load", lambda name: lambda request, command: seen.append(capsys.readouterr().err))
    arguments = ("search", "--protocol", "digits", "--out", str(tmp_path / "run"))
    for terminal in (True, False):
        monkeypatch.setattr("sys.stderr.isatty", lambda terminal=terminal: terminal)
        run(capsys, *arguments)
        run(capsys, *arguments, "--quiet")
    assert seen == [f"search  protocol digits  strategy pas  into {tmp_path / 'run'}\n", "", "", ""]


def test_help_of_a_family_lists_its_members(capsys):
    code, out, _ = run(capsys, "data", "--help")
    assert code == 0
    assert "data prepare" in out
    assert "doctor" not in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("serach",), "unknown command 'serach': did you mean search?"),
        (("frobnicate",), "unknown command 'frobnicate': choose one of fit, "),
        (("data",), "nas-osr data needs one of list, prepare, check after it"),
        (("data", "lst"), "nas-osr data needs one of list, prepare, check after it"),
        (("search", "--epoch", "3"), "search: unknown option --epoch; did you mean --epochs?"),
        (("search", "--epochs", "many"), "search: --epochs must be a whole number or null, got 'many'"),
        (("search", "stray"), "search: unexpected argument 'stray'"),
        (("search", "--config", "missing.yaml"), "missing.yaml: cannot be read"),
        (("export",), "export: architecture is missing"),
        (("export", "missing.json"), "missing.json"),
        (("search", "--protocol", "cifar11"), "cifar11"),
        (("search", "--protocol", "digits", "--split", "99"), "split"),
        (("search", "--protocol", "digits", "--known", "[1, 2, 77]"), "77"),
        (("search", "--protocol", "digits", "--preset", "huge"), "huge"),
        (("search", "--protocol", "digits", "--strategy", "guess"), "guess"),
        (("search", "--protocol", "digits", "--objective", "nothing"), "nothing"),
        (("search", "--protocol", "digits", "--objective_config.colour", "1"), "colour"),
        (("search", "--protocol", "digits", "--rule", "nothing"), "nothing"),
        (("search", "--protocol", "digits", "--epochs", "2", "--warmup_epochs", "2"), "warmup_epochs"),
        (("search", "--protocol", "digits", "--device", "tpu"), "tpu"),
        (("retrain", "missing", "--protocol", "digits"), "missing"),
        (("retrain", "published", "--protocol", "digits", "--splits", "4-2"), "splits"),
        (("evaluate", "missing"), "missing"),
        (("evaluate",), "evaluate: run is missing"),
        (("data", "prepare", "cifar11"), "cifar11"),
    ],
)
def test_a_mistake_is_one_line_and_exit_2_and_writes_nothing(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, *arguments)
    assert code == 2
    assert out == ""
    assert err.startswith("nas-osr: error: ")
    assert message in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("kind", "code", "word"), [(KeyboardInterrupt, 130, "interrupted"), (Terminated, 143, "terminated")]
)
def test_an_interruption_has_its_exit_code_and_keeps_its_message(capsys, monkeypatch, kind, code, word):
    def interrupt(json: bool = False):
        raise kind("resume with: x")

    monkeypatch.setattr("nas_osr.cli.rules.rules", interrupt)
    assert run(capsys, "rules") == (code, "", f"nas-osr: {word}; resume with: x\n")


def test_a_message_of_several_lines_becomes_one(capsys, monkeypatch):
    def fail(json: bool = False):
        raise UserError("one\n  two")

    monkeypatch.setattr("nas_osr.cli.rules.rules", fail)
    assert run(capsys, "rules") == (2, "", "nas-osr: error: one two\n")


def test_a_defect_is_not_hidden(monkeypatch):
    def fail(json: bool = False):
        raise ZeroDivisionError

    monkeypatch.setattr("nas_osr.cli.rules.rules", fail)
    with pytest.raises(ZeroDivisionError):
        cli.main(["rules"])


def test_the_module_runs_and_a_reader_that_goes_is_no_error():
    command = [sys.executable, "-m", "nas_osr", "data", "list"]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize(
    ("given", "policy", "spins"),
    [
        ({}, "PASSIVE", cli.SPINS),
        ({"GOMP_SPINCOUNT": "5"}, "PASSIVE", "5"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE", None),
    ],
)
def test_threads_wait_as_the_user_says_else_a_little_while(monkeypatch, given, policy, spins):
    monkeypatch.setattr(os, "environ", dict(given))
    cli.set_waiting()
    assert (os.environ["OMP_WAIT_POLICY"], os.environ.get("GOMP_SPINCOUNT")) == (policy, spins)
