"""The public functions: every form of molecules, the same numbers whichever way, and results that a notebook shows."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas
import pyarrow as pa
import pytest
from rdkit import Chem

import dnd
from dnd.common.errors import ConfigError, InputError, as_arguments
from dnd.common.files import verify_folder
from dnd.common.model_folder import read_model
from dnd.interface.model import Predictor
from finetuning_toys import heavy_atoms, molecules, write_csv

ROOT = Path(__file__).parents[3]
SMILES = molecules()
SIZES = [1000.0 * heavy_atoms(text) for text in SMILES]
TINY = {
    "student.name": "gine", "student.width": 16, "student.num_layers": 2, "loop.epochs": 2, "loop.device": "cpu",
    "baselines": False, "jobs": 1,
}  # fmt: skip
EVIL = "<img src=x onerror=alert(1)>"


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("Name it with --smiles-column NAME", "Name it with smiles_column=NAME"),
        ("Name it with --smiles-column. Known: a", "Name it with smiles_column=. Known: a"),
        ("--by and --ascending need --top. Add --top K", "by= and ascending= need top=. Add top=K"),
        ("Add --resume to continue it", "Add resume=True to continue it"),
        ("Use --recipe best or small", "Use recipe=best or small"),
        ("Add --missing 'n d', or --measured 9 if", "Add missing='n d', or measured=9 if"),
        ("Make it with `dnd prepare --conformers etkdg`", "Make it with `dnd prepare --conformers etkdg`"),
        ("Use dnd prepare --conformers etkdg", "Use dnd prepare --conformers etkdg"),
        ("--skip-nonfinite N skips such batches", "loop.skip_nonfinite=N skips such batches"),
        ("found -1 -- 3", "found -1 -- 3"),
    ],
)
def test_errors_speak_of_arguments(said: str, wanted: str) -> None:
    assert as_arguments(said) == wanted


def test_no_error_of_a_python_call_names_an_option(tmp_path: Path, made: object) -> None:
    table = write_csv(tmp_path / "t.csv", {"a": ["x", "y"], "size": [">5", "6"]})
    model = made.predictor  # type: ignore[attr-defined]
    labels = write_csv(tmp_path / "l.csv", {"smiles": ["CCO", "CCN"], "size": [">5", "6"]})
    calls = {
        "smiles_column=": [
            lambda: dnd.predict(table, model), lambda: dnd.embed(table), lambda: model.predict(table),
            lambda: dnd.finetune(table, "size", tmp_path / "m"), lambda: dnd.prepare(table, tmp_path / "s"),
            lambda: dnd.DndEmbedder().fit(["CCO"]).transform(table),
        ],
        "target_columns=NAME": [lambda: dnd.finetune(labels, [], tmp_path / "m")],
        "censored=keep": [lambda: model.evaluate(labels)],
        "top=K": [lambda: dnd.screen(labels, model, tmp_path / "out", by="size")],
    }  # fmt: skip
    for wanted, all_of_them in calls.items():
        for call in all_of_them:
            with pytest.raises(InputError) as refused:
                call()
            assert wanted in str(refused.value)
            assert "--" not in str(refused.value)


def test_an_evaluation_reads_labels_by_the_options_of_the_verb(tmp_path: Path, made: object) -> None:
    labels = write_csv(
        tmp_path / "l.csv", {"smiles": ["CCO", "CCN", "CCC", "C", "CC"], "size": [">5,5", "3000", "-9", "n.q.", "7"]}
    )
    model = made.predictor  # type: ignore[attr-defined]
    found = model.evaluate(labels, missing=[-9, "n.q."], censored="drop")
    assert (found["molecules"], found["rejected"]) == (2, 3)
    assert model.evaluate(labels, missing="n.q.", censored="limit", decimal="comma")["molecules"] == 4


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> object:
    table = pandas.DataFrame({"SMILES": SMILES, "size": SIZES}, index=[f"row {row}" for row in range(len(SMILES))])
    out = tmp_path_factory.mktemp("python") / "model"
    return dnd.finetune(
        table, "size", out, recipe="small", encoder="random", split="random", settings=TINY, verbose=False
    )


def test_the_list_is_what_the_page_documents():
    assert set(dir(dnd)) == {*dnd.__all__, "__version__"}
    assert [name for name in dnd.__all__ if not callable(getattr(dnd, name))] == ["__version__"]
    page = (ROOT / "docs" / "reference" / "python.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"`dnd\.(\w+)", page))
    assert set(dir(dnd)) <= documented
    assert all(getattr(dnd, name).__doc__ for name in dnd.__all__)


def test_the_import_executes_one_file():
    code = "import sys, dnd; dir(dnd); print(*[name for name in sys.modules if name.split('.')[0] == 'dnd'])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert found.stdout.split() == ["dnd"]


def test_a_finetuning_leaves_what_the_verb_leaves(made):
    manifest = verify_folder(made.folder, kind="predictor", format_version=1)
    assert {"report.html", "metrics.json", "test_predictions.csv"} <= set(manifest["files"])
    assert made.report.is_file()
    assert made.metrics == made.predictor.metrics
    assert made.predictor.card.startswith("#")
    opened = Predictor.of(read_model(made.folder, kind="predictor"), device="cpu")
    assert (opened.metrics, opened.card, opened.folder) == (made.metrics, made.predictor.card, made.folder)


def test_every_form_of_molecules_has_the_same_predictions(made, tmp_path: Path):
    texts = SMILES[:4]
    wanted = made.predictor.predict(texts)["size_pred"]
    table = pandas.DataFrame({"id": range(4), "smiles": texts}, index=list("abcd"))
    forms = {
        "array": np.array(texts),
        "series": table["smiles"],
        "frame": table,
        "mols": [Chem.MolFromSmiles(text) for text in texts],
        "path": write_csv(tmp_path / "new.csv", {"smiles": texts}),
        "text of a path": str(tmp_path / "new.csv"),
    }
    for name, form in forms.items():
        assert np.array_equal(dnd.predict(form, made)["size_pred"], wanted), name
    assert dnd.predict(table, made.folder).to_pandas().index.tolist() == list("abcd")


def test_one_text_is_one_molecule(made):
    found = dnd.predict("CCO", made)
    assert found.num_rows == 1
    assert np.isfinite(found["size_pred"]).all()
    assert dnd.predict(["CCO", "no molecule", None], made)["error"][0] == ""


@pytest.mark.parametrize("wrong", [7, None, b"CCO", {"CCO"}], ids=str)
def test_what_is_no_molecules_is_a_type_error_that_says_what_is_accepted(made, wrong: object):
    with pytest.raises(TypeError, match="expected one SMILES; the path"):
        dnd.predict(wrong, made)


def test_a_table_without_the_column_names_those_it_has(made):
    table = pandas.DataFrame({"structure": ["CCO"], "id": [1]})
    with pytest.raises(InputError, match="structure"):
        dnd.predict(table, made)
    with pytest.raises(InputError, match=r"structure.*Name the column of SMILES with smiles_column="):
        made.predictor.evaluate(table)
    assert dnd.predict(table, made, smiles_column="structure").num_rows == 1


def test_a_table_in_memory_may_have_the_column_of_the_training(made, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setitem(made.predictor.parts.config["training"], "smiles_column", "Structure")
    table = pandas.DataFrame({"id": range(12), "Structure": SMILES[:12], "size": SIZES[:12]})
    wanted = made.predictor.predict(SMILES[:12])["size_pred"]
    assert np.array_equal(dnd.predict(table, made)["size_pred"], wanted)
    assert np.array_equal(dnd.predict(pa.Table.from_pandas(table), made)["size_pred"], wanted)
    assert made.predictor.evaluate(table)["molecules"] == 12
    assert len(dnd.embed(table, made.predictor)) == 12
    assert len(dnd.explain(table[:1], made, out=tmp_path / "pictures")) == 1
    done = dnd.screen(table, made, tmp_path / "hits", jobs=1, verbose=False)
    assert done.metrics == {"rows": 12, "without a prediction": 0, "shards": 1}


def test_rows_of_a_file_that_cannot_be_trusted_are_not_predicted(made, tmp_path: Path):
    path = tmp_path / "new.csv"
    path.write_text("smiles,id\nCCO,1\nCCO,1,2,3\n")
    found = dnd.predict(path, made)
    assert np.isnan(found["size_pred"]).tolist() == [False, True]
    assert "cells" in found["error"][1]


def test_embeddings_keep_rows():
    vectors = dnd.embed(["CCO", "no molecule", "c1ccccc1"], "dnd-base", device="cpu")
    assert vectors.shape == (3, 192)
    assert np.isnan(vectors).all(axis=1).tolist() == [False, True, False]


def test_embeddings_of_a_model(made):
    assert np.array_equal(dnd.embed(SMILES[:2], made.folder), made.predictor.embed(SMILES[:2]))


def test_a_pooling_that_is_not_heeded_is_refused(made):
    for model in (made.folder, made.predictor):
        with pytest.raises(InputError, match="its own pooling"):
            dnd.embed(SMILES[:2], model, pooling="mean")
    with pytest.raises(ConfigError, match="mean"):
        dnd.embed(SMILES[:2], pooling="men")


def test_the_model_of_an_estimator_is_an_opened_model(made):
    predictor = dnd.DndRegressor.from_folder(made.folder).predictor_
    assert np.array_equal(
        dnd.predict(SMILES[:2], predictor)["size_pred"], made.predictor.predict(SMILES[:2])["size_pred"]
    )
    assert np.array_equal(dnd.embed(SMILES[:2], predictor), made.predictor.embed(SMILES[:2]))
    assert dnd.explain(SMILES[0], predictor)[0].prediction == dnd.explain(SMILES[0], made)[0].prediction


def test_an_evaluation_is_that_of_the_verb(made, tmp_path: Path):
    table = {"smiles": SMILES, "size": SIZES}
    found = made.predictor.evaluate(table)
    assert found == made.predictor.evaluate(write_csv(tmp_path / "t.csv", table))
    assert f"{len(SMILES)} molecules" in str(found)
    view = found._repr_html_()
    known = found["known_molecules"]
    assert 0 < known < len(SMILES)
    assert f"{known} of these {len(SMILES)} molecules" in view  # which the model learned from
    assert "all molecules, size" in view
    assert f"rmse {found['unknown']['targets']['size']['rmse']:.3g}" in view.partition("new molecules, size")[2]
    unseen = made.predictor.evaluate({"smiles": ["CCCCCCCCO", "CCCCCCCCN"], "size": [9000.0, 9100.0]})._repr_html_()
    assert "0 of these 2 molecules" in unseen
    assert "new molecules" not in unseen


def test_explanations_have_numbers_and_pictures(made, tmp_path: Path):
    found = dnd.explain(["CCO", "no molecule"], made, out=tmp_path / "out")
    assert found[0].symbols == ("C", "C", "O")
    assert np.isfinite(found[0].atoms_N).all()
    assert found[0].svg.startswith("<svg")
    assert "svg" not in repr(found[0])  # a page of numbers would hide the others
    assert found[0].prediction == pytest.approx(dnd.predict("CCO", made)["size_pred"][0], rel=1e-4)
    assert found[1].error
    assert (tmp_path / "out" / "row-00000-size.svg").is_file()
    view = found._repr_html_()
    assert "<svg" in view
    assert "no molecule</th>" in view.partition("not drawn")[2]
    with pytest.raises(ConfigError, match="at most 1"):
        dnd.explain(["C", "CC"], made, most_molecules=1)


def test_notebook_views_draw_molecules_and_escape_text(made):
    table = dnd.predict(pandas.Series(["CCO", EVIL], index=["fine", EVIL]), made)
    for view in (table._repr_html_(), made.predictor.explain([EVIL])._repr_html_(), made.predictor._repr_html_()):
        assert "<img" not in view
    assert "<svg" in table._repr_html_()
    assert "&lt;img" in table._repr_html_()
    view = made._repr_html_()
    assert "verdict, size" in view
    assert "1 network, 0 classical models" in view


def test_a_screen_of_a_list(made, tmp_path: Path):
    done = dnd.screen(SMILES[:5], made, tmp_path / "hits", jobs=1, top=2, verbose=False)
    assert done.metrics["rows"] == 5
    assert (done.folder / "top.csv").is_file()
    assert (
        dnd.screen(SMILES[:5], made, tmp_path / "hits", jobs=1, top=2, resume=True, verbose=False).metrics["rows"] == 5
    )
    assert "screen" in done._repr_html_()
    opened = dnd.load(made.folder, device="cpu")
    assert dnd.screen(SMILES[:5], opened, tmp_path / "more", jobs=1, verbose=False).metrics["rows"] == 5
    opened.folder = None
    with pytest.raises(TypeError, match="the model is in no folder"):
        dnd.screen(SMILES[:5], opened, tmp_path / "none", jobs=1, verbose=False)


def test_the_stages_hand_their_folders_on(tmp_path: Path):
    texts = SMILES[:24]
    store = dnd.prepare(texts, tmp_path / "store", conformers="etkdg", hydrogens="heavy_both", verbose=False)
    assert store.metrics["molecules"] == 24
    teacher = dnd.denoise(store, tmp_path / "teacher", recipe="tiny", settings={"loop.epochs": 1}, verbose=False)
    encoder = dnd.distill(
        store, teacher, tmp_path / "encoder", recipe="tiny", settings={"loop.epochs": 1}, verbose=False
    )
    assert dnd.embed("CCO", encoder, device="cpu").shape[0] == 1
    assert "encoder" in encoder._repr_html_()


def test_labels_are_read_by_the_options_of_the_verb(tmp_path: Path):
    cells = [f">{size}" if row % 8 == 0 else size for row, size in enumerate(SIZES)]
    table = pandas.DataFrame({"smiles": [*SMILES, *SMILES[:3]], "y": [*cells, -999.0, -999.0, SIZES[2]]})
    made = dnd.finetune(
        table, "y", tmp_path / "m", recipe="small", encoder="random", split="random", settings=TINY, verbose=False,
        missing=-999, censored="keep", replicates="mean", standardize=True,
    )  # fmt: skip
    counts = made.metrics["counts"]
    limits = sum(isinstance(cell, str) for cell in cells)
    assert (counts["rejected"], counts["censored_labels"]) == (2, limits)
    assert (counts["merged"], counts["standardized"]) == (1, 0)
    with pytest.raises(InputError, match=r"^the table has no column 'z'"):
        dnd.finetune(table, "z", tmp_path / "n", recipe="fast", verbose=False)
    with pytest.raises(InputError, match=r"^the table has a header and no rows"):
        dnd.screen([], tmp_path / "m", tmp_path / "s", verbose=False)


def test_settings_that_do_not_exist_are_refused_with_their_full_names(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"Did you mean loop\.epochs"):
        dnd.finetune({"smiles": SMILES, "y": SIZES}, "y", tmp_path / "m", settings={"epochs": 3})
    with pytest.raises(ConfigError, match=r"one of fast, .*best.*Did you mean best"):
        dnd.finetune({"smiles": SMILES, "y": SIZES}, "y", tmp_path / "m", recipe="bst")


def test_a_setting_is_refused_before_torch_loads(tmp_path: Path):
    code = (
        "import sys, dnd\n"
        "from dnd.common.errors import ConfigError\n"
        "wrong, out = {'loop.epoch': 3}, sys.argv[1]\n"
        "calls = [\n"
        "    lambda: dnd.finetune({'smiles': ['C']}, 'y', out, settings=wrong),\n"
        "    lambda: dnd.denoise('store', out, settings=wrong),\n"
        "    lambda: dnd.distill('store', None, out, settings=wrong),\n"
        "    lambda: dnd.compress('model', out, settings=wrong),\n"
        "]\n"
        "for call in calls:\n"
        "    try:\n"
        "        call()\n"
        "    except ConfigError as error:\n"
        "        assert 'Did you mean loop.epochs' in str(error), error\n"
        "    else:\n"
        "        sys.exit('accepted')\n"
        "assert 'torch' not in sys.modules\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "out")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert not (tmp_path / "out").exists()
