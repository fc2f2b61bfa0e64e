"""Tables of the page of performance from the repetitions of `dnd bench`: `docs/results/performance`."""

from __future__ import annotations

import csv
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from result_lines import markdown_table


def bench_tables(path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """The tables of a bench by title and reference."""
    found = json.loads(path.read_text(encoding="utf-8"))["tables"]
    return {(one["title"], one["reference"]): one for one in found}


def median_of(one: dict[str, Any], name: str, key: str = "seconds") -> float:
    """Median over the repetitions of a line, in seconds."""
    return statistics.median(next(line[key] for line in one["lines"] if line["name"] == name))


def ratio_of(one: dict[str, Any], name: str, digits: int = 1, *, with_range: bool = True) -> str:
    """A ratio with its range over the repetitions."""
    ratio = one["ratios"][name]
    text = f"{ratio['ratio']:.{digits}f}"
    low, high = (f"{value:.{digits}f}" for value in ratio["range"])
    return f"{text} ({low}-{high})" if with_range and low != high else text


def added_memory(one: dict[str, Any], name: str) -> float:
    """MiB at the peak of a line."""
    return float(next(line["peak_mb"] for line in one["lines"] if line["name"] == name))


def default_model(path: Path) -> list[str]:
    """What the default model costs, against RDKit's descriptors and two forests."""
    rdkit, forests = "RDKit CalcMolDescriptors", "random forests on counts and on descriptors"
    lean = "the 118 that members see beside a representation"
    labels = {
        ("SMILES -> answer", rdkit): {
            rdkit: "RDKit's `MolFromSmiles` and `CalcMolDescriptors`",
            "a model of the default recipe": "a model of the default recipe, with intervals and domain",
            "the 33 ready-made properties": "the 33 ready-made properties, with intervals and domain",
            "one student of the size of dnd-base": "one student of the size of `dnd-base`, values alone",
        },
        ("SMILES -> descriptors", rdkit): {
            "the same 217 in blocks": "the 217 descriptors in blocks",
            lean: f"{lean[:7]} descriptors{lean[7:]}",
        },
        ("table -> model", forests): {
            forests: "fit two random forests, on counts and on descriptors",
            "dnd finetune, with report and baselines": "the whole `dnd finetune`, with these forests and the report",
        },
    }
    rows = []
    for key, names in labels.items():
        one = bench_tables(path)[key]
        rows += [[label, f"{1000 * median_of(one, name):.3g}", ratio_of(one, name, 2)] for name, label in names.items()]
    return markdown_table(["what", "ms per molecule", "times as fast as the first of its kind (range)"], rows)


def graphs(path: Path) -> list[str]:
    """SMILES to graphs."""
    tables = bench_tables(path)
    title = "SMILES -> graph arrays"
    parse, ogb = tables[title, "RDKit MolFromSmiles"], tables[title, "ogb smiles2graph"]
    labels = {
        "RDKit MolFromSmiles": "RDKit `MolFromSmiles`",
        "graph, atoms as written": "graph, atoms as written (`dnd.graphs.fast.graphs.written_graphs`)",
        "graph, canonical order": "graph, canonical order",
        "ogb smiles2graph": "ogb `smiles2graph`",
    }
    rows = [
        [label, f"{1000 * median_of(parse, name):.3f}", f"{parse['ratios'][name]['ratio']:.2f}", ratio_of(ogb, name)]
        for name, label in labels.items()
    ]
    return markdown_table(["SMILES → graph", "ms per molecule", "of RDKit's parse rate", "of ogb's rate (range)"], rows)


def predictions(path: Path) -> list[str]:
    """SMILES to predictions, against the 3D route."""
    one = bench_tables(path)["SMILES -> prediction", "ETKDG + MMFF94s + teacher 8x256"]
    labels = {
        "ETKDG + MMFF94s + teacher 8x256": "ETKDG + MMFF94s + teacher 8x256 (20 molecules)",
        "dnd-base": "`dnd-base` (192 x 5)",
        "gine-small": "`gine-small` (128 x 4)",
        "gine": "`gine` (300 x 5)",
        "tokengt-small": "`tokengt-small` (128 x 6, 8 heads)",
        "tokengt-table5b": "`tokengt-table5b` (128 x 12, 32 heads)",
    }
    rows = [
        [label, f"{1000 * median_of(one, name):.3g}", ratio_of(one, name, 0), f"{added_memory(one, name):.0f}"]
        for name, label in labels.items()
    ]
    return markdown_table(
        ["SMILES → prediction", "ms per molecule", "times as fast as the 3D route (range)", "MiB added"], rows
    )


def stages(path: Path) -> list[str]:
    """Where a prediction's time goes."""
    names = ("dnd-base", "gine-small", "tokengt-small")
    tables = {name: bench_tables(path)[f"stages of {name}", f"{name}, whole"] for name in names}
    labels = {
        "graphs": "graphs in canonical order",
        "parse": "of which RDKit's parse",
        "store and batches": "store in memory and batches",
        "forward": "forward",
    }
    rows = []
    for stage, label in labels.items():
        shares = [100 * tables[name]["ratios"][stage]["ratio"] for name in names]
        rows.append([label, *(f"{share:.0f} %" if share >= 0.95 else f"{share:.1f} %" for share in shares)])
    return markdown_table(["Share of the whole", *(f"`{name}`" for name in names)], rows)


def training_steps(path: Path) -> list[str]:
    """TokenGT, packed against padded."""
    tables = bench_tables(path)
    padded, packed, sorted_ = "padded, random batches", "packed, random batches", "packed, batches by length"
    labels = {
        "tokengt-small, forward": "`tokengt-small` forward, 256 molecules, 128 a batch",
        "tokengt-small, training step": "`tokengt-small` training step",
        "tokengt-table5b, forward": "`tokengt-table5b` forward, 64 molecules a batch",
        "tokengt-table5b, training step": "`tokengt-table5b` training step",
    }
    rows = []
    for title, label in labels.items():
        one = tables[title, padded]
        speeds = [f"{one['ratios'][name]['ratio']:.1f} x" for name in (packed, sorted_)]
        memory = f"{added_memory(one, padded):.0f} → {added_memory(one, sorted_):.0f}"
        rows.append([label, f"{1000 * median_of(one, padded):.1f} ms", *speeds, memory])
    heads = ["TokenGT", "padded, random", "packed, random", "packed, by length", "MiB padded → packed"]
    return markdown_table(heads, rows)


def pipeline(path: Path) -> list[str]:
    """The share of reading in a step."""
    labels = {
        "teacher 128x6, denoising": "teacher 128 x 6, denoising",
        "tokengt-small, distillation, cached teacher": "`tokengt-small`, distillation, cached teacher",
        "gine-small, distillation, cached teacher": "`gine-small`, distillation, cached teacher",
    }
    rows = []
    for title, label in labels.items():
        one = bench_tables(path)[title, "training step"]
        shares = [
            100 * one["ratios"][name]["ratio"] for name in ("read and pack the batch", "plan the epoch, per step")
        ]
        step = f"{1000 * median_of(one, 'training step'):.3g} ms"
        rows.append([label, step, *(f"{share:.2g} %" for share in shares)])
    return markdown_table(["", "step", "read and pack", "plan"], rows)


def startup(path: Path) -> list[str]:
    """Whole processes."""
    one = bench_tables(path)["whole processes", "python, nothing imported"]
    labels = {
        "python, nothing imported": "python, nothing imported",
        "import dnd": "`import dnd`",
        "dnd --help": "`dnd --help`",
        "import torch": "`import torch`",
        "dnd predict, one molecule": "`dnd predict`, one molecule, `gine-small`",
    }
    rows = []
    for name, label in labels.items():
        times = [median_of(one, name, key) for key in ("seconds", "wall_seconds")]
        rows.append([label, *(f"{value:#.2g}" for value in times), f"{added_memory(one, name):.0f}"])
    return markdown_table(["", "CPU s", "clock s", "MiB"], rows)


def scaling_points(path: Path, axis: str) -> list[dict[str, str]]:
    """The measurements along one axis."""
    with open(path, newline="", encoding="utf-8") as stream:
        return [row for row in csv.DictReader(stream) if row["axis"] == axis]


def by_atoms(path: Path) -> list[str]:
    """Time and memory against the size of a molecule."""
    points = {(row["what"], row["value"]): row for row in scaling_points(path, "atoms")}
    names = list(dict.fromkeys(what for what, _ in points))
    rows = [
        [value, *(f"{float(points[name, value]['cpu_ms']):.2g}" if float(points[name, value]["cpu_ms"]) < 100
                  else f"{float(points[name, value]['cpu_ms']):.0f}" for name in names)]
        for value in dict.fromkeys(value for _, value in points)
    ]  # fmt: skip
    for row in rows:
        for place, name in enumerate(names, 1):
            memory = float(points[name, row[0]]["peak_mb"])
            row[place] += f" ({memory:.0f})" if memory >= 10 else f" ({memory:.1f})"
    heads = [f"`{name}`" if "teacher" not in name else "teacher 64 x 4" for name in names]
    return markdown_table(["Atoms", *heads], rows)


def by_molecules(path: Path) -> list[str]:
    """A training step against the size of the store."""
    rows = [
        [
            f"{int(row['value']):,}",
            f"{float(row['cpu_ms']):.0f}",
            f"{float(row['peak_mb']):.0f}",
            f"{float(row['own_mb']):.0f}",
        ]
        for row in scaling_points(path, "molecules")
    ]
    heads = ["Molecules in the store", "CPU ms per step of 64", "MiB at the peak", "of which its own at the end"]
    return markdown_table(heads, rows)


def by_rows(path: Path) -> list[str]:
    """A prediction against the length of its file."""
    rows = [
        [
            f"{int(row['value']):,}",
            f"{float(row['cpu_ms']):.2f}",
            f"{float(row['peak_mb']):.0f}",
            f"{float(row['own_mb']):.0f}",
        ]
        for row in scaling_points(path, "rows")
    ]
    return markdown_table(
        ["Rows of the file", "CPU ms per row", "MiB at the peak", "of which its own at the end"], rows
    )


DRAWN: dict[str, Callable[[Path], list[str]]] = {
    "default-model": default_model,
    "graphs": graphs,
    "predictions": predictions,
    "stages": stages,
    "training-steps": training_steps,
    "pipeline": pipeline,
    "startup": startup,
    "by-atoms": by_atoms,
    "by-molecules": by_molecules,
    "by-rows": by_rows,
}
