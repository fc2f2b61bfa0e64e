"""The installed command in a fresh process: help, refusals, exit codes, start-up."""

from __future__ import annotations

import contextlib
import functools
import inspect
import io
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from dnd.cli.main import FAMILIES, VERBS, _Verbs, build_app, load_verb, main
from dnd.cli.options import heed_machine_options
from dnd.common import files
from dnd.common.errors import ConfigError
from dnd.common.files import folder_lock, write_bytes, write_manifest

DND = str(Path(sys.executable).with_name("dnd"))


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [DND, *words], capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **environment}
    )


def test_help_names_every_verb() -> None:
    result = run("--help", COLUMNS="120")
    assert result.returncode == 0
    assert all(verb in result.stdout for verb in VERBS)


def test_help_begins_with_what_a_table_needs() -> None:
    shown = run("--help", COLUMNS="120").stdout
    places = [shown.index(f" {verb} ") for verb in ("check", "finetune", "predict", "serve", "prepare", "demo")]
    assert places == sorted(places)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str) -> None:
    result = run(verb, "--help")
    assert result.returncode == 0, result.stderr
    assert f"dnd {verb}" in result.stdout
    assert verb in ("analyse", "bench") or all(name in result.stdout for name in ("--quiet", "--verbose", "--log-file"))


