"""Sizes and meanings of OGB's 9 atom and 3 bond features; no RDKit here, so that a training machine needs none.

Source: Hu et al., "Open Graph Benchmark" (NeurIPS 2020), package ogb 1.3.6, `ogb/utils/features.py`. The last index
of a feature takes every value that is not listed, except for the last two atom features and for the bond stereo,
which OGB leaves without such an index.
"""

from __future__ import annotations

ATOM_FEATURE_NAMES = (
    "atomic_number",
    "chirality",
    "degree",
    "formal_charge",
    "num_hydrogens",
    "num_radical_electrons",
    "hybridization",
    "is_aromatic",
    "is_in_ring",
)
"""Columns of `node_features_NF`. Index 0 of `atomic_number` is hydrogen, index 5 of `formal_charge` is neutral."""

BOND_FEATURE_NAMES = ("bond_type", "bond_stereo", "is_conjugated")
"""Columns of `bond_features_MF`."""

ATOM_FEATURE_SIZES = (119, 5, 12, 12, 10, 6, 6, 2, 2)
"""Number of indices of each atom feature."""

BOND_FEATURE_SIZES = (5, 6, 2)
"""Number of indices of each bond feature."""

NUM_ATOM_FEATURES = len(ATOM_FEATURE_SIZES)
NUM_BOND_FEATURES = len(BOND_FEATURE_SIZES)

CHIRALITY_NAMES = ("CHI_UNSPECIFIED", "CHI_TETRAHEDRAL_CW", "CHI_TETRAHEDRAL_CCW", "CHI_OTHER")
HYBRIDIZATION_NAMES = ("SP", "SP2", "SP3", "SP3D", "SP3D2")
BOND_TYPE_NAMES = ("SINGLE", "DOUBLE", "TRIPLE", "AROMATIC")
BOND_STEREO_NAMES = ("STEREONONE", "STEREOZ", "STEREOE", "STEREOCIS", "STEREOTRANS", "STEREOANY")

NEUTRAL_CHARGE_INDEX = 5
"""`formal_charge` index minus this is the charge, from -5 to +5."""

FEATURE_VERSION = 1
"""Raised when the same molecule would get other features or another atom order; stores and models carry it."""
