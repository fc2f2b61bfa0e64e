"""The lines that a finished pretraining prints."""

from __future__ import annotations

from dnd.distillation.encoder_folder import PretrainSummary

_PARTS = (("valid", "held-out"), ("train", "training"))


def report(summary: PretrainSummary) -> str:
    """A table of the kept weights' metrics: one row per term and part, then all other numbers."""
    if not summary.finished:
        return f"{summary.folder}: stopped by loop.stop_after_s; the same command with --resume goes on"
    metrics = dict(summary.metrics)
    lines = []
    for part, what in _PARTS:
        names = [
            key.removeprefix(f"{part}_").removesuffix("_variance")
            for key in metrics
            if key.startswith(f"{part}_") and key.endswith("_variance")
        ]
        for name in [*names, "lookup"]:
            if f"{part}_{name}_r2" in metrics:
                loss, r2 = metrics.pop(f"{part}_{name}_loss"), metrics.pop(f"{part}_{name}_r2")
                variance = metrics.pop(f"{part}_{name}_variance", metrics.get(f"{part}_node_variance"))
                lines.append((what, name, loss, variance, r2))
    table = [
        f"{what:9} {name:14} {loss:9.4g} {'' if variance is None else format(variance, '9.4g'):>9} {r2:7.3f}"
        for what, name, loss, variance, r2 in lines
    ]
    if table:
        table.insert(0, f"{'part':9} {'term':14} {'loss':>9} {'variance':>9} {'R²':>7}")
    rest = [f"{name.replace('_', ' ')}: {value:.4g}" for name, value in sorted(metrics.items())]
    return "\n".join([*table, *rest, f"encoder: {summary.folder}"])
