"""Students by name, their size, and encoder folders that are not what they should be."""

from __future__ import annotations

import builtins
import subprocess
import sys

import pytest
import torch

from dnd.common.errors import ConfigError, CorruptFileError, InputError
from dnd.common.model_folder import write_model
from dnd.models.students.base import StudentConfig, preset
from dnd.models.students.encoders import build_student, load_encoder


def test_weights_repeat_with_the_seed():
    states = []
    for _ in range(2):
        torch.manual_seed(5)
        states.append(build_student(StudentConfig("gine", 16, 2)).state_dict())
    assert all(torch.equal(first, second) for first, second in zip(*(state.values() for state in states), strict=True))


def test_size_of_the_paper_preset():
    """12 layers of 6 D² weights and the tables: about 43 million at width 768."""
    with torch.device("meta"):
        count = sum(p.numel() for p in build_student(preset("tokengt-paper")).parameters())
    assert 42e6 < count < 44e6


def test_a_student_of_billions_is_refused_before_it_is_allocated():
    with pytest.raises(ConfigError, match="too large"):
        build_student(StudentConfig("tokengt", 4096, 128, num_heads=32))


def test_counting_weights_loads_no_compiler():
    """Drawing from a distribution on the meta device imports torch._dynamo, half a second that no model needs."""
    code = (
        "import sys\n"
        "from dnd.models.students.base import StudentConfig\n"
        "from dnd.models.students.encoders import build_student\n"
        "for name in ('tokengt', 'pna', 'gine'): build_student(StudentConfig(name, 16, 1))\n"
        "assert 'torch._dynamo' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_initial_weights_of_tokengt():
    """N(0, 0.02) for matrices, tables and tokens, zero biases."""
    torch.manual_seed(0)
    student = build_student(StudentConfig(width=128, num_layers=2))
    for name, parameter in student.named_parameters():
        if parameter.ndim == 2 and parameter.numel() > 1000:
            assert float(parameter.detach().std()) == pytest.approx(0.02, rel=0.1), name
        elif "norm" not in name and parameter.ndim == 1:
            assert not parameter.any(), name


def test_initial_weights_of_pna():
    """Xavier-uniform with gain 1/inputs: bound √(6/(inputs + outputs))/inputs."""
    torch.manual_seed(0)
    weight = build_student(StudentConfig("pna", 64, 1)).layers[0].update.weight
    assert float(weight.detach().abs().max()) == pytest.approx((6 / (13 * 64 + 64)) ** 0.5 / (13 * 64), rel=0.01)


def test_without_torch_geometric_the_error_says_what_to_install(monkeypatch):
    plain_import = builtins.__import__

    def no_geometric(name, *arguments, **keywords):
        if name.startswith("torch_geometric"):
            raise ImportError(name)
        return plain_import(name, *arguments, **keywords)

    for name in [name for name in sys.modules if name.startswith("torch_geometric")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", no_geometric)
    with pytest.raises(ConfigError, match=r"pip install 'dnd-mol\[gnn\]'"):
        build_student(StudentConfig("gcn", 16, 1))


def test_folders_that_hold_no_encoder(tmp_path):
    with pytest.raises(InputError, match="not a folder"):
        load_encoder(tmp_path / "nothing")
    write_model(tmp_path / "teacher", kind="teacher", config={}, tensors={"model": {}}, card="")
    with pytest.raises(CorruptFileError, match="expected encoder"):
        load_encoder(tmp_path / "teacher")
    write_model(tmp_path / "empty", kind="encoder", config={}, tensors={"model": {}}, card="")
    with pytest.raises(CorruptFileError, match="names no student"):
        load_encoder(tmp_path / "empty")
