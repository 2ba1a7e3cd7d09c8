"""Messages of errors: one printable line, whatever they quote."""

import pytest

from sase.errors import InputError, printable


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a\tb\r\nc", "a b  c"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("x" * 5000, "x" * 497 + " ... " + "x" * 497),
        ("\u4f60\u597d \u00e4", "\u4f60\u597d \u00e4"),
        ("\u202e\ud800", "\\u202e\\ud800"),
        ("", ""),
    ],
)
def test_messages_are_one_printable_line(text, line):
    assert printable(text) == str(InputError(text)) == line
