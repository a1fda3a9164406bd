"""A table of architectures, made up: its file, what it says, and searches on it against what can be told by hand."""

from __future__ import annotations

import json
import lzma
import re
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from nas_osr.data.protocols import make_protocol
from nas_osr.errors import UserError
from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.search_spaces.architectures.canonical import count_distinct, fingerprint
from nas_osr.search_spaces.architectures.sampling import sample_architecture
from nas_osr.search_spaces.space import Space
from nas_osr.strategies.table import SCORED, SearchTable, read_table, write_table
from nas_osr.strategies.table_report import compare_strategies, correlate, describe_spread, foretell_space
from nas_osr.strategies.table_trials import (
    Conditions,
    first_on_table,
    look_up,
    plan_on_table,
    regret_on_table,
    search_table,
)
from nas_osr.strategies.tabulate import choose_architectures
from nas_osr.strategies.trials.trial import Proposal

SPACE = Space(layers=3, channels=16)  # 27 descriptions
EPOCHS, SEEDS, ROTATIONS = 4, 2, 2
CONFIG = {"protocol": "digits", "preset": "tiny", "layers": 3, "channels": 16, "objective": "cross_entropy"}


@cache
def make(seen_noise: float = 0.0, complete: bool = True) -> SearchTable:
    """Architectures whose true AUROC rises with their place in the list, as seen through noise."""
    generator = np.random.default_rng(0)
    architectures = choose_architectures(SPACE, 0, 0)
    quality = generator.permutation(len(architectures)) / len(architectures)

    def figures(level: float, count: int, noise: float) -> dict[str, Any]:
        curve = level * (1 - 0.5 ** np.arange(1, EPOCHS + 1))
        noisy = (
            curve + generator.normal(0, noise, (len(SCORED), count, 1)) if noise else [[curve] * count] * len(SCORED)
        )
        return {"mls": dict(zip(SCORED, np.array(noisy).tolist(), strict=True))}

    rows = [
        {
            "fingerprint": fingerprint(architecture), **architecture.describe(), "parameters": 100 + number, "macs": 7,
            "true": figures(level, SEEDS, 0.0), "pas": figures(level, ROTATIONS, seen_noise), "seconds": [1.0] * 4,
            "zero_cost": float(-level),
        }
        for number, (architecture, level) in enumerate(zip(architectures, quality, strict=True))
    ]  # fmt: skip
    header = {
        "config": CONFIG, "protocol": make_protocol("digits").to_dict(), "space": asdict(SPACE), "complete": complete,
        "epochs": EPOCHS, "seeds": SEEDS, "rotations": [["2"], ["3"]], "rules": ["mls"], "scores": list(SCORED),
        "provenance": {},
    }  # fmt: skip
    return SearchTable(header, rows)


