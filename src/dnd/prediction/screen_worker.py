"""The part of a screen that runs in a worker process: rows of any input → columns of predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dnd.chemistry.limits import LIMITS
from dnd.chemistry.molblock import parse_molblock
from dnd.common.errors import DndError
from dnd.common.model_folder import read_model
from dnd.common.seeds import set_threads
from dnd.finetuning.predictor_folder import KIND
from dnd.prediction.predictor import ERROR, Predictor
from dnd.prediction.screen_source import Candidate
from dnd.prediction.table import Column


def make_screener(model: str, digest: str) -> Callable[[Sequence[Candidate]], dict[str, Column]]:
    """Load the model, once per process, and return the function of a chunk; one thread, on the CPU.

    The function's columns are those of `Predictor.predict`. A row with a problem is not looked at; its problem is its
    error. SMILES of mol blocks are canonical; those too long to be read are cut off.

    Args:
        model: MODEL folder.
        digest: of its manifest when the screen began; a worker that starts later must have the same model.

    Raises:
        DndError: the folder holds another model now.
    """
    set_threads(1)
    folder = read_model(model, kind=KIND)
    if folder.manifest["digest"] != digest:
        raise DndError(f"{model} was replaced while it was used", next_step="Screen again into another folder")
    predictor = Predictor.of(folder, device="cpu")

    def screen_chunk(chunk: Sequence[Candidate]) -> dict[str, Column]:
        smiles, problems = zip(*map(_smiles, chunk), strict=True)
        table = predictor.predict(["" if problem else text for text, problem in zip(smiles, problems, strict=True)])
        errors = [problem or reason for problem, reason in zip(problems, table[ERROR], strict=True)]
        return {**table, "smiles": [text[: LIMITS.text_bytes] for text in smiles], ERROR: errors}

    return screen_chunk


def _smiles(candidate: Candidate) -> tuple[str, str | None]:
    if not candidate.is_block:
        return candidate.text, candidate.problem
    if candidate.problem is not None:
        return "", candidate.problem
    outcome = parse_molblock(candidate.text).outcome
    return (outcome.smiles, None) if outcome.ok else ("", outcome.reason)
