"""One process among several: its place, its silence, and what is refused. No other process is needed here."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Iterator

import pytest
import torch

from nas_osr.cli.main import main
from nas_osr.errors import UserError
from nas_osr.objectives import OBJECTIVES, objective_class
from nas_osr.objectives.cross_entropy import CrossEntropy, CrossEntropyConfig
from nas_osr.outputs import FeatureShapes
from nas_osr.ranks import place as ranks
from nas_osr.ranks.place import Rank, check_divided, current_rank, one_voice
from nas_osr.ranks.replicas import rank_device
from nas_osr.training.fabric import make_fabric


@pytest.fixture
def second_of_two(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The environment of torchrun's rank 1 of 2."""
    settings = {"TORCHELASTIC_RUN_ID": "x", "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(ranks, "GRACE", 0.0)
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)
    logging.disable(logging.NOTSET)


def test_place_comes_from_torchrun_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")  # of some other launcher
    assert current_rank() == Rank(0, 1, 0, 1)


@pytest.mark.usefixtures("second_of_two")
def test_place_among_two() -> None:
    assert current_rank() == Rank(1, 2, 1, 2)


@pytest.mark.usefixtures("second_of_two")
def test_other_ranks_are_silent_and_their_own_mistakes_have_their_number(capfd: pytest.CaptureFixture[str]) -> None:
    with one_voice():
        print("a result")
        logging.getLogger("any").warning("a warning")
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    with pytest.raises(UserError, match="^rank 1: no images here$"), one_voice():
        raise UserError("no images here")
    assert capfd.readouterr() == ("", "")
    assert sys.stdout.writable()


@pytest.mark.usefixtures("second_of_two")
def test_commands_of_one_process_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rules"]) == 2
    assert capsys.readouterr().err.endswith("nas-osr rules runs in one process: start it without torchrun\n")
    with pytest.raises(UserError, match="start it without torchrun"):
        make_fabric("cpu", "32-true", 1)


@pytest.mark.usefixtures("second_of_two")
def test_batches_that_cannot_be_divided_are_refused() -> None:
    check_divided("cac", True, 4)
    for batch_size in (5, 2):
        with pytest.raises(UserError, match=f"a batch of {batch_size} images cannot be divided among 2 processes"):
            check_divided("cac", True, batch_size)
    with pytest.raises(UserError, match="objective supcon needs a whole batch"):
        check_divided("supcon", False, 4)


def test_one_process_takes_any_batch() -> None:
    check_divided("supcon", False, 5)


def test_losses_across_the_batch_are_not_divisible() -> None:
    assert {name for name in OBJECTIVES if not objective_class(name).divisible} == {
        "supcon",
        "moco",
        "proser",
        "conosr",
    }


def test_the_parts_draw_what_the_whole_draws() -> None:
    def draw(share: tuple[int, int], count: int) -> torch.Tensor:
        objective = CrossEntropy(FeatureShapes({2: (4, 1, 1)}, {}), (1, 16, 16), 3, CrossEntropyConfig())
        objective.share = share
        torch.manual_seed(3)
        return objective.draw(lambda count: torch.randn(count, 2), count)

    whole = draw((0, 1), 6)
    assert torch.equal(torch.cat([draw((rank, 3), 2) for rank in range(3)]), whole)
    torch.manual_seed(3)
    assert torch.equal(whole, torch.randn(6, 2))


def test_every_rank_has_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    third_of_four = Rank(2, 4, 0, 2)
    assert [rank_device(name, Rank(3, 4, 1, 2)) for name in ("auto", "cuda", "cpu")] == ["cuda:1", "cuda:1", "cpu"]
    assert rank_device("cuda", third_of_four) == "cuda:0"
    with pytest.raises(UserError, match="use cuda"):
        rank_device("cuda:0", third_of_four)
    with pytest.raises(UserError, match="--nproc-per-node 2"):
        rank_device("auto", Rank(2, 3, 2, 3))
