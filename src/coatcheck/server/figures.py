"""Numbers that workers write and the supervisor reads: one shared file, one region a worker, no lock.

Promises that a reader sees whole numbers, and that a counter goes on where a worker that died left it. Leaves what
the numbers mean to `metrics`.
"""

import mmap
import os
from collections.abc import Sequence
from pathlib import Path

__all__ = ["FigureTable"]


class FigureTable:
    """Rows of 64-bit floats: `columns` names them, each worker writes its own row."""

    __slots__ = ("_map", "_row", "_width", "_words", "columns")

    def __init__(self, memory: mmap.mmap, columns: Sequence[str], row: int) -> None:
        self._map = memory
        # Words of native size are loaded and stored whole, which is what makes reading beside a writer safe.
        self._words = memoryview(memory).cast("d")
        self._width = len(columns)
        self._row = row * len(columns)
        self.columns: dict[str, int] = {name: index for index, name in enumerate(columns)}

    @classmethod
    def alone(cls, columns: Sequence[str]) -> "FigureTable":
        """A table for one process, in memory."""
        return cls(mmap.mmap(-1, len(columns) * 8), columns, 0)

    @staticmethod
    def create(path: Path, columns: Sequence[str], rows: int) -> None:
        """Make the file that `open` opens, for `rows` writers; readable by its owner only."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.truncate(descriptor, rows * len(columns) * 8)
        finally:
            os.close(descriptor)

    @classmethod
    def open(cls, path: Path, columns: Sequence[str], row: int = 0) -> "FigureTable":
        """The table in `path`, to write in `row`; no other living process may write there."""
        with path.open("r+b") as file:
            memory = mmap.mmap(file.fileno(), 0)
        if not 0 <= row < len(memory) // (len(columns) * 8):
            raise ValueError(f"{path} has no row {row}")
        return cls(memory, columns, row)

    def get(self, name: str) -> float:
        """What this row has under a name."""
        return self._words[self._row + self.columns[name]]

    def set(self, name: str, value: float) -> None:
        """Write a number into this row."""
        self._words[self._row + self.columns[name]] = value

    def all(self, name: str) -> list[float]:
        """What every row has under a name."""
        return list(self._words[self.columns[name] :: self._width])

    def close(self) -> None:
        """Let go of the memory; the table must not be used afterwards."""
        self._words.release()
        self._map.close()
