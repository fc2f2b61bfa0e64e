"""Settings of students: defaults filled in, foreign settings refused, sizes bounded before anything is allocated."""

from __future__ import annotations

import dataclasses

import pytest

from dnd.common.config import from_dict
from dnd.common.errors import ConfigError
from dnd.models.students.base import OPTIONAL_SETTINGS, PRESETS, StudentConfig, preset


def test_defaults_of_the_student_are_filled_in():
    config = StudentConfig()
    assert (config.name, config.width, config.num_heads, config.num_identifiers) == ("tokengt", 128, 8, 16)
    assert config.ffn_width == config.width
    assert config.final_norm is True
    assert config.virtual_node is None


@pytest.mark.parametrize("name", OPTIONAL_SETTINGS)
def test_settings_of_other_students_are_refused(name):
    values = {setting: value for own in OPTIONAL_SETTINGS.values() for setting, value in own.items()}
    foreign = values.keys() - OPTIONAL_SETTINGS[name].keys()
    assert foreign
    for setting in foreign:
        with pytest.raises(ConfigError, match=f"student {name} has no setting {setting}"):
            StudentConfig(name, **{setting: values[setting]})


def test_unknown_names_answer_with_the_nearest():
    with pytest.raises(ConfigError, match="graphsage"):
        StudentConfig("graphsaeg")
    with pytest.raises(ConfigError, match="tokengt-paper"):
        preset("tokengt-papre")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 0}, "width is out of range"),
        ({"width": 10**9}, "width is out of range"),
        ({"num_layers": -1}, "num_layers is out of range"),
        ({"num_heads": 0}, "num_heads is out of range"),
        ({"num_heads": 7}, "not a multiple of num_heads"),
        ({"ffn_width": 10**9}, "ffn_width is out of range"),
        ({"num_identifiers": 10**6}, "num_identifiers is out of range"),
        ({"dropout": 1.0}, "dropout is out of range"),
        ({"drop_path": -0.1}, "drop_path is out of range"),
        ({"name": "pna", "batch_norm_momentum": 0.0}, "batch_norm_momentum is out of range"),
        ({"identifiers": "orf", "identifier_dropout": 0.5}, "Laplacian identifiers only"),
    ],
)
def test_values_out_of_range_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        StudentConfig(**settings)


def test_settings_given_as_words_of_the_command_line():
    config = from_dict(StudentConfig, {"width": "64", "num_heads": "4", "final_norm": "false", "drop_path": "0.1"})
    assert config == StudentConfig(width=64, num_heads=4, final_norm=False, drop_path=0.1)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_a_record(name):
    assert from_dict(StudentConfig, dataclasses.asdict(preset(name))) == preset(name)


def test_the_paper_preset():
    paper = preset("tokengt-paper")
    assert (paper.num_layers, paper.width, paper.num_heads, paper.ffn_width) == (12, 768, 32, 768)
    assert (paper.identifiers, paper.num_identifiers, paper.identifier_dropout) == ("laplacian", 16, 0.2)
