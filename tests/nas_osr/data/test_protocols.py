"""Protocols: published lists, label maps, explicit and seeded classes, mistakes."""

from __future__ import annotations

import json
import random
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas_osr.data.protocols import Protocol, make_protocol, with_unknown
from nas_osr.data.sources import SOURCES, open_source
from nas_osr.data.tasks import PROTOCOLS, count_splits, published_splits
from nas_osr.errors import UserError
from nas_osr.metrics.open_set import openness

NAMED = [name for name, task in PROTOCOLS.items() if not task.open_choice]
EVERY = [
    (name, family, split) for name in NAMED for family, count in count_splits(name).items() for split in range(count)
]


def ids(protocol: Protocol) -> list[int]:
    """The official label numbers of the known classes, in label order."""
    return open_source(protocol.source).ids(protocol.known_classes)


def unknown_ids(protocol: Protocol) -> list[int]:
    return open_source(protocol.unknown_source).ids(protocol.unknown)


# Literal values, copied by hand from the published lists.
@pytest.mark.parametrize(
    ("name", "family", "split", "known"),
    [
        ("mnist", "arpl", 0, [2, 4, 5, 9, 8, 3]),
        ("digits", "arpl", 4, [6, 3, 4, 9, 8, 2]),
        ("fashion-mnist", "arpl", 1, [3, 2, 6, 9, 4, 0]),
        ("svhn", "arpl", 2, [8, 9, 4, 7, 2, 1]),
        ("cifar10", "arpl", 0, [0, 6, 4, 9, 1, 7]),
        ("cifar10", "arpl", 1, [7, 6, 4, 9, 0, 1]),
        ("cifar+10", "arpl", 4, [1, 0, 9, 8]),
        ("cifar10", "neal", 3, [3, 4, 5, 7, 8, 9]),
        ("cifar+50", "neal", 2, [0, 1, 8, 9]),
        ("svhn", "nas_osr", 0, [3, 7, 8, 2, 6, 4]),
        ("digits", "nas_osr", 4, [2, 8, 7, 3, 9, 1]),
        (
            "tinyimagenet",
            "neal",
            0,
            [10, 28, 54, 72, 77, 91, 104, 107, 112, 124, 125, 144, 145, 157, 166, 169, 180, 186, 192, 193],
        ),
        (
            "tinyimagenet",
            "arpl",
            0,
            [108, 147, 17, 58, 193, 123, 72, 144, 75, 167, 134, 14, 81, 171, 44, 197, 152, 66, 1, 133],
        ),
    ],
)
def test_published_lists(name: str, family: str, split: int, known: list[int]) -> None:
    assert ids(make_protocol(name, split, family=family)) == known


def test_cifar_plus_unknowns_are_the_published_cifar100_classes() -> None:
    protocol = make_protocol("cifar+10", 0)
    assert unknown_ids(protocol) == [30, 25, 1, 9, 8, 0, 46, 52, 49, 71]
    assert protocol.unknown_source == "cifar100"
    assert protocol.unknown[0] == "dolphin"
    assert unknown_ids(make_protocol("cifar+10", 2, family="neal")) == [11, 24, 15, 95, 93, 34, 32, 88, 63, 2]
    fifty = make_protocol("cifar+50", 0, family="neal")
    assert len(set(fifty.unknown)) == 50
    assert {"man", "woman", "baby", "whale", "worm"} <= set(fifty.unknown)  # people are animals there


@pytest.mark.parametrize(("name", "family", "split"), EVERY)
def test_labels_and_classes_of_every_split(name: str, family: str, split: int) -> None:
    protocol = make_protocol(name, split, family=family)
    numbers = ids(protocol)
    assert protocol.label_map == dict(zip(protocol.known_classes, range(protocol.num_known), strict=True))
    assert sorted(protocol.label_map.values()) == list(range(protocol.num_known))
    source = open_source(protocol.source)
    assert protocol.class_names == tuple(source.class_names[class_id] for class_id in numbers)
    if protocol.unknown_source == protocol.source and not name.endswith("-closed"):
        assert sorted((*numbers, *unknown_ids(protocol))) == list(range(len(source.class_names)))
    if family == "neal":
        assert numbers == sorted(numbers)
    assert protocol.image_shape[1] % 16 == protocol.image_shape[2] % 16 == 0
    assert len(protocol.mean) == len(protocol.std) == protocol.image_shape[0]
    assert Protocol.from_dict(json.loads(json.dumps(protocol.to_dict()))) == protocol


