"""Options from dataclasses and functions: values from the command line and from YAML files."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml

from nas_osr.cli.commands import COMMANDS
from nas_osr.cli.main import main
from nas_osr.cli.options import parse_options
from nas_osr.configuration import UserPath
from nas_osr.errors import UserError
from nas_osr.option_docs import Choices, list_options
from nas_osr.plain import plain
from nas_osr.retrain.retrain_plan import plan_retrain
from nas_osr.retrain.retrain_request import RetrainRequest
from nas_osr.strategies.search_plan import plan_search
from nas_osr.strategies.search_request import SearchRequest


@dataclass
class Config:
    """Do a thing.

    Args:
        name: what it is called, at 100 %.
        count: how many.
        rate: how fast.
        settings: more
            of it.
        known: which.
        loud: whether to shout.
        quiet: whether not to.
    """

    name: str = "thing"
    count: int | None = None
    rate: float = 0.5
    settings: dict[str, Any] = field(default_factory=dict)
    known: list[Any] | None = None
    loud: bool = False
    quiet: bool = True


def convert(source: str, out: Path = Path("."), formats: str | list[str] = "svg", size: int = 3) -> None:
    """Convert.

    Args:
        source: what to convert.
        out: where to.
        formats: as what.
        size: how large.

    Returns:
        Nothing.
    """


def parse(*arguments: str) -> Config:
    values = parse_options(Config, list(arguments), "thing", ("name",))
    assert values is not None
    return Config(**values)


def test_options_come_from_signature_and_docstring():
    options = {option.name: option for option in list_options(Config)}
    assert list(options) == ["name", "count", "rate", "settings", "known", "loud", "quiet"]
    assert options["settings"].help == "more of it."
    assert options["settings"].default == {}
    assert [option.name for option in list_options(convert)] == ["source", "out", "formats", "size"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], Config()),
        (["--count", "3", "--rate=1e-3"], Config(count=3, rate=0.001)),
        (["--rate", "1"], Config(rate=1.0)),
        (["--count", "-2"], Config(count=-2)),
        (["--name", "007"], Config(name="007")),
        (["other"], Config(name="other")),
        (["--loud", "other", "--no_quiet"], Config(name="other", loud=True, quiet=False)),
        (["--loud=True", "--quiet=false"], Config(loud=True, quiet=False)),
        (["--no-quiet"], Config(quiet=False)),
        (["--settings.a", "6", "--settings.b_c=x"], Config(settings={"a": 6, "b_c": "x"})),
        (["--settings.d-e", "[1, 2]"], Config(settings={"d-e": [1, 2]})),
        (["--settings", '{"a": 1e-3, "b": true}'], Config(settings={"a": 0.001, "b": True})),
        (["--known", "[[0, 1], 2]"], Config(known=[["0", "1"], "2"])),
        (["--known", "cat,dog"], Config(known=["cat", "dog"])),
        (["--known", "7"], Config(known=["7"])),
        (["--known=null"], Config()),
        (["--known", "no,1e-3,true"], Config(known=["no", "1e-3", "true"])),
        (["--settings.a.b", "1", "--settings.a.c", "2"], Config(settings={"a": {"b": 1, "c": 2}})),
        (["--settings.a", "1", "--settings", "{b: 2}"], Config(settings={"b": 2})),
        (["--name=--loud"], Config(name="--loud")),
    ],
)
def test_values_from_the_command_line(arguments, expected):
    assert parse(*arguments) == expected


@pytest.mark.parametrize(("text", "expected"), [("16", 16), ("auto", "auto"), ("null", None)])
def test_a_number_or_a_word(text, expected):
    values = parse_options(SearchRequest, ["--batch_size", text], "search")
    assert values is not None and SearchRequest(**values).batch_size == expected


def test_values_from_a_file_and_the_command_line_wins(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("name: filed\ncount: 3\nloud: true\nsettings: {a: 1, b: 2}\n")
    assert parse("--config", str(file)) == Config(name="filed", count=3, loud=True, settings={"a": 1, "b": 2})
    expected = Config(name="typed", count=4, loud=False, settings={"a": 1, "b": 5})
    typed = ["typed", "--count", "4", "--no_loud", "--settings.b", "5"]
    assert parse("--config", str(file), *typed) == parse(*typed, "--config", str(file)) == expected


def test_a_mistake_in_a_file_names_file_and_option(tmp_path):
    file = tmp_path / "c.yaml"
    for text, message in (
        ("cuont: 3", "there is no option cuont; did you mean count?"),
        ("count: x", "count must be a"),
    ):
        file.write_text(text)
        with pytest.raises(UserError, match="thing: --config: ") as caught:
            parse("--config", str(file))
        assert f"{file}: {message}" in str(caught.value)


@dataclass
class Speeds:
    """How fast it is."""

    rate: float = 0.5
    "how fast."
    step: Literal["half", "full"] = "full"
    "how much at once."


@dataclass
class Grouped(Speeds):
    """Do a thing, in order.

    Or not,
    at any rate.
    """

    target: Annotated[str | None, Choices({"a": 1, "b": 2}, plugins=True)] = None
    "what is done."
    rate: float = 1.0
    parts: list[str] = field(default_factory=lambda: ["x", "y"])
    "of what."
    file: UserPath | None = "here"
    "where it is, and whatever else there may be to say about this one."


def test_help_shows_groups_choices_defaults_and_examples(capsys):
    assert parse_options(Grouped, ["--help"], "do it", ("target",), ("do it a --rate 2",)) is None
    out = capsys.readouterr().out
    assert out.splitlines()[0] == "usage: nas-osr do it [TARGET] [--OPTION VALUE ...]"
    assert "Do a thing, in order.\n\nOr not, at any rate.\n\nexamples:\n  nas-osr do it a --rate 2\n" in out
    arguments, rest = out.split("options of this command:")
    own, group = rest.split("How fast it is:")
    assert "  TARGET, --target        what is done. [one of a, b, or package.module.Class]" in arguments
    assert "--target" not in rest
    said = "where it is, and whatever else there may be to say about this one."
    assert f"--file PATH             {said}\n{' ' * 26}[default: here]\n" in own
    assert "--parts A,B,...         of what. [default: x,y]" in own
    assert "--rate X                how fast. [default: 1.0]" in group
    assert "--step NAME             how much at once. [one of half, full; default: full]" in group
    assert max(map(len, out.splitlines())) <= 100


def test_print_config_is_a_config(tmp_path, capsys):
    assert parse_options(Config, ["--count", "3", "--print_config"], "thing") is None
    text = capsys.readouterr().out
    (tmp_path / "c.yaml").write_text(text)
    assert parse("--config", str(tmp_path / "c.yaml")) == Config(count=3)


def test_functions_take_positionals_and_paths():
    values = parse_options(convert, ["a.json", "--out", "x/y", "--formats", "svg,png"], "convert", ("source",))
    assert values == {"source": "a.json", "out": Path("x/y"), "formats": "svg,png"}
    values = parse_options(convert, ["a.json", "--formats", "[svg, png]", "--size=2"], "convert", ("source",))
    assert values == {"source": "a.json", "formats": ["svg", "png"], "size": 2}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--count", "1.5"], "thing: --count must be a whole number or null, got 1.5"),
        (["--rate", "nan"], "thing: --rate must be a finite number, got 'nan'"),
        (["--rate", ".inf"], "thing: --rate must be a finite number, got inf"),
        (["--count", "true"], "thing: --count must be a whole number or null, got True"),
        (["--known", "a]"], "thing: --known must be a list [...] or null, got 'a]'"),
        (["--settings.a", "[a"], "thing: --settings.a: not valid YAML"),
        (["--known.a", "3"], "thing: --known must be a list [...] or null, got an object"),
        (["--settings", "3"], "thing: --settings must be a mapping"),
        (["--count"], "thing: --count needs a value"),
        (["--name", "--loud"], "thing: --name needs a value"),
        (["--no_loud=true"], "thing: --no_loud takes no value"),
        (["--loud=maybe"], "thing: --loud must be true or false, got 'maybe'"),
        (["--cuont", "3"], "thing: unknown option --cuont; did you mean --count?"),
        (["--coun", "3"], "thing: unknown option --coun; did you mean --count?"),
        (["a", "b"], "thing: unexpected argument 'b'"),
        (["-x"], "thing: unexpected argument"),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises(UserError) as caught:
        parse(*(["name"] if arguments == ["-x"] else []), *arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "count: [",
        "- 1",
        "count: x",
        "cuont: 3",
        "__path__: x",
        "count: !!python/object/apply:os.mkdir [trap]",
        "name: {class_path: os.mkdir, init_args: {path: trap}}",
        "\x00",
    ],
)
def test_a_broken_file_is_one_line(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        parse("--config", "c.yaml")
    assert "\n" not in str(caught.value)
    assert not Path("trap").exists()


@pytest.mark.parametrize("option", ["known", "settings"])
@pytest.mark.parametrize("path", ["os.mkdir", "trap_module.Trap"])
def test_a_class_in_a_file_or_on_the_command_line_stays_plain_data(tmp_path, monkeypatch, option, path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("trap_module.py").write_text("open('trap', 'w')\nclass Trap: pass\n")
    value: Any = {"class_path": path, "init_args": {"path": "trap"}}
    value = [value] if option == "known" else value
    Path("c.yaml").write_text(yaml.safe_dump({option: value}))
    for arguments in (["--config", "c.yaml"], [f"--{option}", yaml.safe_dump(value, default_flow_style=True)]):
        assert getattr(parse(*arguments), option) == value
    assert not Path("trap").exists()


def record(request: Any) -> Any:
    found = plan_search(request) if isinstance(request, SearchRequest) else plan_retrain(request)
    return plain(found.recorded, "config")


@pytest.mark.parametrize("config", [SearchRequest, RetrainRequest])
def test_what_a_run_records_is_a_config_again(tmp_path, config):
    values = parse_options(config, ["--protocol", "digits", "--preset", "tiny", "--known", "[[0, 1], 2, 3]"], "x")
    assert values is not None
    recorded = record(config(**values))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(recorded, sort_keys=False))
    again = parse_options(config, ["--config", str(tmp_path / "config.yaml")], "x")
    assert again is not None
    assert record(config(**again)) == recorded


@pytest.mark.parametrize("name", COMMANDS)
def test_defaults_of_every_command_pass_its_own_types(name, tmp_path, capsys):
    command, target = COMMANDS[name], COMMANDS[name].options
    required = [f"--{option.name}=x" for option in list_options(target) if option.default is MISSING]
    assert parse_options(target, [*required, "--print_config"], name, command.positionals) is None
    (tmp_path / "c.yaml").write_text(capsys.readouterr().out)
    assert parse_options(target, ["--config", str(tmp_path / "c.yaml")], name, command.positionals) is not None


@pytest.mark.parametrize("command", ["evaluate", "fit", "retrain", "score", "search"])
def test_the_help_of_rule_names_the_bridge(command, capsys):
    assert main([command, "--help"]) == 0
    [own] = [text for text in capsys.readouterr().out.split("\n  --") if text.startswith("rule ")]
    assert "pytorch_ood.NAME" in own
