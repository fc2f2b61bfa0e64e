"""What an unfinished store already has: one sealed entry per shard, so that a killed run goes on where it stopped."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from dnd.common.errors import CorruptFileError
from dnd.common.files import sha256_file, storage_errors
from dnd.common.sealed_records import read_record, write_record
from dnd.store.rejects import Reject
from dnd.store.schema import StoreRow
from dnd.store.writer import shard_name, write_shard

_FOLDER = ".progress"


@dataclass(frozen=True)
class ShardEntry:
    """A sealed shard.

    Attributes:
        records: records it was made of, rejected ones included.
        molecules: rows it has.
        conformers: conformers of all rows.
        atoms: graph atoms of all rows.
        sha256: of the file.
        rejects: the records that gave no row.
    """

    records: int
    molecules: int
    conformers: int
    atoms: int
    sha256: str
    rejects: list[Reject]


class Journal:
    """Shards of a store under construction, in order; the entry is written after its shard.

    Args:
        store: its folder.
        auxiliary: names of its auxiliary columns.

    Attributes:
        entries: the sealed shards from number 0 on, as far as they are intact.
    """

    def __init__(self, store: Path, auxiliary: Sequence[str] = ()) -> None:
        self._store, self._folder, self._auxiliary = store, store / _FOLDER, auxiliary
        self.entries: list[ShardEntry] = []
        while (entry := self._read(len(self.entries))) is not None:
            self.entries.append(entry)

    def seal(self, rows: Sequence[StoreRow], rejects: list[Reject]) -> None:
        """Write the next shard and its entry."""
        number = len(self.entries)
        path = self._store / shard_name(number)
        write_shard(path, rows, self._auxiliary)
        entry = ShardEntry(
            records=len(rows) + len(rejects),
            molecules=len(rows),
            conformers=sum(len(row.conformers.positions_KA3) for row in rows if row.conformers is not None),
            atoms=sum(row.graph.num_atoms for row in rows),
            sha256=sha256_file(path),
            rejects=rejects,
        )
        write_record(self._path(number), asdict(entry))
        self.entries.append(entry)

    def remove(self) -> None:
        """Forget everything, after the store is sealed or given up."""
        with storage_errors(self._folder):
            shutil.rmtree(self._folder, ignore_errors=True)

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:05d}.json"

    def _read(self, number: int) -> ShardEntry | None:
        path, shard = self._path(number), self._store / shard_name(number)
        if not path.is_file() or not shard.is_file():
            return None
        try:
            values = read_record(path)
            rejects = [Reject(**reject) for reject in values.pop("rejects")]
            entry = ShardEntry(rejects=rejects, **values)
        except (CorruptFileError, KeyError, TypeError):
            return None
        return entry if sha256_file(shard) == entry.sha256 else None
