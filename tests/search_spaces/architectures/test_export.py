"""Files of an architecture, and its picture with and without the system's Graphviz."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import sysconfig
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import nas_osr
from nas_osr.cli.export import export
from nas_osr.errors import UserError
from nas_osr.search_spaces.architectures import picture
from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.search_spaces.architectures.decoding import ArchitectureWeights
from nas_osr.search_spaces.architectures.export import FORMATS, export_architecture, load_with_weights, render
from nas_osr.search_spaces.architectures.references import load_architecture, published
from nas_osr.search_spaces.architectures.sampling import sample_architecture
from nas_osr.search_spaces.architectures.vector_pdf import read_path
from nas_osr.search_spaces.network import DiscreteNetwork
from nas_osr.search_spaces.sizes import describe_architecture, describe_space, sizes_of
from nas_osr.search_spaces.space import Space, cells, mixing_cells

FOUND = {
    "strategy": "pas",
    "objective": "vae_contrastive",
    "rule": "cap",
    "protocol": "cifar10",
    "F1": 0.8431,
    "epoch": 4,
}
try:
    PROGRAM = picture.find_program()
except UserError as missing:
    pytest.skip(str(missing), allow_module_level=True)
SVG = "{http://www.w3.org/2000/svg}"


def found():
    return dataclasses.replace(published(), found=FOUND)


def weights_of(architecture):
    space = architecture.space
    shares = [2.0**-index for index in range(len(space.operations))]
    alpha = tuple(share / sum(shares) for share in shares)
    return ArchitectureWeights(
        dict.fromkeys(cells(space.layers, space.branches), alpha),
        dict.fromkeys(mixing_cells(space.layers, space.branches), (0.375, 0.625)),
    )


def write_run(folder, epochs=(3, 4, 5)):
    """A run folder whose epochs differ in their weights: epoch e has beta e/10 from the finer scale."""
    architecture = found()
    architecture.save(folder / "architecture.json")
    records = [
        {
            "epoch": epoch,
            "alpha": {f"{a}/{b}": {"conv": 0.2, "conv2": 0.5, "skip": 0.3} for a, b in cells(6, (2,))},
            "beta": {f"{a}/{b}": {"finer": epoch / 10, "same": 1 - epoch / 10} for a, b in mixing_cells(6, (2,))},
        }
        for epoch in epochs
    ]
    (folder / "history.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return architecture


def test_a_run_folder_is_exported_with_the_weights_of_its_epoch(tmp_path, capsys):
    run, out = tmp_path / "run", tmp_path / "a" / "b"
    run.mkdir()
    architecture = write_run(run)
    written = export(str(run), "svg,pdf,png,gv,graphml,json", out)
    assert sorted(path.name for path in out.iterdir()) == [f"architecture.{name}" for name in sorted(FORMATS)]
    sizes = [f"space: {describe_space(architecture.space)}", describe_architecture(architecture, (3, 32, 32))]
    assert capsys.readouterr().out.splitlines() == sizes + [f"wrote {path}" for path in written]
    assert (out / "architecture.json").read_bytes() == (run / "architecture.json").read_bytes()
    again, weights = load_with_weights(out / "architecture.graphml")
    assert again == architecture
    assert weights.beta == dict.fromkeys(mixing_cells(6, (2,)), (0.4, 0.6))
    assert weights.alpha[0, 0] == (0.3, 0.2, 0.5)
    # GraphML carries all that the picture needs, and every file is the same again.
    for path in export(str(out / "architecture.graphml"), list(FORMATS), tmp_path / "c"):
        assert path.read_bytes() == (out / path.name).read_bytes()


def test_weights_are_absent_or_refused(tmp_path):
    assert load_with_weights("published") == (published(), None)
    architecture = write_run(tmp_path)
    assert load_with_weights(tmp_path / "architecture.json") == (architecture, None)
    _, weights = load_with_weights(tmp_path / "architecture.json", tmp_path / "history.jsonl")
    assert weights.beta[2, 1] == (0.4, 0.6)
    with pytest.raises(UserError, match="nowhere.jsonl"):
        load_with_weights(tmp_path, tmp_path / "nowhere.jsonl")
    write_run(tmp_path, epochs=(3, 5))
    with pytest.raises(UserError, match="history.jsonl: no record of epoch 4"):
        load_with_weights(tmp_path)


@pytest.mark.parametrize("format", ["eps", "svg,", "svg,jpg", "", ["svg", "../x"]])
def test_unknown_formats_write_nothing(tmp_path, format):
    with pytest.raises(UserError, match="choose from svg, pdf, png, gv, graphml, json"):
        export("published", format, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file"):
        export("published", "json", tmp_path / "file")


def svg_texts(svg):
    """Every text of an SVG with its weight, by the title of its node or edge."""
    texts = {}
    for group in ElementTree.fromstring(svg).iter(f"{SVG}g"):
        title = group.find(f"{SVG}title")
        for text in group.findall(f"{SVG}text"):
            texts.setdefault(title.text, []).append((text.text, text.get("font-weight")))
    return texts


def test_the_picture_says_what_was_chosen_and_what_not():
    architecture = found()
    texts = svg_texts(render(architecture, weights_of(architecture), "svg"))
    assert texts["title"][0][0].endswith("F1 0.843")
    assert "cifar10" in texts["subtitle"][0][0]
    alphas = ["0.57", "0.29", "0.14"]
    for cell in cells(6, (2,)):
        chosen = dict(enumerate(zip(architecture.branches[2].path, architecture.branches[2].operations, strict=True)))
        scale, operation = chosen[cell[0]]
        shown = texts[f"{cell[0]}/{cell[1]}"]
        assert [text for text, _ in shown] == [
            text for pair in zip(architecture.space.operations, alphas, strict=True) for text in pair
        ]
        bold = [text for text, weight in shown if weight == "bold"]
        expected = [operation, alphas[architecture.space.operations.index(operation)]] if cell[1] == scale else []
        assert bold == expected
    assert texts["1/0->2/1"] == [("0.38", "bold")]
    assert texts["3/2->4/2"] == [("0.62", None)]
    assert "0/0->1/0" not in texts  # no choice, no beta
    assert "stem" in texts
    assert "head/2" in texts


def test_the_picture_names_a_stem_that_is_not_the_papers():
    usual = published()
    pooled = dataclasses.replace(usual, space=dataclasses.replace(usual.space, stem="pooled"))
    assert [[text for text, _ in svg_texts(render(found, None, "svg"))["stem"]] for found in (usual, pooled)] == [
        ["stem"],
        ["pooled", "stem"],
    ]


def test_the_picture_tells_plug_ins_apart():
    long = "SeparableConvolutionOfSize"
    operations = ("skip", "one.Sep", "two.Sep", f"one.{long}3x3", f"one.{long}5x5", "wide.Größe")
    space = Space(layers=3, channels=8, operations=operations, stem="mine.Patches")
    architecture = sample_architecture(space, 0)
    texts = svg_texts(render(architecture, weights_of(architecture), "svg"))
    names = [text for text, _ in texts["0/0"][::2]]
    assert names == ["skip", "one.Sep", "two.Sep", "SeparableCo…ionOfSize3x3", "SeparableCo…ionOfSize5x5", "Größe"]
    assert [text for text, _ in texts["stem"]] == ["Patches", "stem"]


def test_the_picture_without_weights_shows_the_chosen_operations_only():
    texts = svg_texts(render(published(), None, "svg"))
    assert texts["2/1"] == [("conv2", "bold")]
    assert "2/2" not in texts
    assert "alpha" not in texts["legend"][0][0]


def boxes(dot):
    """Left, bottom, right and top of every node of the DOT text."""
    pattern = r'^\t("?[\w /]+"?) \[.*height=([\d.]+).* pos="([-\d.]+),([-\d.]+)!".* width=([\d.]+)'
    found = re.findall(pattern, dot, re.MULTILINE)
    return {
        name.strip('"'): (
            float(x) - 36 * float(w),
            float(y) - 36 * float(h),
            float(x) + 36 * float(w),
            float(y) + 36 * float(h),
        )
        for name, h, x, y, w in found
    }


@pytest.mark.parametrize("layers", [3, 6, 12])
@pytest.mark.parametrize("branches", [(2,), (0, 1, 2)])
@pytest.mark.parametrize(
    "operations", [("conv",), ("skip", "conv", "conv2"), tuple(f"a.Operation{i}" for i in range(9))]
)
def test_scales_are_rows_layers_are_columns_and_nothing_overlaps(layers, branches, operations):
    space = Space(layers=layers, channels=8, operations=operations, branches=branches)
    architecture = sample_architecture(space, 1)
    nodes = boxes(render(architecture, weights_of(architecture), "gv").decode())
    assert len(nodes) == len(cells(layers, branches)) + 1 + len(branches) + layers + 2 * 3 + 4
    for (a, first), (b, second) in combinations(nodes.items(), 2):
        gaps = (second[0] - first[2], first[0] - second[2], second[1] - first[3], first[1] - second[3])
        assert max(gaps) > -0.05, (a, b)
    columns = [
        {round(nodes[f"{a}/{b}"][0]) for a, b in cells(layers, branches) if a == layer} for layer in range(layers)
    ]
    rows = [{round(nodes[f"{a}/{b}"][1]) for a, b in cells(layers, branches) if b == scale} for scale in range(3)]
    assert all(len(column) == 1 for column in columns)
    assert all(len(row) == 1 for row in rows)
    assert sorted(columns, key=min) == columns
    assert sorted(rows, key=min, reverse=True) == rows
    assert nodes["stem"][2] < nodes["0/0"][0]
    assert nodes["head/2"][0] > nodes[f"{layers - 1}/2"][2]


def test_the_png_is_a_picture():
    architecture = found()
    data = render(architecture, weights_of(architecture), "png")
    with Image.open(io.BytesIO(data)) as image:
        pixels = image.convert("RGB")
    assert 2000 < pixels.width < 4000
    colours = {colour for _, colour in pixels.getcolors(1 << 24)}
    assert {(255, 255, 255), (0x12, 0x57, 0xA8), (0xDE, 0xEB, 0xFA), (0xFA, 0xFB, 0xFC)} <= colours


def test_the_same_input_gives_the_same_bytes():
    architecture = found()
    for name in FORMATS:
        assert render(architecture, weights_of(architecture), name) == render(
            architecture, weights_of(architecture), name
        )


@settings(max_examples=25, deadline=None)
@given(text=st.text(min_size=1, max_size=40))
def test_the_picture_survives_any_text(text):
    found = {"strategy": text, "protocol": "\\N<b>&amp;]"}
    texts = svg_texts(render(Architecture(published().space, published().branches, found), None, "svg"))
    assert "?N<b>&amp;]" in texts["subtitle"][0][0]


@pytest.fixture
def no_program(tmp_path, monkeypatch):
    """An empty PATH, and no scripts beside Python; returns the folder that PATH names."""
    programs = tmp_path / "programs"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(programs))
    return programs


@pytest.mark.parametrize("name", ["neato", "dot"])
def test_the_systems_graphviz_draws_where_there_is_no_other(no_program, name):
    script = no_program / name
    script.write_text(f'#!/bin/sh\nexec "{PROGRAM}" "$@"\n')
    os.chmod(script, 0o755)
    assert picture.find_program() == str(script)
    assert svg_texts(render(found(), None, "svg"))["2/1"] == [("conv2", "bold")]
    assert render(found(), None, "png").startswith(b"\x89PNG")


def test_without_any_program_pictures_are_refused_and_the_rest_works(tmp_path, no_program):
    with pytest.raises(UserError, match="graphviz-pure"):
        export_architecture(found(), None, ["json", "svg"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    export_architecture(found(), None, ["json", "gv", "graphml"], tmp_path / "out")
    assert load_architecture(tmp_path / "out") == found()


def test_a_program_that_fails_is_reported_in_one_line(no_program):
    script = no_program / "dot"
    script.write_text("#!/bin/sh\necho broken >&2\necho more >&2\nexit 1\n")
    os.chmod(script, 0o755)
    with pytest.raises(UserError, match="dot could not draw the picture: broken$"):
        render(found(), None, "png")


def test_the_signature_of_the_command_needs_no_heavy_import():
    source = Path(nas_osr.__file__).parent / "cli" / "export.py"
    top = source.read_text().split("def export(")[0]
    assert "networkx" not in top
    assert "graphviz" not in top


def test_pictures_of_a_search_say_how_large_the_network_is():
    architecture = dataclasses.replace(published(), found={**FOUND, "image_shape": [3, 32, 32]})
    texts = " ".join(text for text, _ in svg_texts(render(architecture, None, "svg", sizes_of(architecture)))["sizes"])
    network = DiscreteNetwork(architecture, 3, (0.0,) * 3, (1.0,) * 3)
    count = sum(parameter.numel() for parameter in network.parameters())
    assert f"{count / 1e6:.2f}M parameters" in texts and "an image of 3x32x32, " in texts
    assert texts.endswith("MB at prediction")
    for odd in ([3, 32], [3, 32, -1], "3x32x32", None, [3, 32, 10**9]):
        other = dataclasses.replace(architecture, found={**FOUND, "image_shape": odd})
        assert "sizes" not in svg_texts(render(other, None, "svg", sizes_of(other)))


def test_a_pdf_has_the_same_texts_and_size_as_the_svg(tmp_path):
    architecture = found()
    weights = weights_of(architecture)
    pdf = render(architecture, weights, "pdf")
    assert pdf.startswith(b"%PDF") and pdf == render(architecture, weights, "pdf")
    width, height = re.search(rb'<svg width="(\d+)pt" height="(\d+)pt"', render(architecture, weights, "svg")).groups()
    box = re.search(rb"/MediaBox \[ 0 0 ([\d.]+) ([\d.]+) \]", pdf)
    assert (float(box[1]), float(box[2])) == (float(width), float(height))
    points, kinds = read_path("M1,2C3,4 5,6 7,-8L9.5,10")
    assert points == [(1, 2), (3, 4), (5, 6), (7, -8), (9.5, 10)] and kinds == [1, 4, 4, 4, 2]
