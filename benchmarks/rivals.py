"""Two published systems rebuilt from public packages, as rivals of `fast` and `best` in `benchmarks/compare.py`.

MapLight (arXiv 2310.00174; repository maplightrx/MapLight-TDC, read at c249378c): CatBoost's defaults but a random
strength of 2, on Morgan counts (radius 2, 1,024), Avalon counts (1,024), the ErG fingerprint (315) and 200 of RDKit's
descriptors, fitted to all labelled rows. Absolute loss for standardised values, log loss for classes.

The support vector machine of MoleculeACE (van Tilborg et al., J. Chem. Inf. Model. 2022): an RBF kernel on Morgan bits
(radius 2, 1,024), with C and gamma chosen by five folds of the training molecules from a coarser grid than theirs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Avalon.pyAvalonTools import GetAvalonCountFP
from rdkit.Chem import Descriptors, rdFingerprintGenerator, rdReducedGraphs

BITS = 1024
_ERG = 315  # length of that fingerprint
# What RDKit computes today beyond the 200 descriptors of the list that MapLight took over from descriptastorus.
NEWER = {
    *(name for name, _ in Descriptors.descList if name.startswith("BCUT2D")),
    *("AvgIpc", "SPS", "Phi", "NumAmideBonds", "NumAtomStereoCenters", "NumBridgeheadAtoms", "NumHeterocycles"),
    *("NumSpiroAtoms", "NumUnspecifiedAtomStereoCenters"),
}
SVM_GRID = {"C": [1.0, 10.0, 100.0], "gamma": [0.001, 0.01, 0.1], "epsilon": [0.1]}


def maplight(
    smiles: Sequence[str], targets_BC: np.ndarray, train: np.ndarray, test: np.ndarray, task: str, seed: int
) -> np.ndarray:
    """Predictions of the rows `test`, a column per target: values, or probabilities of class 1."""
    from catboost import CatBoostClassifier, CatBoostRegressor

    x_BF = np.array([_maplight_features(text) for text in smiles], dtype=np.float32)
    found_BC = np.tile(np.nan_to_num(np.nanmean(targets_BC[train], axis=0)), (len(test), 1))
    common = {"random_strength": 2, "random_seed": seed, "thread_count": 1, "verbose": 0, "allow_writing_files": False}
    for column, y_B in enumerate(targets_BC.T):
        known = train[~np.isnan(y_B[train])]
        if len(np.unique(y_B[known])) < 2:
            continue
        if task == "classification":
            model = CatBoostClassifier(loss_function="Logloss", **common).fit(x_BF[known], y_B[known])
            found_BC[:, column] = model.predict_proba(x_BF[test])[:, 1]
        else:
            mean, deviation = y_B[known].mean(), y_B[known].std()
            model = CatBoostRegressor(loss_function="MAE", **common).fit(x_BF[known], (y_B[known] - mean) / deviation)
            found_BC[:, column] = model.predict(x_BF[test]) * deviation + mean
    return found_BC


def support_vectors(
    smiles: Sequence[str], targets_BC: np.ndarray, train: np.ndarray, test: np.ndarray, task: str, seed: int
) -> np.ndarray:
    """Predictions of the rows `test`, a column per target: values, or distances from the boundary."""
    from sklearn.model_selection import GridSearchCV, KFold
    from sklearn.svm import SVC, SVR

    x_BF = np.array([_bits(text) for text in smiles], dtype=np.float32)
    found_BC = np.tile(np.nan_to_num(np.nanmean(targets_BC[train], axis=0)), (len(test), 1))
    for column, y_B in enumerate(targets_BC.T):
        known = train[~np.isnan(y_B[train])]
        if len(np.unique(y_B[known])) < 2:
            continue
        folds = KFold(5, shuffle=True, random_state=seed)
        if task == "classification":
            grid = {name: values for name, values in SVM_GRID.items() if name != "epsilon"}
            search = GridSearchCV(SVC(), grid, scoring="roc_auc", cv=folds).fit(x_BF[known], y_B[known])
            found_BC[:, column] = search.decision_function(x_BF[test])
        else:
            search = GridSearchCV(SVR(), SVM_GRID, scoring="neg_root_mean_squared_error", cv=folds)
            found_BC[:, column] = search.fit(x_BF[known], y_B[known]).predict(x_BF[test])
    return found_BC


def _maplight_features(smiles: str) -> np.ndarray:
    if (mol := _molecule(smiles)) is None:
        return np.zeros(2 * BITS + _ERG + len(Descriptors.descList) - len(NEWER))
    values = [function(mol) for name, function in Descriptors.descList if name not in NEWER]
    counts = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=BITS).GetCountFingerprintAsNumPy(mol)
    avalon = np.zeros(BITS)
    for place, count in GetAvalonCountFP(mol, nBits=BITS).GetNonzeroElements().items():
        avalon[place] = count
    fresh = Chem.Mol(mol, True)  # ErG reads beyond a matrix of distances that the descriptors left in the molecule
    return np.concatenate([counts, avalon, rdReducedGraphs.GetErGFingerprint(fresh), values])


def _bits(smiles: str) -> np.ndarray:
    mol = _molecule(smiles) or Chem.Mol()
    return rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=BITS).GetFingerprintAsNumPy(mol)


def _molecule(smiles: str) -> Chem.Mol | None:
    """None for what RDKit refuses (HIV has three): its features are zeros, as the systems have no answer for it."""
    with rdBase.BlockLogs():
        return Chem.MolFromSmiles(smiles)
