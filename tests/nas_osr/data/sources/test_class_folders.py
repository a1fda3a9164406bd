"""Which class a folder shows: by name, number or alias, or one line of refusal; nothing is guessed."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas_osr.data.sources import SOURCES, source_class
from nas_osr.data.sources.class_folders import fold_name, match_class_folders
from nas_osr.errors import UserError

HERE = Path("set/train")
NAMED = [name for name in SOURCES if name != "folder"]
PAGE = Path(__file__).resolve().parents[4] / "docs" / "reference" / "data.md"


def match(source: str, *found: str) -> dict[int, str]:
    kind = source_class(source)
    return {key: path.name for key, path in match_class_folders(HERE, found, kind.class_names, kind.aliases).items()}


@pytest.mark.parametrize(
    ("source", "found", "expected"),
    [
        ("cifar10", ["plane", "car", "bird"], [0, 1, 2]),
        ("cifar10", ["Aeroplane", "AUTO", "lorry"], [0, 1, 9]),
        ("cifar10", ["0", "09", "1"], [0, 9, 1]),
        ("cifar100", ["aquarium fish", "Lawn-Mower", "maple", "sweet peppers"], [1, 41, 47, 83]),
        ("mnist", ["zero", "Nine", "three"], [0, 9, 3]),
        ("svhn", ["9", "1", "0"], [9, 1, 0]),
        ("fashion-mnist", ["T-shirt_top", "ankle_boot", "Shirt", "trousers"], [0, 9, 6, 1]),
        ("fashion-mnist", ["tshirt", "Ankle boot"], [0, 9]),
    ],
)
def test_names_numbers_and_aliases(source: str, found: list[str], expected: list[int]) -> None:
    assert match(source, *found) == dict(zip(expected, found, strict=True))


@pytest.mark.parametrize(
    ("source", "found", "message"),
    [
        ("cifar10", [*"abcdefghij"], r"by a, b, c, .*, j: expected folders named airplane \(or plane\), automobile"),
        ("cifar10", ["plane", "kitten", "cat"], "set/train: cannot tell which class is shown by kitten: expected"),
        ("cifar10", ["cat", "3"], "shown by 3: expected folders named .* all of them by label numbers 0 to 9"),
        ("cifar10", ["0", "10"], "shown by 10: "),
        ("cifar10", ["\u0663"], "shown by \u0663: "),  # a digit of another script
        ("mnist", ["zero", "1"], "shown by 1: "),
        ("svhn", [*map(str, range(1, 11))], "shown by 10: "),  # the official files say 10 for the digit 0
        ("cifar10", ["car", "automobile"], "car and automobile are both class automobile"),
        ("cifar10", ["cat", "Cat"], "cat and Cat are both class cat"),
        ("mnist", ["3", "03"], "3 and 03 are both class 3"),
        ("cifar100", ["fish", "flowers"], r"expected folders named apple \.\.\. worm, or .* 0 to 99"),
    ],
)
def test_anything_else_is_refused(source: str, found: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        match(source, *found)


def test_official_names_that_are_numbers_stay_names() -> None:
    """Of a user's own source: 10 is its second class, not label number 10."""
    names = ("1", "10", "2")
    assert match_class_folders(HERE, ["1", "10", "2"], names, {}) == {0: HERE / "1", 1: HERE / "10", 2: HERE / "2"}
    with pytest.raises(UserError, match="is shown by 5"):
        match_class_folders(HERE, ["5"], names, {})
    assert match_class_folders(HERE, ["a_b"], ("a b", "a_b"), {}) == {1: HERE / "a_b"}
    with pytest.raises(UserError, match="is shown by A-B"):  # both would do
        match_class_folders(HERE, ["A-B"], ("a b", "a_b"), {})


@pytest.mark.parametrize("source", NAMED)
def test_no_alias_stands_for_two_classes(source: str) -> None:
    kind = source_class(source)
    names = [fold_name(name) for name in kind.class_names]
    assert set(kind.aliases) <= set(kind.class_names)
    names += [fold_name(other) for others in kind.aliases.values() for other in others]
    assert len(set(names)) == len(names)


@given(st.data())
def test_case_and_separators_never_count(data: st.DataObject) -> None:
    """Any spelling of any name of any class leads to the class, wherever its words are put together."""
    kind = source_class(data.draw(st.sampled_from(NAMED)))
    class_id = data.draw(st.integers(0, len(kind.class_names) - 1))
    official = kind.class_names[class_id]
    name = data.draw(st.sampled_from([official, *kind.aliases.get(official, ())]))
    spelled = "".join(
        data.draw(st.sampled_from((letter.lower(), letter.upper()) if letter.isalnum() else ("_", " ", "-", ".", "")))
        for letter in name
    )
    assert match_class_folders(HERE, [spelled], kind.class_names, kind.aliases) == {class_id: HERE / spelled}


def test_every_alias_is_documented() -> None:
    page = PAGE.read_text()
    aliases = {other for name in NAMED for others in source_class(name).aliases.values() for other in others}
    assert {other for other in aliases if other not in page} == set()
