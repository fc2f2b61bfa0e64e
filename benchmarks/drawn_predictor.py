"""Tables of result pages from the cells of `compare.py`: `docs/results/predictor.jsonl` and `docs/results/further`."""

from __future__ import annotations

import csv
import gzip
import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import compare
from result_lines import RESULTS, markdown_table
from scipy import stats

from dnd.reproduction.benchmarks import BENCHMARKS
from dnd.reproduction.further_sets import BIOGEN, MOLECULEACE


def conformer_quality(path: Path) -> list[str]:
    """What the geometries are worth."""
    labels = {"DFT": "DFT", "MMFF": "MMFF94s", "raw ETKDG": "ETKDGv3, unrelaxed"}
    with open(path, newline="", encoding="utf-8") as stream:
        rows = [
            [
                labels[row["conformers"]],
                f"{float(row['bond_shift']):.3f} Å",
                f"{float(row['denoising_explained']):.3f}",
                f"{float(row['distill_r2']):.3f}",
                f"{float(row['valid_rmse']):.3f}",
                f"{float(row['test_rmse']):.3f} ± {float(row['test_rmse_std']):.3f}",
            ]
            for row in csv.DictReader(stream)
        ]
    heads = [
        "conformers", "bonded distances differ from DFT by", "noise explained", "distillation R²",
        "ESOL, validation RMSE", "ESOL, test RMSE",
    ]  # fmt: skip
    return markdown_table(heads, rows)


def predictor(path: Path) -> list[str]:
    """Scores and costs of all systems, as `compare.py` draws them."""
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    lines: list[str] = compare.table(records)
    return lines


_OURS_LABELS = {
    "fast": "`fast`", "best": "`best`", "maplight": "MapLight, rebuilt", "svm-ecfp": "SVM on ECFP, rebuilt",
    "rf-counts": "forest on counts", "rf-both": "forest on counts and descriptors", "chemprop": "chemprop 2",
}  # fmt: skip
_PUBLISHED_LABELS = {
    "CheMeleon": "CheMeleon, published", "SVM": "SVM on ECFP, published", "minimol": "MiniMol + MLP, published",
    "RF_Morgan": "forest on Morgan, published", "Chemprop": "chemprop, published",
}  # fmt: skip


def moleculeace(path: Path) -> list[str]:
    """Errors on the fifteen sets beside published ones on the same split."""
    found = errors_by_system(path, MOLECULEACE)
    beside = published_errors()
    lines = _table_of_errors({**found["value"], **beside["value"]}, MOLECULEACE)
    cliffs = _table_of_errors({**found["cliff_value"], **beside["cliff_value"]}, MOLECULEACE)[-1]
    return [*lines, cliffs.replace("| mean |", "| mean on activity cliffs |")]


def biogen(path: Path) -> list[str]:
    """Errors on the six endpoints."""
    return _table_of_errors(errors_by_system(path, BIOGEN)["value"], BIOGEN)


def fourteen(path: Path) -> list[str]:
    """`fast` of 0.1.0, of 0.2.0 and since then on the paper's sets: scores, means over seeds, and CPU seconds."""
    compared, of_0_2 = (
        [json.loads(line) for line in one.read_text(encoding="utf-8").splitlines()]
        for one in (path.parent.parent / "predictor.jsonl", path)
    )
    of_0_1 = [line for line in compared if line["versions"]["dnd"] == "0.1.0"]
    since = [line for line in compared if line["versions"]["dnd"] != "0.1.0"]
    rows = []
    for name in BENCHMARKS:
        runs = [
            [one for one in lines if (one["dataset"], one["system"]) == (name, "fast")]
            for lines in (of_0_1, of_0_2, since)
        ]
        if not all(runs):
            continue
        assert len({tuple(sorted(one["seed"] for one in own)) for own in runs}) == 1, f"{name} has the same seeds"
        sizes, metric = runs[-1][0]["molecules"], runs[-1][0]["metric"]
        values = [statistics.fmean(one["value"] for one in own) for own in runs]
        best = max(values) if metric == "rocauc" else min(values)
        rows.append([
            f"{name} ({metric})", f"{sum(sizes.values())} of {runs[-1][0]['available']}", str(len(runs[-1])),
            *(_bold(f"{value:.3f}", value == best) for value in values),
            *(f"{statistics.fmean(one['cpu_seconds'] for one in own):.0f}" for own in runs),
        ])  # fmt: skip
    names = ["0.1.0", "0.2.0", "since"]
    return markdown_table(["set", "molecules", "seeds", *names, *(f"CPU s, {name}" for name in names)], rows)


