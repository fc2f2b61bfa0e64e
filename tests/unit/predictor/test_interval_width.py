"""Widths of intervals by the members' spread: chosen where they are narrower, covering as promised, the same later."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import dnd
from dnd.chemistry.splits import Split
from dnd.common.errors import ConfigError, CorruptFileError
from dnd.common.files import read_json
from dnd.common.model_folder import read_model
from dnd.predictor.ensemble import spread_by_name, weighted_spread
from dnd.predictor.model_folder import KIND, read_predictor
from dnd.predictor.predictor import Predictor
from dnd.predictor.targets import Transform
from dnd.predictor.uncertainty.calibration import Calibration, Chosen, TargetCalibration, sentences
from dnd.predictor.uncertainty.fitting import calibrate, choose
from dnd.predictor.uncertainty.intervals import ConformalIntervals, HeldOut, Predicted, mixing_weights
from finetuning_toys import heavy_atoms, quietly, write_csv
from make_golden import GOLDEN


def uneven(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Errors whose size the spread foretells."""
    generator = np.random.default_rng(seed)
    spread = generator.gamma(1.0, size=count)
    return np.abs(generator.normal(size=count)) * spread, spread


def fit_width(errors, weights=None, spread=None) -> tuple[float | None, float | None]:
    """The width that is chosen, and its floor where it goes with the spread."""
    found = choose("regression", HeldOut(np.zeros(len(errors)), Predicted(errors, spread), weights)).intervals
    return (None, None) if found is None else (found.half_width, found.spread_floor)


def test_widths_go_with_a_spread_that_foretells_errors_and_cover_as_promised():
    held, narrow = [], []
    for seed in range(40):
        errors, spread = uneven(400, seed)
        half, floor = fit_width(errors, None, spread)
        assert half is not None
        assert floor == pytest.approx(np.median(spread))
        constant, _ = fit_width(errors)
        errors, spread = uneven(400, 1000 + seed)
        widths = half * (spread + floor)
        held.append((errors <= widths).mean())
        narrow.append(widths.mean() / constant)
    assert np.mean(held) == pytest.approx(0.9, abs=0.012)
    assert np.mean(narrow) < 0.95


def test_a_spread_that_says_nothing_is_not_used_and_few_molecules_do_not_choose():
    generator = np.random.default_rng(0)
    errors, spread = np.abs(generator.normal(size=1000)), generator.gamma(1.0, size=1000)
    assert fit_width(errors, None, spread) == fit_width(errors)
    errors, spread = uneven(99, 3)
    assert fit_width(errors, None, spread) == fit_width(errors)
    assert fit_width(errors[:8], None, spread[:8]) == (None, None)
    errors, _ = uneven(400, 4)
    assert fit_width(errors, None, np.zeros(400)) == fit_width(errors)


def test_both_kinds_of_width_count_the_parts_alike():
    weights = mixing_weights(np.arange(400) >= 300)
    assert weights is not None
    assert weights[:300].sum() == pytest.approx(weights[300:].sum()) == pytest.approx(0.5)
    assert mixing_weights(np.arange(400) >= 390) is None
    errors, spread = uneven(400, 5)
    half, floor = fit_width(errors, weights, spread)
    assert half is not None
    assert floor is not None
    assert weights[errors <= half * (spread + floor)].sum() >= 0.9


def test_the_spread_leaves_out_what_is_unknown_and_counts_students_as_one():
    values = np.array([[[1.0], [1.0]], [[3.0], [np.nan]]])
    weights = np.array([[0.5], [0.5]])
    assert weighted_spread(values, weights)[:, 0] == pytest.approx([1.0, 0.0])
    assert np.isnan(weighted_spread(np.full((2, 1, 1), np.nan), weights)).all()
    members = np.array([[[0.0]], [[2.0]], [[3.0]]])
    shares = np.array([[0.25], [0.25], [0.5]])
    assert spread_by_name(members, shares, ["students", "students", "ridge"])[0, 0] == pytest.approx(1.0)


