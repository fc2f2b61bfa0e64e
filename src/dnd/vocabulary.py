"""The one alphabet of array axes, and every array that one room hands to another: name, shape, unit, meaning.

An array's name ends in its axes, a letter each: `atoms_ND` has a row for each atom and a column for each place of its
representation. A digit is a length that never changes (`positions_A3`). Capitals run over a whole batch, table or
store; a small letter is the length of that axis within one item, padded to the longest where items are stacked:
`real_Bn` says for each molecule which of its n places are atoms. Symbols in equations are the equation's own.

A name means the same wherever it crosses: `targets_BC` has the same axes, unit and gaps in a batch, in a table and in
an objective. A new array takes letters from here; what has no letter yet is X, or gets one here, never in its own file.
`tests/unit/test_vocabulary.py` holds the package to this.
"""

from __future__ import annotations

from typing import NamedTuple

ALPHABET: dict[str, str] = {
    "A": "atoms of conformers, hydrogens included",
    "B": "molecules of a batch, of a table or of a part of it; a row each",
    "C": "targets: columns that are measured, calculated, learned or predicted, and a model's outputs for them",
    "D": "width of a representation",
    "E": "directed bonds, and ordered pairs of atoms that are the edges of a network",
    "F": "features: indices of an atom or a bond, descriptors, fingerprint bits, columns of a store",
    "G": "groups that are treated at once: molecules of one size, members under one name",
    "H": "heads of attention",
    "I": "identifiers: the columns that tell a molecule's atoms apart",
    "J": "repeats of the same thing: conformers of a molecule, draws of a bootstrap",
    "K": "classes: of a target, of elements or atom types, bins of a distance",
    "L": "layers of a network",
    "M": "members of an ensemble, trees of a forest",
    "N": "atoms of molecular graphs",
    "P": "pairs: of atoms, unordered unless the text says otherwise, and of bonds that share an atom",
    "R": "radial functions, frequencies",
    "S": "a chosen part of the axis that would stand here: columns that vary, rows that have a value",
    "T": "tokens of a batch, one molecule after another",
    "U": "undirected bonds, each counted once",
    "V": "a second set beside B or J: references, one part of the data, variants of a molecule",
    "X": "items without a letter of their own: terms of a loss, nodes of a tree, atoms or bonds or molecules alike",
    "Z": "cells of a padded or tiled layout",
    "c": "columns of a tile",
    "d": "width of one head",
    "e": "bonds of one atom",
    "i": "identifiers of one molecule's atoms, at most as many as it has atoms",
    "n": "atoms of one molecule, or of the largest where molecules are padded",
    "r": "rows of a tile",
    "t": "tokens of one molecule, or of the largest where molecules are padded",
    "u": "undirected bonds of one molecule",
}


class Array(NamedTuple):
    """An array that crosses a room.

    Attributes:
        name: name of the field, property, argument or function (then with `()`) that hands it over.
        kind: `float`, `int` or `bool`.
        axes: a letter or a number each; `B + 1` are boundaries: item b lies between entries b and b + 1.
        unit: unit of its values; empty = without one.
        meaning: what an entry is.
    """

    name: str
    kind: str
    axes: tuple[str, ...]
    unit: str
    meaning: str


def _array(name: str, kind: str, axes: str, meaning: str, unit: str = "") -> Array:
    return Array(name, kind, tuple(part.strip() for part in axes.split(",") if part.strip()), unit, meaning)


_ANGSTROM, _TARGET = "angstrom", "the target's"

