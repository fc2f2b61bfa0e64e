"""--skip-nonfinite and --allow-change: every verb that trains has them, as settings of its loop."""

from __future__ import annotations

import inspect

import pytest

from dnd.cli.main import load_verb
from dnd.cli.options import loop_words
from dnd.common.config import load_config
from dnd.common.errors import ConfigError
from dnd.pretraining.denoise import DenoiseConfig


@pytest.mark.parametrize("verb", ["denoise", "distill", "contrast", "pretrain", "finetune"])
def test_every_verb_that_trains_has_them(verb: str) -> None:
    function = load_verb(verb)
    assert {"resume", "skip_nonfinite", "allow_change"} <= inspect.signature(function).parameters.keys()


def test_they_are_settings_of_the_loop() -> None:
    assert loop_words(None, False) == []
    loop = load_config(DenoiseConfig, "tiny", loop_words(3, True), stage="denoise").loop
    assert (loop.skip_nonfinite, loop.allow_change) == (3, True)
    with pytest.raises(ConfigError, match="skip_nonfinite is out of range: found -1, expected at least 0"):
        load_config(DenoiseConfig, None, loop_words(-1, False))


@pytest.mark.parametrize("verb", ["denoise", "distill", "contrast", "pretrain", "finetune"])
def test_the_device_is_a_setting_of_the_loop(verb: str) -> None:
    function = load_verb(verb)
    assert "device" in inspect.signature(function).parameters
    assert load_config(DenoiseConfig, "tiny", loop_words(None, False, "cpu"), stage="denoise").loop.device == "cpu"


@pytest.mark.parametrize("verb", ["demo", "prepare", "finetune", "predict", "screen", "embed", "evaluate", "explain"])
def test_verbs_that_share_out_work_have_jobs(verb: str) -> None:
    assert "jobs" in inspect.signature(load_verb(verb)).parameters
