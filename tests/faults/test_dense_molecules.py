"""A molecule so densely bound that searches over its paths would not end is a row with a reason, whatever the verb."""

from __future__ import annotations

import csv
import itertools
import time
from pathlib import Path

import pytest
from rdkit import Chem
from typer.testing import CliRunner, Result

from dnd.chemistry.molecule import LIMITS
from dnd.chemistry.parse import MOST_WALKS, density_problem, may_be_dense, molecule_from_mol, parse_smiles, walks
from dnd.cli.main import build_app
from dnd.graphs.fast.graphs import rewritten_graphs
from finetuning_toys import heavy_atoms, molecules, write_csv

GOLDEN = Path(__file__).parents[1] / "golden"
REASON = "atoms bound too densely: 14 atoms with 91 bonds"
FAST = ("split=random", "loop.device=cpu", "jobs=1")
CAGES = ["C12C3C4C5C1[Fe]23456789C%10C6C7C8C9%10", "C12C3C4C1C5C2C3C45", "FS(F)(F)(F)(F)F"]


def all_bound(atoms: int, element: int) -> Chem.Mol:
    mol = Chem.RWMol()
    for _ in range(atoms):
        mol.AddAtom(Chem.Atom(element))
    for one, other in itertools.combinations(range(atoms), 2):
        mol.AddBond(one, other, Chem.BondType.SINGLE)
    Chem.SanitizeMol(mol)
    return mol.GetMol()


@pytest.fixture(scope="module")
def dense() -> str:
    """Fourteen iron atoms, each bound to all others: an ordinary text for the quick way."""
    return Chem.MolToSmiles(all_bound(14, 26))


@pytest.mark.parametrize("element", [0, 26])
def test_the_parser_refuses_it_before_anything_searches_its_paths(element: int) -> None:
    mol = all_bound(14, element)
    start = time.process_time()
    outcome = parse_smiles(Chem.MolToSmiles(mol))
    of_mol, _ = molecule_from_mol(mol)
    assert not outcome.ok
    assert not of_mol.ok
    assert outcome.reason == of_mol.reason
    assert outcome.reason.startswith(REASON)
    assert outcome.stage == "limits"
    assert time.process_time() - start < 5


def test_the_quick_way_agrees_with_the_parser(dense: str) -> None:
    texts = [dense, "CCO", *CAGES]
    for text, quick in zip(texts, rewritten_graphs(texts), strict=True):
        parsed = parse_smiles(text)
        assert parsed.ok == (text != dense)
        assert quick is None or (parsed.ok and quick[0] == parsed.smiles)


def test_walks_are_counted_only_where_atoms_have_many_neighbours() -> None:
    assert not may_be_dense(LIMITS.heavy_atoms, 4)
    for text in CAGES:
        mol = Chem.MolFromSmiles(text)
        most = max(atom.GetDegree() for atom in mol.GetAtoms())
        assert walks(mol) <= mol.GetNumAtoms() * most**6
        assert walks(mol) < 0.1 * MOST_WALKS
        assert density_problem(mol) is None


@pytest.fixture(scope="module")
def table(dense: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = [*molecules(), dense]
    sizes = [heavy_atoms(text) for text in texts]
    return write_csv(tmp_path_factory.mktemp("dense") / "table.csv", {"smiles": texts, "size": sizes})


def run(verb: str, *words: object) -> Result:
    result = CliRunner().invoke(build_app(verb), [verb, *map(str, words)])
    assert result.exit_code == 0, (result.output, result.exception)
    return result


def last_reason(path: Path) -> str:
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))[-1]["error"]


def test_every_verb_gives_the_row_that_reason(table: Path, tmp_path: Path) -> None:
    settings = [*FAST, "blend.classical=ridge"]
    made = tmp_path / "model"
    run("finetune", table, "-o", made, "--target-columns", "size", "--encoder", "random", "--recipe", "fast", *settings)
    assert REASON in (made / "rejects.csv").read_text()
    for model in (made, GOLDEN / "predictor-blend", GOLDEN / "predictor-regression"):
        run("predict", table, "-m", model, "-o", tmp_path / "predicted.csv")
        assert last_reason(tmp_path / "predicted.csv").startswith(REASON)
    run("embed", table, "-o", tmp_path / "embedded.csv", "--encoder", GOLDEN / "formats-1" / "encoder")
    assert last_reason(tmp_path / "embedded.csv").startswith(REASON)
    assert REASON in run("evaluate", table, "-m", made).output


@pytest.mark.parametrize("place", [54, 10])
def test_a_molecule_that_a_feature_of_the_model_is_refused_for_is_a_row_with_a_reason(
    tmp_path: Path, place: int
) -> None:
    crowded = "[U]" + "(C)" * 22  # within the limits of the parser, beyond those of Avalon's fingerprint
    texts = molecules()
    texts.insert(place, crowded)
    table = write_csv(tmp_path / "table.csv", {"smiles": texts, "size": [heavy_atoms(text) for text in texts]})
    made = tmp_path / "model"
    settings = [*FAST, "blend.classical=boosting", "blend.fingerprints=avalon"]
    done = run(
        "finetune", table, "-o", made, "--target-columns", "size", "--encoder", "random", "--recipe", "fast", *settings
    )
    assert f"row {place + 2} is left out: the Avalon fingerprint" in done.output
    run("predict", table, "-m", made, "-o", tmp_path / "predicted.csv")
    with open(tmp_path / "predicted.csv", newline="") as stream:
        others = list(csv.DictReader(stream))
    refused = others.pop(place)
    assert refused["error"].startswith("the Avalon fingerprint of this molecule can't be computed")
    assert refused["size_pred"] == refused["in_domain"] == ""
    assert all(row["size_pred"] and not row["error"] for row in others)
    judged = run("evaluate", table, "-m", made).output
    assert "54 molecules of 55 rows, 1 left out" in judged
    assert f"row {place + 2}: the Avalon fingerprint" in judged


@pytest.mark.parametrize("columns", [["kind"], ["active"], ["is_ring"], ["kind", "active", "size"]])
def test_a_test_molecule_without_a_prediction_gets_no_class_and_the_report_is_written(
    tmp_path: Path, columns: list[str]
) -> None:
    texts = [*molecules(), "[U]" + "(C)" * 22]
    cells: dict[str, list[object]] = {
        "smiles": list(texts),
        "kind": [("acid", "base", "neutral")[row % 3] for row in range(len(texts))],
        "active": [("no", "yes")[row % 2] for row in range(len(texts))],
        "is_ring": [row % 2 for row in range(len(texts))],
        "size": list(range(len(texts))),
        "part": [("test", "train", "valid", "train")[row % 4] for row in range(len(texts) - 1)] + ["test"],
    }
    table, made = write_csv(tmp_path / "table.csv", cells), tmp_path / "model"
    targets = [word for name in columns for word in ("--target-columns", name)]
    settings = ["blend.classical=ridge", "blend.fingerprints=avalon", "blend.folds=2", "split=column:part", "jobs=1"]
    run("finetune", table, "-o", made, *targets, "--encoder", "random", *settings, "baselines=false")
    with open(made / "test_predictions.csv", newline="") as stream:
        *others, refused = csv.DictReader(stream)
    ends = ("_pred", *(f"_prob_{one}" for one in ("acid", "base", "neutral", "no", "yes")))
    said = [name for name in refused if name.endswith(ends)]
    assert all(refused[name] for name in columns)
    assert said
    assert [refused[name] for name in said] == [""] * len(said)
    assert all(row[name] for row in others for name in said)
    assert (made / "report.html").is_file()