def test_a_table_is_read_as_it_was_written_and_equal_ones_have_equal_bytes(tmp_path: Path) -> None:
    table = make()
    for name in ("one", "other"):
        write_table(tmp_path / name, table.header, table.rows)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()
    read = read_table(tmp_path / "one")
    assert list(read.rows) == list(table.rows)
    assert {name: read.header[name] for name in table.header} == json.loads(json.dumps(table.header))
    assert read.space == SPACE and len(read.rows) == count_distinct(SPACE)
    assert read.true("mls", "auroc").shape == (len(read.rows), SEEDS, EPOCHS)
    assert read.pas("mls", "f1").shape == (len(read.rows), ROTATIONS, EPOCHS)
    assert all(read.place[fingerprint(read.architecture(row))] == row for row in range(len(read.rows)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[: len(text) // 2], "no whole xz file"),
        (lambda text: b"not compressed", "no whole xz file"),
        (lambda text: lzma.compress(b'{"table": "other"}\n'), "not a table of nas-osr"),
        (lambda text: lzma.compress(lzma.decompress(text).replace(b'"epochs": 4', b'"epochs": 5', 1)), "line 2"),
        (lambda text: lzma.compress(lzma.decompress(text).replace(b'"conv2"]', b'"conv9"]', 3)), "line 2"),
        (lambda text: lzma.compress(lzma.decompress(text).replace(b'"space"', b'"room"', 1)), "space is missing"),
        (lambda text: lzma.compress(lzma.decompress(text).replace(b'["mls"]', b"[]", 1)), "no epochs, seeds, rules"),
        (lambda text: lzma.compress(lzma.decompress(text).replace(b'"epochs": 4', b'"epochs": "4"', 1)), "epochs must"),
        (lambda text: lzma.compress(lzma.decompress(text).replace(b'"seeds": 2', b'"seeds": 0', 1)), "no epochs"),
        (
            lambda text: lzma.compress(re.sub(rb'"f1": \[\[[0-9.]+', b'"f1": [[null', lzma.decompress(text), count=1)),
            "line 2",
        ),
        (lambda text: lzma.compress(lzma.decompress(text) + lzma.decompress(text).split(b"\n")[1]), "there already"),
    ],
)
def test_a_broken_table_is_refused_in_one_line(change: Any, message: str, tmp_path: Path) -> None:
    write_table(tmp_path / "table", make().header, make().rows)
    (tmp_path / "table").write_bytes(change((tmp_path / "table").read_bytes()))
    with pytest.raises(UserError, match=message) as refused:
        read_table(tmp_path / "table")
    assert "\n" not in str(refused.value)


def test_rank_correlations_are_scipys() -> None:
    table = make(seen_noise=0.2)
    true = table.true("mls", "auroc")[:, :, -1].mean(axis=1)
    found = correlate(table, "mls")
    for score in SCORED:
        seen = table.pas("mls", score)[:, :, -1].mean(axis=1)
        value, low, high = found[f"{score} by mls"]
        assert value == pytest.approx(spearmanr(seen, true).statistic) and low < value < high
    assert found["zero_cost"][0] == pytest.approx(-1) and found["auroc of one seed"][0] == pytest.approx(1)
    assert "macs" not in found  # the same for all
    spread = describe_spread(table, "mls")
    assert (
        spread["best"] == true.max() and spread["noise"] == 0 and spread["between"] == pytest.approx(true.std(ddof=1))
    )


def worth(architecture: Architecture) -> float:
    """A made-up figure that is the sum of what each operation is worth in its place: .5 to .537."""
    each = [{"skip": 0, "conv": 1, "conv2": 2}[name] for name in architecture.branches[2].operations]
    return 0.5 + 0.01 * sum(own / (place + 1) for place, own in enumerate(each))


def made_by_choices(every: int = 1) -> SearchTable:
    """Every so many of the architectures, all of whose figures are what their operations are worth."""
    table, rows = make(), []
    for number, row in list(enumerate(table.rows))[::every]:
        level = worth(table.architecture(number))
        pas, true = ([[level] * EPOCHS] * count for count in (ROTATIONS, SEEDS))
        rows.append({**row, "pas": {"mls": dict.fromkeys(SCORED, pas)}, "true": {"mls": dict.fromkeys(SCORED, true)}})
    return SearchTable({**table.header, "complete": every == 1}, rows)


def test_scores_that_choices_make_are_foretold_of_networks_that_are_held_out() -> None:
    assert correlate(made_by_choices(), "mls")["f1 by mls, foretold"][0] > 0.9
    assert abs(correlate(make(), "mls")["f1 by mls, foretold"][0]) < 0.6  # there, what is chosen makes nothing


def test_a_sample_foretells_the_best_of_its_space() -> None:
    sample = made_by_choices(every=2)
    assert len(sample.rows) >= 10
    found = foretell_space(sample, "mls", draws=100)
    assert found is not None and found["draws"] == 100
    best = max(worth(sample_architecture(SPACE, seed)) for seed in range(100))
    assert worth(Architecture.from_dict(found["architecture"], "here")) == pytest.approx(best, abs=2e-3)
    assert abs(found["auroc"] - best) < 4 * found["deviation"] < 0.04
    assert foretell_space(made_by_choices(), "mls") is None  # whose best is known
    assert foretell_space(SearchTable(sample.header, sample.rows[:9]), "mls") is None


def test_one_seed_does_not_tell_its_noise() -> None:
    whole = make()
    rows = [{**row, "true": {"mls": {name: row["true"]["mls"][name][:1] for name in SCORED}}} for row in whole.rows]
    spread = describe_spread(SearchTable({**whole.header, "seeds": 1}, rows), "mls")
    assert spread["noise"] is None and spread["between"] is None and spread["spread"]


def test_who_sees_the_truth_and_tries_everything_has_no_regret() -> None:
    table = make()
    whole = float(len(table.rows))
    regrets = regret_on_table(
        table, plan_on_table(table, "random", {}), Conditions("mls", 1), [0.5, 1, whole], range(4)
    )
    assert np.isnan(regrets[:, 0]).all() and (regrets[:, 1] >= regrets[:, 2]).all() and (regrets[:, 2] == 0).all()
    # the mean regret of the first draw is that of a uniform one
    first = regret_on_table(table, plan_on_table(table, "random", {}), Conditions("mls", 1), [1], range(400))
    true = table.true("mls", "auroc").mean(axis=1)[:, -1]
    assert first.mean() == pytest.approx((true.max() - true).mean(), abs=0.06)


def test_a_rotation_costs_a_training_and_halving_pays_for_the_epochs_that_it_takes() -> None:
    table = make()
    plan = plan_on_table(table, "random", {"rotations": 2})
    once = regret_on_table(table, plan, Conditions("mls", 1), [1, 2, 4], range(6))
    twice = regret_on_table(table, plan, Conditions("mls", 2), [2, 4, 8], range(6))
    assert np.array_equal(once, twice)
    halving = plan_on_table(table, "halving", {"factor": 4})
    assert not np.isnan(regret_on_table(table, halving, Conditions("mls", 1), [0.25], [0])).any()


@pytest.mark.parametrize("name", ["random", "evolution", "halving", "predictor", "nsga"])
def test_no_strategy_sees_the_true_unknown_classes(name: str) -> None:
    table = make(seen_noise=0.1)
    blind = SearchTable(table.header, [{**row, "true": None} for row in table.rows])
    found = [search_table(given, plan_on_table(given, name, {}), Conditions("mls", 1), 6) for given in (table, blind)]
    assert found[0] == found[1] and len(found[0]) > 5


def test_a_warm_start_takes_the_best_rows_by_a_column() -> None:
    table, condition = make(), Conditions("mls", 1)
    worst = [{**row, "synflow": -row["zero_cost"] if number else None} for number, row in enumerate(table.rows)]
    scored = SearchTable(table.header, worst)
    best = sorted(range(1, len(worst)), key=lambda row: -worst[row]["synflow"])
    for name, settings in (("random", {}), ("halving", {}), ("evolution", {"population": 4, "tournament": 2})):
        given = {**settings, "warm_start": "synflow", "warm_trials": 3}
        warm = plan_on_table(scored, name, given)
        assert [table.place[fingerprint(one)] for one in first_on_table(scored, warm)] == best[:3]
        assert search_table(scored, warm, condition, 1)[0][1] == best[0]
    # of few draws the best is the best of these
    drawing = plan_on_table(scored, "random", {"warm_start": "synflow", "warm_draws": 2})
    few = [first_on_table(scored, replace(drawing, seed=seed)) for seed in range(20)]
    assert all(len(pair) == 2 for pair in few) and len({fingerprint(pair[0]) for pair in few}) > 5
    with pytest.raises(UserError, match="warm_start: the table has no column zico"):
        search_table(scored, plan_on_table(scored, "random", {"warm_start": "zico"}), condition, 1)


def test_what_is_not_in_a_sample_is_not_looked_up() -> None:
    whole = make()
    sample = SearchTable({**whole.header, "complete": False}, whole.rows[1:])
    with pytest.raises(UserError, match="a network that the table has not: draw it with `draw_within`"):
        look_up(sample, Proposal(whole.architecture(0), EPOCHS), 0, Conditions("mls", 1))


def test_a_sample_is_drawn_from_without_replacement() -> None:
    whole, condition = make(0.05, complete=False), Conditions("mls", 1)
    table = SearchTable(whole.header, whole.rows[::2])
    seen = table.pas("mls", "f1")[:, 0, -1]
    rows = range(len(table.rows))
    first = set()
    for name, settings in (("random", {}), ("predictor", {"initial": 3})):
        for seed in range(3):
            plan = replace(plan_on_table(table, name, settings), seed=seed)
            found = dict(search_table(table, plan, condition, 1000))
            assert list(found) == [*range(1, len(rows) + 1)]  # each is trained once
            first.add(found[1])
            if name == "random":
                assert [seen[row] for row in found.values()] == sorted(seen[row] for row in found.values())
                assert found[len(rows)] == seen.argmax()
    assert len(first) > 1
    halving = search_table(table, plan_on_table(table, "halving", {}), condition, 1000)
    assert halving[-1][0] < len(table.rows)  # short trainings of all, longer ones of some


def test_strategies_are_compared_with_random_at_the_same_cost() -> None:
    settings = {"halving": {"factor": 2}, "evolution": {"population": 3, "tournament": 3}}
    names = ("random", "halving", "evolution")
    found = dict(compare_strategies(make(0.05), names, settings, Conditions("mls", 1), [3, 6], 30))
    random, halving = found["random"]["6"], found["halving"]["6"]
    assert random["ahead"] is None
    assert halving["ahead"][0] == pytest.approx(random["regret"][0] - halving["regret"][0])
    assert halving["ahead"][1] > 0  # short trainings tell here as much as long ones


def test_a_table_of_own_pictures_needs_none_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = make()
    monkeypatch.chdir(tmp_path)
    names = ["ant", "bee", "cat", "dog"]
    about = {"source": "folder", "name": "folder", "known": [[name] for name in names], "unknown_source": "folder"}
    protocol = {**table.header["protocol"], **about, "unknown": ["owl"], "pseudo_unknown": None}
    own = {"protocol": "folder", "known": names, "unknown": ["owl"], "image_size": 16, "grey": True}
    header = {**table.header, "protocol": protocol, "config": {**CONFIG, **own}}
    shown = SearchTable(header, table.rows)
    found = [search_table(one, plan_on_table(one, "random", {}), Conditions("mls", 1), 4) for one in (table, shown)]
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("complete", "name", "settings", "message"),
    [
        (True, "pas", {}, "strategy pas tries no architectures"),
        (False, "evolution", {}, "of a larger space: evolution needs all of it"),
        (True, "random", {"rotations": 3}, "rotations must be from 1 to the table's 2, got 3"),
        (True, "evolution", {"order": 1}, "has no setting 'order'"),
        (True, "nsga", {"against": "latency"}, "a table has parameters and macs, got latency"),
    ],
)
def test_what_a_table_cannot_answer_is_refused(complete: bool, name: str, settings: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan_on_table(make(complete=complete), name, settings)
