"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

_DELIMITERS = {"l": "---", "r": "---:"}


def row(cells: Iterable[object]) -> str:
    """Return cells as one line of a table."""
    return f"| {' | '.join(map(str, cells))} |"


def table(
    header: Sequence[object], rows: Iterable[Iterable[object]], align: str = "l", compact: bool = False
) -> list[str]:
    """Return a table as lines: header, delimiter row, rows.

    Args:
        header: one cell per column.
        rows: cells of each row.
        align: ``l`` or ``r`` for each column; the last letter holds for all further columns.
        compact: no padding in the delimiter row and in empty header cells.
    """
    delimiters = [_DELIMITERS[letter] for letter in align.ljust(len(header), align[-1])]
    if compact:
        head = "".join(f"| {cell} " if cell else "| " for cell in map(str, header)) + "|"
        return [head, f"|{'|'.join(delimiters)}|", *map(row, rows)]
    return [row(header), row(delimiters), *map(row, rows)]


def table_of_mappings(mappings: Sequence[Mapping[str, object]]) -> list[str]:
    """Return a table of mappings with equal keys, a row each; numbers right-aligned, floats to 3 significant digits."""
    first = mappings[0]
    align = "".join("l" if isinstance(value, str) else "r" for value in first.values())
    rows = [[f"{v:.3g}" if isinstance(v, float) else v for v in mapping.values()] for mapping in mappings]
    return table(list(first), rows, align)
