"""Messages of errors: one printable line, whatever they quote."""

import pytest

from sase.errors import InputError, one_line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a\tb\r\n c", "a b c"),
        ("\x1b[31mred\x07 \u202e\ud800ö", "[31mred ö"),
        ("a" * 5000 + "z" * 5000, "a" * 497 + " ... " + "z" * 497),
        ("你好 ä", "你好 ä"),
        ("", ""),
    ],
)
def test_messages_are_one_printable_line(text, line):
    assert one_line(text, 1000) == str(InputError(text)) == line


def test_a_text_of_any_size_or_kind_becomes_a_short_line():
    assert one_line("x" * 20_000_000, 45) == "x" * 20 + " ... " + "x" * 20
    assert one_line(ValueError("what")) == "what"