@pytest.mark.parametrize(("words", "frozen"), [("", True), ("['info', '--help']", False)])
def test_the_end_of_the_command_searches_no_objects_and_a_caller_keeps_its_collector(words: str, frozen: bool) -> None:
    code = (
        "import gc, sys; from dnd.cli.main import main; sys.argv = ['dnd', 'info', '--help']\n"
        f"try: main({words})\n"
        "except SystemExit: print('frozen', gc.get_freeze_count() > 0)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.splitlines()[-1] == f"frozen {frozen}"


def test_every_verb_is_in_one_family() -> None:
    assert sorted(verb for verbs in FAMILIES.values() for verb in verbs) == sorted(VERBS)


@pytest.mark.parametrize("verb", ["analyse", "bench"])
def test_verbs_of_a_verb_have_the_options_of_all(verb: str) -> None:
    for _ in range(2):  # the application of the verb is one object, however often it is built
        build_app(verb)
    for command in load_verb(verb).registered_commands:
        names = list(inspect.signature(command.callback).parameters)
        assert names[-3:] == ["quiet", "verbose", "log_file"]
        assert names.count("device") == names.count("jobs") == 1
        assert not hasattr(command.callback.__wrapped__, "__wrapped__")


def commands_of(verb: str) -> dict[str, Any]:
    """The commands of a verb by name: one, or those of a verb of verbs."""
    found = typer.main.get_command(build_app(verb)).commands[verb]  # type: ignore[attr-defined]
    return {f"{verb} {name}": own for name, own in getattr(found, "commands", {}).items()} or {verb: found}


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_takes_the_four_options_of_all(verb: str) -> None:
    for name, command in commands_of(verb).items():
        by_flag = {flag: option for option in command.params for flag in option.opts}
        assert {"--device", "--jobs", "-q", "-v"} <= set(by_flag), name
        assert all(by_flag[flag].help for flag in ("--device", "--jobs")), name


def test_verbs_that_choose_no_device_and_start_no_process_say_so() -> None:
    for verb in ("check", "export", "doctor", "info", "properties"):
        (command,) = commands_of(verb).values()
        said = {option.name: option.help for option in command.params}
        assert said["device"] == "Changes nothing: this verb uses the CPU alone."
        assert said["jobs"] == "Changes nothing: this verb uses one process."
    assert "torchrun" in next(o.help for o in commands_of("denoise")["denoise"].params if o.name == "jobs")


def test_what_changes_nothing_is_said_and_nonsense_is_refused() -> None:
    found = run("info", "--device", "cuda", "--jobs", "4")
    assert found.returncode == 0
    assert "note: --device cuda changes nothing: dnd info uses the CPU" in found.stderr
    assert "note: --jobs 4 changes nothing: dnd info uses one process" in found.stderr
    for harmless in (
        ("--device", "cpu", "--jobs", "1"),
        ("--device", "auto", "--jobs", "0"),
        ("--jobs", "4", "-q"),
    ):
        assert run("info", *harmless).stderr == ""
    for wrong, message in ((("--device", "foo"), "unknown device"), (("--jobs", "-1"), "jobs must be at least 0")):
        refused = run("info", *wrong)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert message in refused.stderr


def test_the_device_of_a_verb_that_trains_by_itself_is_the_one_that_auto_means(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    heed_machine_options("info", "cpu", None)
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    heed_machine_options("reproduce", "auto", None)
    heed_machine_options("analyse labels", "cpu", None)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "-1"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    with pytest.raises(ConfigError, match="CUDA_VISIBLE_DEVICES=1 before the command"):
        heed_machine_options("demo", "cuda:1", None)


def test_an_interrupt_before_the_verb_is_reached_says_what_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*words: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(_Verbs, "make_context", interrupted)
    with folder_lock(tmp_path):  # by a command before this one in the same process
        (tmp_path / "kept").touch()
    with pytest.raises(SystemExit) as end:
        main(["evaluate", "data.csv", "-m", "model"])
    assert end.value.code == 130
    assert capsys.readouterr().err == (
        "dnd: stopped before the end, so there is no complete result; run the command again\n"
    )


def test_an_interrupt_while_the_command_is_imported_is_one_line() -> None:
    code = (
        "import os, signal, sys, dnd.__main__\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a job in the background ignores it
        "class Interrupting:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'typer': os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupting())\n"
        "dnd.__main__.main()\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (found.returncode, found.stdout) == (130, "")
    assert found.stderr == "dnd: stopped before the start; run the command again\n"


@pytest.mark.parametrize(
    ("number", "is_ignored"), [(signal.SIGTERM, False), (signal.SIGHUP, False), (signal.SIGHUP, True)]
)
def test_a_signal_leaves_no_half_written_file(tmp_path: Path, number: int, is_ignored: bool) -> None:
    out = tmp_path / "p.csv"
    code = (
        "import functools, os, signal, sys\n"
        "from pathlib import Path\n"
        "from dnd.cli import installation, main\n"
        "from dnd.common.files import replacing\n"
        "def verb(**options):\n"
        f"    with replacing(Path({str(out)!r})):\n"
        f"        os.kill(os.getpid(), {int(number)})\n"
        "installation.info = functools.wraps(installation.info)(verb)\n"
        f"signal.signal({int(number)}, signal.SIG_IGN if {is_ignored} else signal.SIG_DFL)\n"  # ignored as by nohup
        "sys.argv = ['dnd', 'info']\n"
        "main.main()\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    if is_ignored:
        assert (found.returncode, [path.name for path in tmp_path.iterdir()]) == (0, ["p.csv"])
        return
    assert (found.returncode, list(tmp_path.iterdir())) == (128 + number, [])
    assert found.stderr == "dnd: stopped before the end, so there is no complete result; run the command again\n"


def test_quiet_and_verbose_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["info", "-q", "-v"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "dnd: -q and -v contradict each other. Leave one of them out\n"


def test_a_log_file_has_the_command_and_what_ended_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["doctor", str(tmp_path), "--log-file", str(tmp_path / "run.log")]
    monkeypatch.setattr(sys, "argv", ["dnd", *words])
    with pytest.raises(SystemExit):
        main(words)
    first, last = (tmp_path / "run.log").read_text().splitlines()
    assert first.endswith(f"DEBUG command: dnd {' '.join(words)}")
    assert f"DEBUG ended by InputError: {tmp_path} has no manifest.json" in last
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_an_unknown_verb_is_refused_with_the_nearest() -> None:
    result = run("finetun")
    assert result.returncode == 2
    assert "finetune" in result.stderr


def test_help_and_import_load_nothing_heavy() -> None:
    """Start-up is kept short by what is not imported; counts, not seconds."""
    code = (
        "import sys, dnd, dnd.cli.main as m\n"
        "try: m.build_app(None)(args=['--help'], prog_name='dnd')\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'rdkit', 'sklearn', 'pyarrow', 'matplotlib', 'numpy', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr


def test_doctor_finds_a_flipped_bit(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    write_bytes(folder / "shard-00000.arrow", b"x" * 1000)
    write_manifest(folder, kind="store", format_version=1)
    sound = run("doctor", str(folder))
    assert (sound.returncode, sound.stdout.splitlines()[-1]) == (0, "sound")
    (folder / "shard-00000.arrow").write_bytes(b"x" * 999 + b"y")
    torn = run("doctor", str(folder))
    assert torn.returncode == 1
    assert "shard-00000.arrow was altered" in torn.stderr


def test_doctor_on_a_strange_folder_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    result = run("doctor", str(tmp_path))
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert "has no manifest.json" in result.stderr


def interrupted(verb: str, words: list[str], monkeypatch: pytest.MonkeyPatch, folder: Path | None) -> str:
    """What Ctrl-C in a verb says, with `folder` as the one that it works in; None = it has none."""
    lock = contextlib.nullcontext() if folder is None else folder_lock(folder)

    def stop(**options: object) -> None:
        with lock:
            raise KeyboardInterrupt

    loaded = load_verb(verb)
    if isinstance(loaded, typer.Typer):
        for command in loaded.registered_commands:
            monkeypatch.setattr(command, "callback", functools.wraps(command.callback)(stop))
    else:
        module = sys.modules[loaded.__module__]
        monkeypatch.setattr(module, loaded.__name__, functools.wraps(loaded)(stop))
    monkeypatch.setattr(files, "_last_held", [])
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), pytest.raises(SystemExit) as end:
        main([verb, *words])
    assert end.value.code == 130
    return errors.getvalue()


@pytest.mark.parametrize(
    ("line", "more"),
    [
        ("prepare in.smi -o out", " --resume"),
        ("denoise store -o out", " --resume"),
        ("distill store -o out --teacher teacher", " --resume"),
        ("contrast store -o out", " --resume"),
        ("finetune 'my table.csv' -o out --target-columns y", " --resume"),
        ("screen in.smi -m model -o out", " --resume"),
        ("screen in.smi -m model -o out --resume", ""),
        ("pretrain-base --inputs a.sdf -o out", ""),
        ("reproduce table1 -o out", ""),
        ("demo -o out", ""),
    ],
)
def test_ctrl_c_says_what_is_kept_and_how_to_resume(
    line: str, more: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verb, *words = shlex.split(line)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "run.json").touch()
    said = interrupted(verb, words, monkeypatch, tmp_path / "out")
    assert said == f"dnd: stopped; finished work is kept in {tmp_path / 'out'}. To resume: dnd {line}{more}\n"
    said = interrupted(verb, words, monkeypatch, tmp_path / "empty")
    assert said == "dnd: stopped before the end, so there is no complete result; run the command again\n"


@pytest.mark.parametrize(
    "line", ["predict in.csv -m model", "embed in.csv -o x.npy", "check in.csv", "doctor out", "info"]
)
def test_ctrl_c_in_a_verb_that_keeps_nothing(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    verb, *words = shlex.split(line)
    said = interrupted(verb, words, monkeypatch, None)
    assert said == "dnd: stopped before the end, so there is no complete result; run the command again\n"
