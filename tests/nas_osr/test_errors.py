"""A message is one line of bounded length, whatever it quotes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nas_osr.errors import LONGEST, UserError, suggest


@given(st.text(alphabet=st.characters(exclude_categories=["Zl", "Zp", "Cc"]), max_size=LONGEST))
def test_a_line_stays_as_it_is(text: str) -> None:
    assert str(UserError(text)) == text


@given(st.text(max_size=50), st.integers(0, 5000))
def test_a_message_is_one_short_line(text: str, repeats: int) -> None:
    message = str(UserError(f"where: {text * repeats}; mend it so"))
    assert len(message) <= LONGEST and len(message.splitlines()) == 1
    assert message.startswith("where: ") and message.endswith("; mend it so")


def test_a_similar_name_is_suggested_whatever_its_case() -> None:
    names = ["knn", "mls", "ViM"]
    assert [suggest(name, names) for name in ("knm", "MLS", "vim", "zzz")] == [
        "; did you mean knn?", "; did you mean mls?", "; did you mean ViM?", "",
    ]  # fmt: skip
    assert suggest("KNN", ["knn", "KNN"]) == "; did you mean KNN?"