def finetuned(path: Path) -> list[str]:
    """A student finetuned from an encoder and from random weights: scores, and the change in the mean over seeds."""
    runs: dict[str, dict[bool, dict[int, dict]]] = {}
    for line in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
        runs.setdefault(line["dataset"], {}).setdefault(line["encoder"] == "random", {})[line["seed"]] = line
    rows, changes = [], {"rocauc": [], "error": []}
    for name in (name for name in BENCHMARKS if len(runs.get(name, {})) == 2):
        seeds = sorted(runs[name][True].keys() & runs[name][False].keys())
        random, taught = ([runs[name][kind][seed]["value"] for seed in seeds] for kind in (True, False))
        first = runs[name][False][seeds[0]]
        kind = "rocauc" if first["metric"] == "rocauc" else "error"
        mean, before = statistics.fmean(taught), statistics.fmean(random)
        changes[kind].append(mean - before if kind == "rocauc" else mean / before - 1)
        rows.append([
            f"{name} ({first['metric']})", f"{sum(first['molecules'].values())} of {first['available']}",
            str(len(seeds)),
            f"{before:.3f}", _bold(f"{mean:.3f}", (changes[kind][-1] > 0) == (kind == "rocauc")),
            _changed(changes[kind][-1], kind),
        ])  # fmt: skip
    for kind, sets in (("error", "regression"), ("rocauc", "classes")):
        if found := changes[kind]:
            better = sum((one > 0) == (kind == "rocauc") for one in found)
            shown = f"{_changed(statistics.fmean(found), kind)}, better on {better} of {len(found)}"
            rows.append([f"mean of {sets}", "", "", "", "", shown])
    return markdown_table(["set", "molecules", "seeds", "random weights", "`dnd-base`", "change"], rows)


def _changed(change: float, kind: str) -> str:
    return f"{change:+.3f}" if kind == "rocauc" else f"{100 * change:+.1f} %"


def large_sets(path: Path) -> list[str]:
    """`fast` with and without the Gaussian process on sets beyond 5,000 molecules."""
    with open(path, newline="", encoding="utf-8") as stream:
        rows = [
            [
                row["set"], row["molecules"], "with" if "gaussian" in row["members"] else "without",
                f"{float(row['mae_out_of_fold']):.3f}", f"{float(row['mae_test']):.3f}",
                f"{float(row['cpu_seconds']):.0f}", row["peak_mb"],
            ]
            for row in csv.DictReader(stream)
        ]  # fmt: skip
    heads = ["set", "development molecules", "process", "MAE out of fold", "MAE, test", "CPU s", "peak MB"]
    return markdown_table(heads, rows)


def errors_by_system(path: Path, sets: Sequence[str]) -> dict[str, dict[str, dict[str, float]]]:
    """`value` or `cliff_value` → label of a system → set → mean over seeds; of systems that have all sets.

    Lines of `fast` are those of `path`, lines of others those of `rivals.jsonl` beside it.
    """
    runs: dict[tuple[str, str, str], list[float]] = {}
    texts = [one.read_text(encoding="utf-8") for one in (path, path.with_name("rivals.jsonl"))]
    for line in map(json.loads, "".join(texts).splitlines()):
        for kind in ("value", "cliff_value"):
            if line["dataset"] in sets and kind in line:
                runs.setdefault((kind, line["system"], line["dataset"]), []).append(line[kind])
    found: dict[str, dict[str, dict[str, float]]] = {"value": {}, "cliff_value": {}}
    for kind, own in found.items():
        for system, label in _OURS_LABELS.items():
            if all((kind, system, name) in runs for name in sets):
                own[label] = {name: statistics.fmean(runs[kind, system, name]) for name in sets}
    return found


def published_errors() -> dict[str, dict[str, dict[str, float]]]:
    """The same from the files of published numbers on MoleculeACE."""
    found: dict[str, dict[str, dict[str, float]]] = {"value": {}, "cliff_value": {}}
    folder = RESULTS.parents[1] / "data/moleculeace"
    kinds = {"overall test rmse": "value", "cliff test rmse": "cliff_value"}
    for row in _packed_rows(folder / "published_chemeleon_repository.csv.gz"):
        if row["model"] in _PUBLISHED_LABELS:
            own = found[kinds[row["metric"]]].setdefault(_PUBLISHED_LABELS[row["model"]], {})
            own[row["target"]] = float(row["mean"])
    for row in _packed_rows(folder / "published_moleculeace_paper.csv.gz"):
        if (row["algorithm"], row["descriptor"], row["augmentation"]) == ("SVM", "ECFP", "0"):
            for kind, name in (("value", "rmse"), ("cliff_value", "cliff_rmse")):
                found[kind].setdefault(_PUBLISHED_LABELS["SVM"], {})[row["dataset"]] = float(row[name])
    return found


def _packed_rows(path: Path) -> list[dict[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def _table_of_errors(found: dict[str, dict[str, float]], sets: Sequence[str]) -> list[str]:
    """A row per set, then who is ahead of the first system on how many, and the means."""
    first = next(iter(found))
    rows = []
    for name in sets:
        least = min(own[name] for own in found.values())
        rows.append([name, *(_bold(f"{own[name]:.3f}", own[name] == least) for own in found.values())])
    behind = [sum(own[name] > found[first][name] for name in sets) for own in found.values()]
    tests = [
        "–"
        if label == first
        else f"{count} of {len(sets)} (p = {stats.wilcoxon([found[first][n] - own[n] for n in sets]).pvalue:.2g})"
        for (label, own), count in zip(found.items(), behind, strict=True)
    ]
    means = [statistics.fmean(own[name] for name in sets) for own in found.values()]
    rows.append([f"{first} is ahead on", *tests])
    rows.append(["mean", *(_bold(f"{mean:.3f}", mean == min(means)) for mean in means)])
    return markdown_table(["set", *found], rows)


def _bold(text: str, yes: bool) -> str:
    return f"**{text}**" if yes else text


DRAWN: dict[str, Callable[[Path], list[str]]] = {
    "predictor": predictor,
    "moleculeace": moleculeace,
    "biogen": biogen,
    "fourteen": fourteen,
    "finetuned": finetuned,
    "large-sets": large_sets,
    "conformer-quality": conformer_quality,
}
