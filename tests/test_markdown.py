"""Tables in Markdown."""

from sase import markdown


def test_a_row():
    assert markdown.row(["a", 1, ""]) == "| a | 1 |  |"


def test_the_last_letter_of_align_holds_for_all_further_columns():
    assert markdown.table(["", "n", "m"], [["a", 1, 2]], "lr") == [
        "|  | n | m |",
        "| --- | ---: | ---: |",
        "| a | 1 | 2 |",
    ]


def test_compact_tables():
    assert markdown.table(["", ""], [["date", "today"]], compact=True) == ["| | |", "|---|---|", "| date | today |"]
    assert markdown.table(["silo", "noises"], [[0, "bus"]], "rl", compact=True) == [
        "| silo | noises |",
        "|---:|---|",
        "| 0 | bus |",
    ]


def test_numbers_of_mappings_are_right_aligned_and_short():
    table = markdown.table_of_mappings(
        [{"name": "a", "value": 0.012345, "n": 3}, {"name": "b", "value": 12.0, "n": 40}]
    )
    assert table == ["| name | value | n |", "| --- | ---: | ---: |", "| a | 0.0123 | 3 |", "| b | 12 | 40 |"]
