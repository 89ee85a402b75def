"""Rows of .parquet files."""

from collections.abc import Iterator
from pathlib import Path


def rows(path: Path) -> Iterator[tuple[str, object]]:
    """(where, row) for each row; `where` names file and row. ValueError for what cannot be read."""
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise ValueError(f"{path}: reading parquet needs pyarrow; run pip install pyarrow") from None
    number = 0
    try:
        for rows in parquet.ParquetFile(path).iter_batches(1024):
            for row in rows.to_pylist():
                number += 1
                yield f"{path}, row {number}", row
    except Exception as e:                                # pyarrow has many kinds of exceptions; some are not a ValueError
        raise ValueError(f"{path}, after row {number}: cannot be read ({e}); fetch or write it again") from None
