"""Write the types of all settings from the dataclasses into `recipes/settings.json`: run this file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dnd.common.config import described_type
from dnd.finetuning.compress import CompressConfig
from dnd.finetuning.settings import FinetuneConfig
from dnd.pretraining.baselines.infomax3d import ContrastConfig
from dnd.pretraining.denoise import DenoiseConfig
from dnd.pretraining.settings import DistillConfig, PretrainConfig
from dnd.reproduction.pretraining_labels import BaseConfig

TABLE = Path(__file__).parents[2] / "src" / "dnd" / "recipes" / "settings.json"
STAGES: dict[str, Any] = {
    "base": BaseConfig,
    "compress": CompressConfig,
    "contrast": ContrastConfig,
    "denoise": DenoiseConfig,
    "distill": DistillConfig,
    "finetune": FinetuneConfig,
    "pretrain": PretrainConfig,
}


def settings_table() -> str:
    """The text of the file, a line for each setting and each table of settings."""
    stages = []
    for stage, config in STAGES.items():
        kind, settings = described_type(config)
        lines = [f"  {json.dumps(name)}: {json.dumps(described)}" for name, described in settings.items()]
        stages.append(f'{json.dumps(stage)}: ["{kind}", {{\n' + ",\n".join(lines) + "\n}]")
    return "{\n" + ",\n".join(stages) + "\n}\n"


if __name__ == "__main__":
    TABLE.write_text(settings_table(), encoding="utf-8")