def test_the_test_part_judges_the_widths_that_a_new_molecule_would_get():
    errors, spread = uneven(900, 6)
    rows = np.arange(900)
    split = Split(rows[:1], rows[1:500], rows[500:])
    given = [(split, errors[:, None])]
    _, found = calibrate(given, np.zeros((900, 1)), ["regression"], spread_BC=spread[:, None])
    intervals = found.targets[0].chosen.intervals
    assert intervals.spread_floor is not None
    low, high = intervals.apply(Predicted(errors[500:], spread[500:])).T
    assert found.targets[0].judged.measured == pytest.approx(((low <= 0) & (high >= 0)).mean())
    assert "× (spread of the members + " in sentences(found, ["y"], ["regression"], "somewhere")[0]
    log = [Transform("log")]
    _, mapped = calibrate(given, np.ones((900, 1)), ["regression"], spread_BC=spread[:, None], transforms=log)
    assert mapped.targets[0].chosen.intervals.spread_floor is None


BLEND = ("blend.classical=ridge,forest_descriptors", "ensemble=1", "blend.folds=3")


@pytest.mark.parametrize(("recipe", "by_similarity"), [(("ensemble=3",), False), (BLEND, False), (BLEND, True)])
def test_the_coverage_of_a_model_is_that_of_its_columns(
    tmp_path: Path, recipe: tuple[str, ...], by_similarity: bool, monkeypatch: pytest.MonkeyPatch
):
    """Widths by spread and similarity are enforced; what the calibration saw must be what a loaded model says."""
    line = ((0.2, 0.7), (1.6, 0.4)) if by_similarity else None
    monkeypatch.setattr("dnd.predictor.uncertainty.intervals.error_by_similarity", lambda *given: line)
    monkeypatch.setattr("dnd.predictor.uncertainty.fitting.NARROWER", 100.0)
    monkeypatch.setattr("dnd.predictor.uncertainty.fitting.FEWEST_FOR_SPREAD", 9)
    smiles = [f"{'C' * length}{tail}" for length in range(1, 13) for tail in ("O", "N", "Cl", "F", "C(=O)O", "C#N")]
    noise = np.random.default_rng(2).normal(size=len(smiles))
    labels = [heavy_atoms(text) + extra for text, extra in zip(smiles, noise, strict=True)]
    data = write_csv(tmp_path / "data.csv", {"smiles": smiles, "y": labels})
    quietly(data, tmp_path / "model", ["y"], "fractions=0.4,0.3,0.3", *recipe)
    one = read_json(tmp_path / "model" / "calibration.json")["calibration"]["targets"][0]
    assert one["spread_floor"] > 0
    assert one.get("similarity_knots") == (list(line[0]) if line else None)
    test = read_json(tmp_path / "model" / "splits.json")["test"]
    table = dnd.load(tmp_path / "model", device="cpu").predict([smiles[row] for row in test])
    low, high, truth = np.asarray(table["y_low"]), np.asarray(table["y_high"]), np.asarray(labels)[test]
    assert ((low <= truth) & (truth <= high)).mean() == pytest.approx(one["measured"])
    assert np.ptp(high - low) > 0


def test_a_model_without_training_molecules_has_no_width_by_similarity(tmp_path: Path):
    learned = ConformalIntervals(1.0, None, (0.2, 0.7), (1.6, 0.4))
    calibration = Calibration((TargetCalibration(Chosen(learned)),))
    assert calibration.needs_similarity
    assert not Calibration((TargetCalibration(Chosen(ConformalIntervals(1.0))),)).needs_similarity
    folder = GOLDEN / "predictor-regression"
    parts = read_predictor(read_model(folder, kind=KIND))
    with pytest.raises(CorruptFileError, match="similarity to its training molecules"):
        Predictor(parts, calibration=calibration)
    entry = calibration.to_dict()["targets"][0]
    assert entry["similarity_knots"] == (0.2, 0.7)
    assert TargetCalibration.from_dict(entry).chosen.intervals == learned
    with pytest.raises(ConfigError, match="similarities and factors differ in number"):
        TargetCalibration.from_dict({**entry, "similarity_factors": (1.0,)})
    plain = TargetCalibration(Chosen(ConformalIntervals(1.0))).to_dict()
    assert plain.keys() == TargetCalibration().to_dict().keys() == entry.keys() - ConformalIntervals.optional
