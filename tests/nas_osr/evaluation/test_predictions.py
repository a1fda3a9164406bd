"""predictions.csv: what is written is read back bit by bit and re-scored; bad files are named by line and column."""

import csv
import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas_osr.errors import UserError
from nas_osr.evaluation.predictions import Predictions, read_predictions, write_predictions
from nas_osr.metrics.open_set import evaluate_open_set
from nas_osr.metrics.resampling import bootstrap_intervals, openness_f1_curve

HEADER = "index,true_label,true_class,predicted_label,closed_set_label,knownness,logit_0,logit_1"


def make_predictions(size=200, num_known=3, seed=0):
    generator = np.random.default_rng(seed)
    sources = generator.integers(0, num_known + 2, size)
    true = np.minimum(sources, num_known)
    logits = generator.normal(size=(size, num_known)).astype(np.float32).astype(np.float64)
    return Predictions(
        index=np.arange(size),
        true_label=true,
        true_class=np.array([f"class {source}" for source in sources]),
        predicted_label=generator.integers(0, num_known + 1, size),
        closed_set_label=logits.argmax(axis=1),
        knownness=logits.max(axis=1) / 3,
        class_scores=logits,
    )


def assert_equal(left, right):
    for name in Predictions.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name), err_msg=name)


@pytest.mark.parametrize("column", ["logit", "score"])
def test_round_trip_and_metrics(tmp_path, column):
    predictions = dataclasses.replace(make_predictions(), column=column)
    path = tmp_path / "predictions.csv"
    write_predictions(path, predictions)
    assert_equal(read_predictions(path), predictions)
    assert path.read_text().partition("\n")[0].endswith(f"knownness,{column}_0,{column}_1,{column}_2")
    columns = (
        predictions.knownness,
        predictions.predicted_label,
        predictions.closed_set_label,
        predictions.true_label,
    )
    assert read_predictions(path).metrics() == evaluate_open_set(*columns, 3, 2)
    unknown = np.where(predictions.true_label == 3, "u", "k")
    strata = [kind + name for kind, name in zip(unknown, predictions.true_class, strict=True)]
    assert read_predictions(path).intervals(repeats=20, seed=4) == bootstrap_intervals(
        *columns, 3, strata=strata, repeats=20, seed=4
    )
    assert predictions.openness_curve() == openness_f1_curve(
        predictions.true_label, predictions.predicted_label, predictions.true_class, 3
    )
    assert [entry.name for entry in tmp_path.iterdir()] == ["predictions.csv"]


def test_file_is_plain_csv_with_the_documented_header(tmp_path):
    path = tmp_path / "predictions.csv"
    write_predictions(path, make_predictions(num_known=2))
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert ",".join(rows[0]) == HEADER
    assert [row["index"] for row in rows] == [str(index) for index in range(200)]


floats = st.floats(allow_nan=False)
names = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(floats, floats, names), min_size=1, max_size=5))
def test_any_float_and_class_name_survives(tmp_path_factory, rows):
    size = len(rows)
    predictions = Predictions(
        index=np.arange(size),
        true_label=np.zeros(size, dtype=int),
        true_class=np.array([name for *_, name in rows], dtype=str),
        predicted_label=np.ones(size, dtype=int),
        closed_set_label=np.zeros(size, dtype=int),
        knownness=np.array([score for score, *_ in rows]),
        class_scores=np.array([[logit] for _, logit, _ in rows]),
    )
    path = tmp_path_factory.mktemp("csv") / "predictions.csv"
    write_predictions(path, predictions)
    assert_equal(read_predictions(path), predictions)


def test_a_class_that_cannot_be_has_the_score_minus_infinity(tmp_path):
    predictions = make_predictions(size=2)
    predictions.class_scores[0, 1] = -np.inf
    write_predictions(tmp_path / "a.csv", predictions)
    assert_equal(read_predictions(tmp_path / "a.csv"), predictions)


