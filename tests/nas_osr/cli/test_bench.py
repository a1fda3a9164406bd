"""`nas-osr bench`: figures agree with each other, the table shows them, mistakes end in one line and exit code 2."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from nas_osr.cli.bench import BenchRequest, bench_notes, bench_protocol, step_rows
from nas_osr.cli.main import main

QUICK = ["bench", "--protocol", "digits", "--preset", "tiny", "--steps", "1", "--warmup", "0", "--device", "cpu"]
SMALL = ["--layers", "3", "--batch_size", "8"]
STEP = {
    "images", "seconds", "images_per_second", "launches", "flops", "gmac_per_image", "share_of_peak",
    "peak_memory_bytes", "bare_seconds", "overhead", "augmentation_seconds", "augmentation_share",
}  # fmt: skip


@pytest.fixture
def two_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


def test_json_has_every_figure_and_no_trace_is_left(capsys: pytest.CaptureFixture[str], two_threads: None) -> None:
    random_state = torch.get_rng_state()
    assert main([*QUICK, "--threads", "1", "--json"]) == 0
    assert torch.equal(torch.get_rng_state(), random_state) and torch.get_num_threads() == 2
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    result: dict[str, Any] = json.loads(printed)
    assert set(result) == {
        "protocol", "image_shape", "objective", "preset", "steps", "warmup", "device", "device_name", "precision",
        "cpu_threads", "ranks", "search", "retrain",
    }  # fmt: skip
    assert (result["protocol"], result["precision"], result["cpu_threads"]) == ("digits", "32-true", 1)
    search, retrain = result["search"], result["retrain"]
    assert set(search) == {"classes", "matrix_product", "steps", "pair", "cell_evaluations", "cell_forms"}
    assert set(retrain) == {"classes", "matrix_product", "steps"}
    assert (search["classes"], retrain["classes"]) == (4, 6)
    assert search["cell_evaluations"] == search["cell_forms"] == 8
    steps = {**search["steps"], **retrain["steps"]}
    assert {name: step["images"] for name, step in steps.items()} == {"weights": 32, "architecture": 32, "retrain": 64}
    for name, step in steps.items():
        assert set(step) == STEP
        rate = (retrain if name == "retrain" else search)["matrix_product"]["flops_per_second"]
        assert step["share_of_peak"] == pytest.approx(step["flops"] / step["seconds"] / rate)
        assert all(value > 0 for key, value in step.items() if key != "overhead")
    weights, architecture, pair = steps["weights"], steps["architecture"], search["pair"]
    assert architecture["flops"] < weights["flops"]  # it has no gradients of weights
    for key in ("seconds", "launches", "flops", "gmac_per_image"):
        assert pair[key] == pytest.approx(weights[key] + architecture[key])

    rows = step_rows(result)
    assert {row[0] for row in rows} == {"step", "weights", "architecture", "both", "retrain"}
    assert {len(row) for row in rows} == {12}
    cells = {row[0]: dict(zip(rows[0], row, strict=True)) for row in rows}
    assert cells["weights"]["seconds"] == f"{weights['seconds']:.4g}" and cells["retrain"]["images"] == "64"
    assert cells["both"]["GMAC/image"] == f"{pair['gmac_per_image']:.4g}"
    assert any(f"{pair['gmac_per_image']:.4g} GMAC" in line for line in bench_notes(result))


def test_a_step_of_single_path_is_that_of_one_network(capsys: pytest.CaptureFixture[str]) -> None:
    """By its arithmetic: the same as retraining the same architecture, and below the supernet's of pas."""
    one = [*QUICK, *SMALL, "--objective", "cross_entropy", "--retrain_channels", "0", "--classes", "4", "--json"]
    assert main([*one, "--strategy", "single_path"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["search"]) == {"classes", "matrix_product", "steps"}
    path, network = found["search"]["steps"]["weights"], found["retrain"]["steps"]["retrain"]
    assert path["images"] == network["images"] and path["flops"] == pytest.approx(network["flops"], rel=0.01)
    assert main([*one, "--phase", "search"]) == 0
    assert json.loads(capsys.readouterr().out)["search"]["steps"]["weights"]["flops"] > 2 * path["flops"]
    assert main([*QUICK, *SMALL, "--strategy", "single_path", "--phase", "search"]) == 0
    table = capsys.readouterr().out
    assert "\nweights" in table and "\nboth" not in table and "\nsearch: 4 classes" in table


def test_the_table_of_one_phase(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*QUICK, *SMALL, "--phase", "retrain", "--network", "cac", "--objective", "cac"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["step", "images", "seconds"]
    assert lines[1].split()[:2] == ["retrain", "8"]
    assert not any("mixed operations" in line for line in lines)


def test_classes_and_image_size_replace_the_protocols() -> None:
    protocol = bench_protocol(BenchRequest(protocol="cifar10", classes=9, image_size=48))
    assert (protocol.num_known, protocol.image_shape) == (9, (3, 48, 48))
    plain = bench_protocol(BenchRequest(protocol="mnist", family="nas_osr"))
    assert (plain.num_known, plain.image_shape) == (6, (1, 32, 32))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--protocol", "mnits"], "unknown protocol 'mnits'"),
        (["--preset", "huge"], "unknown preset 'huge'"),
        (["--objective", "hope"], "unknown objective 'hope'"),
        (["--phase", "all"], "phase must be one of both, search, retrain"),
        (["--steps", "0"], "steps must be greater than 0"),
        (["--warmup", "-1"], "warmup must not be negative"),
        (["--classes", "1"], "classes must be at least 2"),
        (["--classes", "2"], "leave fewer than 2"),
        (["--image_size", "20"], "multiples of 16"),
        (["--image_size", "0"], "image_size must be at least 16"),
        (["--layers", "2"], "layers must be from 3"),
        (["--operations", "skip,conv9"], "unknown operation 'conv9'"),
        (["--batch_size", "0"], "batch_size must be greater than 0"),
        (["--phase", "retrain", "--batch_size", "0"], "batch_size must be greater than 0"),
        (["--recipe", "slow"], "unknown recipe 'slow'"),
        (["--phase", "retrain", "--image_size", "24"], "multiples of 16"),
        (["--architecture", "nowhere"], "no such architecture"),
        (["--network", "lenet"], "unknown network 'lenet'"),
        (["--network", "vgg13", "--image_size", "16"], "at least 32 pixels"),
        (["--network", "cac", "--architecture", "published"], "leave one of them out"),
        (["--network", "cac", "--retrain_channels", "32"], "width of an architecture"),
        (["--device", "tpu"], "device 'tpu'"),
        (["--precision", "16"], "precision must be"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main([*QUICK, *SMALL, *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and message in captured.err, captured.err