def test_the_shipped_lists_are_well_formed() -> None:
    for family, lists in published_splits().items():
        if family == "note":
            continue
        for name, entry in lists.items():
            classes = 200 if name == "tinyimagenet" else 10
            for known in entry["known"]:
                assert len(set(known)) == len(known) and set(known) <= set(range(classes))
            for unknown in entry.get("unknown_cifar100", []):
                assert len(set(unknown)) == len(unknown) == int(name[-2:]) and set(unknown) <= set(range(100))


def test_nas_osr_sets_are_draws_of_random_sample_and_name_their_pseudo_unknowns() -> None:
    for split, seed in enumerate([777, 1234, 2731, 3925, 5432]):
        published = make_protocol("cifar10", split, family="nas_osr")
        assert published.pseudo_unknown == (4, 5)
        assert ids(published)[:4] == random.Random(seed).sample(range(10), 4)
    assert make_protocol("cifar10").pseudo_unknown is None


def test_nas_osr_unknown_classes_of_cifar100_are_draws_of_random_sample() -> None:
    """From the 51 classes that all draws together show; each draw of 50 leaves out another one."""
    left_out = [77, 64, 37, 7, 2]
    fifty = [set(unknown_ids(make_protocol("cifar+50", split, family="nas_osr"))) for split in range(5)]
    population = sorted(set.union(*fifty))
    assert len(population) == 51
    for split, seed in enumerate([777, 1234, 2731, 3925, 5432]):
        assert set(population) - fifty[split] == {left_out[split]}
        ten = make_protocol("cifar+10", split, family="nas_osr")
        assert ids(ten) == [0, 1, 8, 9] and ten.pseudo_unknown is None
        assert unknown_ids(ten) == random.Random(seed).sample(population, 10)


def test_class_names_have_the_official_numbers() -> None:
    assert open_source("cifar10").class_names[3] == "cat"
    assert open_source("cifar100").class_names[52] == "oak_tree"
    assert open_source("fashion-mnist").class_names[9] == "Ankle boot"
    wnids = open_source("tinyimagenet").class_names
    assert list(wnids) == sorted(set(wnids)) and len(wnids) == 200
    assert {name: len(open_source(name).class_names) for name in SOURCES if name != "folder"} == {
        "digits": 10,
        "mnist": 10,
        "fashion-mnist": 10,
        "svhn": 10,
        "cifar10": 10,
        "cifar100": 100,
        "tinyimagenet": 200,
    }


# The figures printed by CAC (first) and GradMix (second), in per cent.
@pytest.mark.parametrize(
    ("name", "cac", "gradmix"),
    [("cifar10", 13.4, 22.5), ("cifar+10", 33.3, 46.5), ("cifar+50", 62.9, 72.8), ("tinyimagenet", 57.4, 68.4)],
)
def test_openness_as_printed(name: str, cac: float, gradmix: float) -> None:
    protocol = make_protocol(name)
    assert 100 * openness(protocol.num_known, len(protocol.unknown), "cac") == pytest.approx(cac, abs=0.06)
    assert 100 * openness(protocol.num_known, len(protocol.unknown), "gradmix") == pytest.approx(gradmix, abs=0.06)
    assert make_protocol("cifar10-closed").unknown == ()


def test_merged_classes_share_a_label() -> None:
    protocol = make_protocol("mnist", known=[[0, 2], [1, 3]])
    assert protocol.label_map == {"0": 0, "2": 0, "1": 1, "3": 1}
    assert protocol.class_names == ("0+2", "1+3")
    assert protocol.unknown == tuple("456789")
    assert protocol.family == "explicit"
    named = make_protocol("cifar10", known=[["cat", "dog"], ["automobile", "truck"]])
    assert named.known == (("cat", "dog"), ("automobile", "truck"))


@given(st.permutations(range(10)), st.integers(2, 10), st.data())
def test_explicit_classes_round_trip(order: list[int], count: int, data: st.DataObject) -> None:
    chosen = order[:count]
    cuts = sorted(data.draw(st.sets(st.integers(1, count - 1), min_size=1, max_size=count - 1)))
    groups = [chosen[start:stop] for start, stop in zip([0, *cuts], [*cuts, count], strict=True)]
    protocol = make_protocol("cifar10", known=groups)
    names = open_source("cifar10").class_names
    assert [list(group) for group in protocol.known] == [[names[number] for number in group] for group in groups]
    assert {names[number]: label for label, group in enumerate(groups) for number in group} == protocol.label_map
    assert set(protocol.unknown) == {names[number] for number in set(range(10)) - set(chosen)}