def test_odd_class_names(tmp_path):
    predictions = make_predictions(size=4)
    odd = np.array(["a,b", 'say "cheese"', "two\nlines", ""])
    predictions = dataclasses.replace(predictions, true_class=odd)
    write_predictions(tmp_path / "a.csv", predictions)
    assert_equal(read_predictions(tmp_path / "a.csv"), predictions)
    predictions.true_class[0] = "\udc80"  # a folder name that is not UTF-8
    write_predictions(tmp_path / "a.csv", predictions)
    assert read_predictions(tmp_path / "a.csv").true_class[0] == "\\udc80"


def test_same_class_id_of_two_sources_counts_twice():
    predictions = Predictions(
        index=np.arange(4),
        true_label=np.array([0, 1, 2, 2]),
        true_class=np.array(["0", "1", "0", "1"]),
        predicted_label=np.array([0, 1, 2, 0]),
        closed_set_label=np.array([0, 1, 0, 0]),
        knownness=np.array([2.0, 1.5, 0.1, 1.8]),
        class_scores=np.zeros((4, 2)),
    )
    assert predictions.metrics()["openness_cac"] == pytest.approx(1 - np.sqrt(4 / 6))
    # four strata of one image each: every resample is the test set itself
    assert predictions.intervals(repeats=30)["auroc"] == (0.75, 0.75)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: the header must be index,true_label"),
        ("index,true_label\n0,1\n", "line 1: the header must be"),
        (HEADER.replace("logit_1", "logit_2") + "\n", "line 1: the header must be"),
        (HEADER.replace(",logit_0,logit_1", "") + "\n", "line 1: the header must be"),
        (HEADER.replace("logit_1", "score_1") + "\n", "line 1: the header must be"),
        (HEADER.replace("logit", "guess") + "\n", "line 1: the header must be .* \\(or score_\\)"),
        (HEADER + "\n", "no predictions below the header"),
        (HEADER + "\n0,0,cat,0,0,1.0,0.1,0.2\n1,0,cat,0,0,1.0,0.1\n", "line 3: 7 columns instead of 8"),
        (HEADER + "\n\n", "line 2: 0 columns instead of 8"),
        (
            HEADER + "\n0,3,cat,0,0,1.0,0.1,0.2\n",
            r"line 2, column true_label: expected a whole number in 0..2, found '3'",
        ),
        (HEADER + "\n0,2,cat,x,0,1.0,0.1,0.2\n", r"line 2, column predicted_label: expected .* in 0..2, found 'x'"),
        (HEADER + "\n0,2,cat,2,2,1.0,0.1,0.2\n", r"line 2, column closed_set_label: expected .* in 0..1, found '2'"),
        (HEADER + "\n0,2,cat,2,1,nan,0.1,0.2\n", "line 2, column knownness: expected a number, found 'nan'"),
        (HEADER + "\n0,2,cat,2,1,1.0,0.1,\n", "line 2, column logit_1: expected a number, found ''"),
        (HEADER + "\n-1,2,cat,2,1,1.0,0.1,0\n", "line 2, column index: expected a whole number from 0"),
        (HEADER + '\n0,2,"cat"s,2,1,1.0,0.1,0\n', "line 2: not valid CSV"),
    ],
)
def test_bad_files_are_named_by_line_and_column(tmp_path, text, message):
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        read_predictions(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_missing_or_binary_file(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_predictions(tmp_path / "absent.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="UTF-8"):
        read_predictions(tmp_path / "binary.csv")


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path):
    path = tmp_path / "windows.csv"
    path.write_bytes(b"\xef\xbb\xbf" + (HEADER + "\n0,0,cat,0,0,1.0,0.1,0.2\n").replace("\n", "\r\n").encode())
    assert read_predictions(path).true_class.tolist() == ["cat"]


def test_a_long_class_name_is_refused(tmp_path):
    """In an array of texts each takes the room of the longest: a million rows with one such name are gigabytes."""
    header = "index,true_label,true_class,predicted_label,closed_set_label,knownness,logit_0"
    (tmp_path / "p.csv").write_text(f"{header}\n0,0,{'x' * 256},0,0,1.0,1.0\n")
    with pytest.raises(UserError, match="true_class has more than 255 characters"):
        read_predictions(tmp_path / "p.csv")