ARRAYS: dict[str, tuple[Array, ...]] = {
    "common": (
        _array("local", "int", "B", "place of a row within the shard that holds it, shard by shard"),
        _array("place", "int", "B", "place of the same row in the request"),
        _array("shards", "int", "X", "number of each shard that is touched"),
        _array("offsets", "int", "B + 1", "where each row's values begin and end in a list column"),
        _array("bounds", "int", "X + 1", "where the rows of each touched shard begin and end in `local`"),
        _array("offsets_of()", "int", "B + 1", "boundaries of items that follow one another, from their lengths"),
        _array("ragged_range()", "int", "X", "places of all values of the chosen rows of a list column"),
    ),
    "chemistry": (
        _array("train", "int", "B", "places of the training molecules in the table"),
        _array("valid", "int", "B", "places of the validation molecules"),
        _array("test", "int", "B", "places of the test molecules"),
        _array("fingerprint()", "float", "F", "how often each place of a folded fingerprint is set"),
        _array("node_features_NF", "int", "N, F", "OGB's nine features of each atom; the first is Z - 1"),
        _array("bonds_U2", "int", "U, 2", "atoms at both ends of each bond, begin before end"),
        _array("bond_features_UF", "int", "U, F", "OGB's three features of each bond, as indices"),
        _array("positions_JA3", "float", "J, A, 3", "where each atom is in each conformer of a molecule", _ANGSTROM),
        _array("lengths_U", "float", "U", "length of each bond", _ANGSTROM),
        _array("numbers_U2", "int", "U, 2", "atomic numbers of both ends of each bond"),
        _array("conformer_order()", "int", "A", "atom of the given conformer at each place of our order"),
    ),
    "tables": (
        _array("atomic_numbers_A", "int", "A", "element of each conformer atom; graph atoms first, then hydrogens"),
        _array("positions_A3", "float", "A, 3", "where each conformer atom is", _ANGSTROM),
    ),
    "graphs": (
        _array("edge_index_2E", "int", "2, E", "source and target atom of each directed bond, over the batch"),
        _array("edge_features_EF", "int", "E, F", "the features of each directed bond"),
        _array("atom_offsets", "int", "B + 1", "where each molecule's atoms begin and end"),
        _array("edge_offsets", "int", "B + 1", "where each molecule's directed bonds begin and end"),
        _array("bond_offsets", "int", "B + 1", "where each molecule's bonds begin and end"),
        _array("readable_B", "bool", "B", "whether the other arrays are true of a molecule"),
        _array("atoms_per_molecule_B", "int", "B", "graph atoms of each molecule"),
        _array("batch_N", "int", "N", "molecule of each atom"),
        _array("batch_A", "int", "A", "molecule of each conformer atom"),
        _array("edge_batch_E", "int", "E", "molecule of each directed bond"),
        _array("graph_atoms_N", "int", "N", "conformer atom of each graph atom"),
        _array("targets_BC", "float", "B, C", "labels, NaN = missing; in a batch on the learned scale", _TARGET),
        _array("rows_B", "int", "B", "row of each molecule in its source, from 0"),
        _array("values_XD", "float", "X, D", "states of packed items, a molecule's one after another"),
        _array("vectors_NI", "float", "N, I", "identifiers of each atom"),
        _array("molecule_index()", "int", "X", "molecule of each packed item"),
        _array("padding_index()", "int", "B, n", "packed item at each place of a padded layout; which are real"),
        _array("mean_per_molecule()", "float", "B, D", "mean of each molecule's items"),
        _array("laplacian_identifiers()", "float", "N, I", "Laplacian eigenvectors with signs that are fixed"),
        _array("orthonormal_identifiers()", "float", "N, I", "rows of a random orthonormal matrix"),
        _array("random_walk_identifiers()", "float", "N, I", "chance that a random walk is back after 1, 2 … steps"),
    ),
    "conformers": (
        _array("generated_JA3", "float", "J, A, 3", "conformers that were made before the store", _ANGSTROM),
        _array("source_A", "int", "A", "atom of the input that each conformer atom was"),
        _array("molecule_C", "float", "C", "a molecule's quantum values, as in `QUANTITIES`", "see `quantum.py`"),
        _array("atoms_N2", "float", "N, 2", "Mulliken charge and share of the energy of each atom", "e and kcal/mol"),
        _array("bonds_U", "float", "U", "Wiberg order of each bond"),
        _array("bond_orders_U", "float", "U", "Wiberg order of each bond"),
    ),
    "store": (
        _array("targets", "float", "C", "labels of a row; NaN = missing", _TARGET),
        _array("places", "int", "B", "place in the request of each molecule that could be read"),
        _array("num_conformers_of()", "int", "B", "conformers of each row"),
        _array("places_with_conformers()", "int", "B", "place of a row among those with conformers; -1 = it has none"),
        _array("targets_of()", "float", "B, C", "labels of rows; NaN = missing", _TARGET),
        _array("sample()", "int", "B", "drawn training rows"),
        _array("every()", "int", "B", "all training rows"),
    ),
    "models": (
        _array("atoms_ND", "float", "N, D", "the student's representation of each atom"),
        _array("virtual_BD", "float", "B, D", "state of the graph token or virtual node"),
        _array("scalars_AD", "float", "A, D", "the teacher's invariant representation of each conformer atom"),
        _array("vectors_A3D", "float", "A, 3, D", "the teacher's vectors, which turn with the molecule"),
        _array("layers", "float", "A, D", "state of each atom after a layer; a list of all layers"),
        _array("tokens", "float", "B, D", "state of a molecule's token after a layer; a list of all layers"),
        _array("atoms_N", "int", "N", "place of each atom's token among all tokens"),
        _array("edges_E", "int", "E", "place of each directed bond's token among all tokens"),
        _array("lengths", "int", "B", "tokens of each molecule, in packed order"),
        _array("molecules", "int", "B", "molecule of the batch at each place of the packed order"),
        _array("scores_Htt", "float", "H, t, t", "attention of query to key before the softmax"),
        _array("weights_Htt", "float", "H, t, t", "attention after it; rows sum to 1"),
        _array("pool()", "float", "B, D", "representation of each molecule"),
        _array("standardised()", "float", "B, C", "ready-made properties: deviations from the mean, logits"),
    ),
    "training": (
        _array("losses_X", "float", "X", "mean of each term of a loss, times its factor"),
        _array("weights_X", "float", "X", "how many things each of these means had"),
        _array("rows_BD", "float", "B, D", "vectors of a process's own molecules"),
        _array("gather_rows()", "float", "B, D", "those of all processes, in the order of the processes"),
    ),
    "predictor": (
        _array("x_BF", "float", "B, F", "features of each molecule, all sets side by side"),
        _array("y_B", "float", "B", "labels as a classical member learns them", "about one deviation"),
        _array("columns_S", "int", "S", "features that are used"),
        _array("mean_S", "float", "S", "their training means"),
        _array("std_S", "float", "S", "their training deviations"),
        _array("embedding_BD", "float", "B, D", "representation of each molecule, as a set of features"),
        _array("labels_B", "float", "B", "labels of one target", _TARGET),
        _array("scores_B", "float", "B", "what grows with the chance of class 1"),
        _array("codes_B", "float", "B", "number of each molecule's class; NaN = missing"),
        _array("labels_BC", "float", "B, C", "labels; NaN = missing", _TARGET),
        _array("predictions_BC", "float", "B, C", "values in their units, or probabilities of class 1", _TARGET),
        _array("outputs_BC", "float", "B, C", "a network's outputs: values in deviations, logits of classes"),
        _array("values_BC", "float", "B, C", "values of each target, NaN = unknown; the text says on which scale"),
        _array("judged_BC", "float", "B, C", "values on the scale on which the target is learned and judged"),
        _array("values_GBC", "float", "G, B, C", "predictions under each name"),
        _array("weights_GC", "float", "G, C", "weight of each name for each target"),
        _array("weights_MC", "float", "M, C", "weight of each member for each target; columns sum to 1"),
        _array("similarity_B", "float", "B", "Tanimoto similarity to the nearest molecule that was learned from"),
        _array("spread_BC", "float", "B, C", "how far members disagree", _TARGET),
        _array("values", "float", "B, K", "predictions of one target, or of each of its K classes", _TARGET),
        _array("molecule_B", "int", "B", "number of the molecule of a row, the same for replicates"),
        _array("predict_values()", "float", "B, C", "predictions; NaN = no usable molecule", _TARGET),
        _array("one_hot()", "float", "B, K", "1 in the column of the class"),
        _array("weighted_spread()", "float", "B, C", "deviation between names, each with its weight", _TARGET),
        _array("weighted_mean()", "float", "B, C", "mean over members on the learned scale, mapped back", _TARGET),
        _array("to_raw_units()", "float", "B, C", "outputs as values in their units and probabilities", _TARGET),
        _array("count_fingerprints()", "float", "B, F", "counts of Morgan environments"),
        _array("descriptors_2d()", "float", "B, F", "RDKit's descriptors of the graph"),
        _array("representation()", "float", "B, D", "what the applicability domain measures distances in"),
    ),
    "finetuning": (
        _array("features_BF", "float", "B, F", "features of all molecules"),
        _array("exact_BC", "float", "B, C", "labels that are no limits; NaN = missing", _TARGET),
        _array("weight_B", "float", "B", "how much each molecule's labels count; the median is 1"),
        _array("labels_of_model()", "float", "B, C", "labels of a table in the columns that a model has", _TARGET),
    ),
    "report": (_array("atoms_N", "float", "N", "contribution of each atom to one prediction", _TARGET),),
    "interface": (_array("embed()", "float", "B, D", "representation of each molecule"),),
}
"""By the room that makes them, from the bottom of the house to its top."""
