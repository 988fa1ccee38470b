"""Columns of text from csv, tsv and parquet files, which may be gzipped where they are text."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as compute
import pyarrow.csv as pc
import pyarrow.parquet as pq

from components.shared.storage.documents import said
from components.shared.storage.parquet import MOST_ROWS, is_text_type, opened_parquet
from components.shared.telling.errors import InputError, nearest, refusing, shortlist

DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
ENDINGS = ".csv, .tsv, .txt (tabs), each perhaps with .gz, or .parquet"
MOST_BYTES = 4 * 2**30
"""Of the columns that are read, unpacked: a file of a few MB can hold far more."""
FAULTS = (pa.ArrowException, OSError, ValueError, KeyError)


def read_columns(
    path: Path, name: str, wanted: tuple[str, ...], optional: tuple[str, ...] = ()
) -> dict[str, list[str]]:
    """Read columns of text, ``wanted`` ones and what there is of ``optional`` ones, row by row.

    The file, in messages ``name``, ends in one of the ENDINGS and names its columns, text in the
    first line. A field that is missing is empty; blanks around one are no part of it.

    Raises:
        InputError: another format, a column that is missing or no text, or too large a file.
    """
    ending = path.suffix.lower()
    with refusing(FAULTS, f"{name}: not readable as {ending}", said=said):
        if ending == ".parquet":
            found = opened_parquet(path, name, ending).schema_arrow.names
        else:
            found = _text(path, name).schema.names
        _check_columns(found, name, wanted)
        others = [column for column in optional if column in found and column not in wanted]
        _check_columns(found, name, tuple(others))
        columns = [*wanted, *others]
        if ending == ".parquet":
            table = _bounded(_parquet(path, columns), name)
        else:
            table = _bounded(_text(path, name, columns), name)
            _check_lines(path, name, table.num_rows)
    return {
        column: compute.utf8_trim_whitespace(table.column(column)).fill_null("").to_pylist()
        for column in columns
    }


def _check_columns(found: list[str], name: str, wanted: tuple[str, ...]) -> None:
    if len(set(wanted)) < len(wanted):  # as a prior may name them
        raise InputError(f"{name}: column '{wanted[0]}' is named twice; name two columns")
    for column in wanted:
        if found.count(column) != 1:
            missing = f"is missing{nearest(column, found)}"
            raise InputError(
                f"{name}: column '{column}' "
                f"{'comes more than once' if column in found else missing}; the file has "
                f"{shortlist(found)}; name others by ?columns=a+b where the kind of prior takes it"
            )


def _text(path: Path, name: str, columns: Sequence[str] = ()) -> pc.CSVStreamingReader:
    """Return a reader of the rows, of ``columns`` as text; of all as they are if it names none."""
    stream = _stream(path, name)
    convert = pc.ConvertOptions(
        include_columns=columns,
        column_types={column: pa.string() for column in columns},
        strings_can_be_null=False,
    )
    parse = pc.ParseOptions(delimiter=DELIMITERS[_ending(path)])
    return pc.open_csv(stream, parse_options=parse, convert_options=convert)


def _check_lines(path: Path, name: str, rows: int) -> None:
    """Check that each line is a row: a quotation mark without another takes the next ones too."""
    whole = pc.open_csv(
        _stream(path, name),
        read_options=pc.ReadOptions(autogenerate_column_names=True),
        parse_options=pc.ParseOptions(delimiter="\x1f", quote_char=False),
        convert_options=pc.ConvertOptions(column_types={"f0": pa.binary()}),
    )
    lines = sum(batch.num_rows for batch in whole) - 1
    if lines != rows:
        raise InputError(
            f'{name}: has {lines:,} lines but {rows:,} rows; a quotation mark (") begins a field '
            "that does not end in its line; close it there, or remove it"
        )


def _ending(path: Path) -> str:
    """Return the ending that says how columns are divided."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def _stream(path: Path, name: str) -> pa.NativeFile:
    if _ending(path) not in DELIMITERS:
        raise InputError(
            f"{name}: format '{''.join(path.suffixes)}' is unknown; expected {ENDINGS}"
        )
    return pa.input_stream(str(path), compression="gzip" if path.suffix.lower() == ".gz" else None)


def _parquet(path: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    schema = pa.schema([(column, pa.string()) for column in columns])
    for batch in pq.ParquetFile(path).iter_batches(columns=columns):
        # By name, since a file's columns come in the file's order; a cast refuses what is no text.
        for column in columns:
            kind = batch.schema.field(column).type
            if not is_text_type(kind):
                raise ValueError(f"column '{column}' is {kind}, expected text")
        yield pa.RecordBatch.from_arrays(
            [batch.column(column).cast(pa.string()) for column in columns], schema=schema
        )


def _bounded(batches: Iterable[pa.RecordBatch], name: str) -> pa.Table:
    kept: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in batches:
        rows += batch.num_rows
        size += batch.nbytes
        if rows > MOST_ROWS or size > MOST_BYTES:
            raise InputError(
                f"{name}: holds more than {MOST_ROWS:,} rows or {MOST_BYTES / 2**30:.0f} GiB; "
                "give a smaller table"
            )
        kept.append(batch)
    if not rows:
        raise InputError(f"{name}: has no rows")
    return pa.Table.from_batches(kept)