def test_explicit_cifar_plus_takes_the_unknown_list_of_the_split() -> None:
    protocol = make_protocol("cifar+10", 3, known=[0, 1, 8, 9])
    assert protocol.unknown == make_protocol("cifar+10", 3).unknown
    neal = make_protocol("cifar+10", 3, family="neal", known=["ship", "truck"])
    assert neal.unknown == make_protocol("cifar+10", 3, family="neal").unknown


@given(st.integers(0, 10**6), st.integers(0, 5), st.sampled_from(["svhn", "cifar10", "cifar+10", "tinyimagenet"]))
def test_seeded_draws(seed: int, split: int, name: str) -> None:
    protocol = make_protocol(name, split, seed=seed)
    assert protocol == make_protocol(name, split, seed=seed)
    assert protocol.num_known == make_protocol(name).num_known
    assert len(protocol.unknown) == len(make_protocol(name).unknown)
    if name == "cifar+10":
        animals = make_protocol("cifar+50", family="neal").unknown
        assert sorted(protocol.label_map) == ["airplane", "automobile", "ship", "truck"] and set(
            protocol.unknown
        ) <= set(animals)
    else:
        assert not set(protocol.label_map) & set(protocol.unknown)


def test_seeded_draws_differ_by_seed_and_split() -> None:
    draws = {make_protocol("tinyimagenet", split, seed=seed).known for split in range(3) for seed in range(3)}
    assert len(draws) == 9


def test_unknowns_of_another_source() -> None:
    protocol = with_unknown(make_protocol("cifar10"), "svhn")
    assert protocol.unknown_source == "svhn" and protocol.unknown == tuple("0123456789")
    assert with_unknown(make_protocol("cifar10"), "cifar10").unknown == make_protocol("cifar10").unknown
    with pytest.raises(UserError, match="choose from digits"):
        with_unknown(protocol, "nothing")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "cifar11"}, "unknown protocol 'cifar11': choose one of digits"),
        ({"name": "cifar10", "split": 5}, "splits 0 to 4, not 5"),
        ({"name": "cifar10", "split": -1}, "whole number from 0"),
        ({"name": "cifar10", "split": True}, "whole number from 0"),
        ({"name": "cifar10", "family": "mine"}, "no splits of family 'mine'"),
        ({"name": "tinyimagenet", "family": "nas_osr"}, "choose arpl or neal"),
        ({"name": "cifar10", "family": "explicit"}, "comes with known"),
        (
            {"name": "cifar10", "known": [0, 10]},
            "no class '10': its classes are airplane, .*, truck, or their numbers 0 to 9",
        ),
        ({"name": "cifar10", "known": [0, -1]}, "no class '-1'"),
        ({"name": "cifar10", "known": [0, True]}, "True is no name of a class: put it in quotes"),
        ({"name": "cifar10", "known": ["cat", "unicorn"]}, "no class 'unicorn'"),
        ({"name": "cifar10", "known": [0, [1, 0]]}, "known classes of cifar10: airplane is given twice"),
        ({"name": "cifar10", "known": [0]}, "at least two labels"),
        ({"name": "cifar10", "known": [0, []]}, "none may be empty"),
        ({"name": "cifar10", "known": "cat"}, "must be a list"),
        ({"name": "cifar10", "known": [0, 1], "split": 1}, "split 0 only"),
        ({"name": "cifar10", "known": [0, 1], "seed": 1}, "not both"),
        ({"name": "cifar10-closed", "split": 1}, "is closed"),
        ({"name": "cifar10", "image_size": 64}, "image_size is for the protocol folder"),
    ],
)
def test_mistakes(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        make_protocol(**arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [{"known": [["a"], ["a"]]}, {"known": [["a"], [1]]}, {"unknown": [-1]}, {"unknown": [""]}],
)
def test_descriptions_that_contradict_themselves_are_refused(change: dict) -> None:
    with pytest.raises(UserError, match="protocol description"):
        Protocol.from_dict({**make_protocol("cifar10").to_dict(), **change})
    with pytest.raises(UserError, match="exactly the fields"):
        Protocol.from_dict({"name": "cifar10"})


def test_making_a_protocol_imports_neither_torch_nor_numpy() -> None:
    code = (
        "import sys; from nas_osr.data.protocols import make_protocol;"
        "from nas_osr.data.augmentation import default_augmentation;"
        "import nas_osr.cli.data; default_augmentation(make_protocol('cifar+10'));"
        "sys.exit(bool({'torch', 'numpy', 'PIL', 'scipy', 'sklearn'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
