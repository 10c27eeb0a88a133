"""Aligned columns of plain text, for commands that may import nothing but numpy and onnxruntime."""

from collections.abc import Sequence


def columns(rows: Sequence[Sequence[str]], indent: str = "  ") -> str:
    """`rows` of equal length as lines: the first column aligned to the left, the others to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [first.ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(others, widths[1:], strict=True))]
        lines.append(indent + "  ".join(cells).rstrip())
    return "\n".join(lines)


def size_text(count: int) -> str:
    """Bytes as megabytes, or kilobytes below one, with one decimal (MB = 10⁶ bytes)."""
    return f"{count / 1e6:.1f} MB" if abs(count) >= 1_000_000 else f"{count / 1e3:.1f} kB"
