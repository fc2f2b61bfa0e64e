"""Lists of digests: what they say, and that they are told from tables."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from rdkit import Chem

from dnd.chemistry.identity import connectivity_key
from dnd.common.errors import CorruptFileError, InputError
from dnd.tables.molecules import is_key_list, key_digest, key_list_text, read_key_list


def digest_of(smiles: str) -> str:
    key = connectivity_key(Chem.MolFromSmiles(smiles))
    assert key is not None
    return key_digest(key)


def test_stereoisomers_have_one_digest_and_ethanol_has_the_known_one() -> None:
    assert digest_of("OCC") == "d024cad94e64b2e2"
    assert digest_of("C[C@H](N)C(=O)O") == digest_of("C[C@@H](N)C(=O)O") != digest_of("NCCC(=O)O")


@pytest.mark.parametrize("name", ["keys.txt", "keys.txt.gz"])
def test_a_list_comes_back(tmp_path: Path, name: str) -> None:
    digests = [digest_of(smiles) for smiles in ("CCO", "CC", "C", "CC")]
    text = key_list_text(digests).encode()
    (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith("gz") else text)
    assert is_key_list(tmp_path / name)
    assert read_key_list(tmp_path / name) == frozenset(digests)
    assert text.decode().splitlines() == sorted(set(digests))


def test_tables_are_no_lists_and_damage_is_said_by_line(tmp_path: Path) -> None:
    (tmp_path / "table.txt").write_text("smiles,y\nCCO,1\n")
    (tmp_path / "table.csv").write_text(f"{digest_of('C')}\n")
    assert not is_key_list(tmp_path / "table.txt")
    assert not is_key_list(tmp_path / "table.csv")
    assert not is_key_list(tmp_path / "nothing.txt")
    (tmp_path / "torn.txt").write_text(f"{digest_of('C')}\n{digest_of('C')[:7]}\n")
    with pytest.raises(CorruptFileError, match="line 2 of"):
        read_key_list(tmp_path / "torn.txt")
    (tmp_path / "torn.txt.gz").write_bytes(gzip.compress(b"0" * 40)[:-4])
    with pytest.raises(CorruptFileError, match="can't be read"):
        read_key_list(tmp_path / "torn.txt.gz")
    with pytest.raises(InputError, match="there is no file"):
        read_key_list(tmp_path / "nothing.txt")
