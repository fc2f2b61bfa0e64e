"""The evaluation line: loss, variance and R² beside each other, constants once, everything else by name."""

from __future__ import annotations

from dnd.training.logs import evaluation_text

NODE = {
    "step": 40, "epoch": 2,
    "valid_loss": 0.0241, "valid_node_loss": 0.0241, "valid_node_variance": 0.426, "valid_node_r2": 0.943427,
    "valid_lookup_loss": 0.0439, "valid_lookup_r2": 0.897,
    "train_loss": 0.0198, "train_node_loss": 0.0198, "train_node_variance": 0.43, "train_node_r2": 0.954,
    "train_lookup_loss": 0.04, "train_lookup_r2": 0.9,
}  # fmt: skip


def test_a_term_has_loss_variance_and_r2_of_both_parts_in_one_line() -> None:
    assert evaluation_text(NODE) == (
        "valid node: loss 0.0241 variance 0.426 R² 0.943 | train: loss 0.0198 variance 0.43 R² 0.954; lookup R² 0.897"
    )


def test_several_terms_have_a_line_each_and_their_sum() -> None:
    graph = {key.replace("node", "graph"): value for key, value in NODE.items() if "node" in key}
    first, second = evaluation_text({**NODE, **graph}).splitlines()
    assert first.startswith("valid node: loss")
    assert second.startswith("    valid graph: loss")
    assert second.endswith("; valid_loss 0.0241, train_loss 0.0198, lookup R² 0.897")


def test_other_stages_have_their_numbers_by_name() -> None:
    assert evaluation_text({"step": 1, "held_out_loss": 0.4321, "trivial": 1.0}) == "held_out_loss 0.4321  trivial 1"
