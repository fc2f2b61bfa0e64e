"""`dnd distill`, `dnd contrast`, `dnd pretrain`: what they print and leave, and one clear line for what is wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from distillation_toys import toy_row, toy_teacher_folder
from dnd.chemistry.molecule import FEATURE_VERSION
from dnd.cli.main import main
from dnd.common.files import write_manifest
from dnd.models.students.encoders import load_encoder
from dnd.store.schema import SCHEMA_VERSION
from dnd.store.writer import shard_name, write_shard

SMALL = ["loop.device=cpu", "loop.batch_size=8"]


def store_folder(folder: Path, hydrogens: str = "heavy_both") -> str:
    folder.mkdir()
    write_shard(folder / shard_name(0), [toy_row(index, hydrogens, 1) for index in range(40)])
    extra = {
        "settings": {"hydrogens": hydrogens},
        "target_columns": ["energy", "rare"],
        "feature_version": FEATURE_VERSION,
    }
    write_manifest(folder, kind="store", format_version=SCHEMA_VERSION, extra=extra)
    return str(folder)


def command(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    printed = capsys.readouterr()
    return int(stopped.value.code or 0), printed.out, printed.err


def test_distill_prints_loss_variance_and_r2_and_leaves_an_encoder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, teacher = store_folder(tmp_path / "store"), str(toy_teacher_folder(tmp_path / "teacher"))
    words = ["distill", store, "--teacher", teacher, "-o", str(tmp_path / "e"), "--recipe", "tiny", *SMALL]
    code, out, err = command(capsys, *words, "--level", "graph", "--student", "gine", "student.width=8")
    assert code == 0, err
    assert "variance" in out
    assert "R²" in out
    assert "held-out  graph" in out
    student, config = load_encoder(tmp_path / "e")
    assert (config["level"], student.width) == ("graph", 8)


def test_contrast_and_pretrain_leave_encoders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = store_folder(tmp_path / "store")
    tail = ["--recipe", "tiny", *SMALL, "loop.epochs=1"]
    for name, words in {
        "contrast": ["contrast", store],
        "graphcl": ["pretrain", store, "--method", "graphcl"],
        "propred": ["pretrain", store, "--method", "propred", "target=energy"],
    }.items():
        code, out, err = command(capsys, *words, "-o", str(tmp_path / name), *tail)
        assert code == 0, err
        assert "valid loss" in out
        load_encoder(tmp_path / name)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--level", "nod"], "Did you mean node?"),
        (["--student", "tokengpt"], "tokengt"),
        (["--recipe", "smal"], "distill-small|unknown recipe"),
        (["loop.epoch=3"], "epochs"),
        (["terms.task=1"], "must be given together"),
    ],
)
def test_a_wrong_word_is_one_line_with_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    store, teacher = store_folder(tmp_path / "store"), str(toy_teacher_folder(tmp_path / "teacher"))
    code, _, err = command(capsys, "distill", store, "--teacher", teacher, "-o", str(tmp_path / "e"), *words)
    assert code == 2
    assert len(err.strip().splitlines()) == 1
    assert any(part in err for part in message.split("|"))
    assert not (tmp_path / "e").exists()


def test_a_store_with_other_hydrogens_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = store_folder(tmp_path / "store", "teacher_all_student_heavy")
    teacher = str(toy_teacher_folder(tmp_path / "teacher"))
    code, _, err = command(capsys, "distill", store, "--teacher", teacher, "-o", str(tmp_path / "e"))
    assert code == 2
    assert "teacher_all_student_heavy" in err
    assert "heavy_both" in err


def test_pretrain_base_refuses_a_setting_before_it_loads_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from dnd.cli.main import main\n"
        "try: main(['pretrain-base', *sys.argv[1:]])\n"
        "except SystemExit as end: assert end.code == 2, end.code\n"
        "assert 'torch' not in sys.modules\n"
    )
    words = ["--inputs", "none.npz", "-o", str(tmp_path / "base"), "denoise.teacher.widht=96"]
    found = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert "unknown setting denoise.teacher.widht. Did you mean denoise.teacher.width" in found.stderr
    assert not (tmp_path / "base").exists()
