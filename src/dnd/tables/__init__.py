"""Tables of molecules: one reader, one set of words, one writer, for every verb and for Python.

**The reader** (`molecules.open_molecules`; `readers.read_table` beneath it). A table has columns with unique names. A
name that the header repeats, or leaves empty, becomes a new one that no column of the header has (`y.2`, `column_3`);
asking for a repeated name is refused, since it would be a guess. Cells are text, unchanged. A row of empty cells is a
row; only a line without any sign but blanks is none. What a file is packed in and how it is encoded is settled by its
bytes, for every format: gzip, UTF-8 with or without a byte order mark, UTF-16, line ends of CR, LF or both; Parquet
and workbooks are known by their first bytes, whatever the name says and also on standard input. A row that can't be
trusted stays a row, with a problem.

**Numbers of rows.** `Row.number` counts data rows from 0 and is what files hold (`splits.json`, `rejects.csv`), as
pandas and OGB count. `Row.place` is what messages say: the row as a spreadsheet shows it, so the header is row 1 and
the first molecule row 2. Where there is no header (SMI, SDF), the first one is 1.

**The SMILES column** (`smiles_column.py`) is the one that is asked for. Where none is, it's found by its name, or by
what its cells look like; where two would do, the choice is the user's.

**Labels** (`labels.py`). One function reads a column of labels for every verb. A column holds numbers or words, never
both. Numbers may have a decimal comma, thousands separators or a percent sign, all cells of a column alike; `>10` and
`<0.1` are censored, and what becomes of them is said by `--censored`; words for "no value" are missing, and counted.
In a column of words only an empty cell is missing; words that differ in letter case or blanks alone are one class. All
bad cells are in one message. Python's estimators and commands write and read the same columns.

**The writer** (`writers.py`) gives back the user's cells as they were, with the delimiter and the decimal mark of the
input. The spreadsheet guard acts where a CSV is written and nowhere else, on text that a spreadsheet would run:
`=1+1`, but not `-0,02`. `csv_rows` undoes it exactly where we read a table of our own, so names and cells inside are
never guarded.
"""
