"""What is handed out: wheel and sdist as built, the Dockerfile's steps, the conda recipe, one version everywhere.

The image itself is built where an engine is, the conda package where a channel is; neither is here.
"""

from __future__ import annotations

import email
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import dnd

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base"}
WHEEL = f"dnd_mol-{dnd.__version__}"
LIMIT_WHEEL_BYTES = 16 * 2**20
needs_build = pytest.mark.skipif(
    any(shutil.which(name, path=Path(sys.executable).parent) is None for name in ("hatchling", "twine")),
    reason="hatchling and twine, of the extra `test`, are not installed",
)


def lines(name: str) -> list[str]:
    return [line.strip() for line in (ROOT / name).read_text(encoding="utf-8").splitlines()]


def run(*words: object, **options: object) -> str:
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, f"{words}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return str(done.stdout)


def test_one_version_everywhere() -> None:
    assert f"version: {dnd.__version__}" in lines("CITATION.cff")
    assert f'version: "{dnd.__version__}"' in lines("packaging/conda/recipe.yaml")
    assert any(line.startswith(f"## {dnd.__version__} ") for line in lines("CHANGELOG.md"))
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?", dnd.__version__)


def test_the_versions_that_are_tested_are_in_the_ranges_that_are_asked_for() -> None:
    from packaging.requirements import Requirement

    tested = dict(line.split("==") for line in lines("constraints.txt") if line and not line.startswith("#"))
    extras = PROJECT["project"]["optional-dependencies"].values()
    for text in [*PROJECT["project"]["dependencies"], *(text for extra in extras for text in extra)]:
        requirement = Requirement(text)
        if requirement.name in tested:
            assert requirement.specifier.contains(tested[requirement.name]), text


# Wheel and sdist.


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a wheel and an sdist, built from this checkout without a network."""
    folder = tmp_path_factory.mktemp("dist")
    run(
        sys.executable,
        "-m",
        "build",
        "--no-isolation",
        "--outdir",
        folder,
        ROOT,
        env={**os.environ, "TMPDIR": str(folder)},
    )
    return folder


@needs_build
@pytest.mark.timeout(600)
def test_the_wheel_holds_the_package_and_its_licence_and_nothing_else(built: Path) -> None:
    with zipfile.ZipFile(built / f"{WHEEL}-py3-none-any.whl") as wheel:
        names = set(wheel.namelist())
        metadata = email.message_from_bytes(wheel.read(f"{WHEEL}.dist-info/METADATA"))
        scripts = wheel.read(f"{WHEEL}.dist-info/entry_points.txt").decode()
        licence = wheel.read(f"{WHEEL}.dist-info/licenses/LICENSE")
    package = {
        path.relative_to(ROOT / "src").as_posix()
        for path in (ROOT / "src" / "dnd").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    about = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"}
    assert names == package | {f"{WHEEL}.dist-info/{name}" for name in about}
    assert {"dnd/py.typed", "dnd/data/README.md", "dnd/data/encoders/dnd-base/model.safetensors"} <= package
    assert licence == (ROOT / "LICENSE").read_bytes()
    assert (metadata["Name"], metadata["Version"]) == ("dnd-mol", dnd.__version__)
    assert (metadata["License-Expression"], metadata["License-File"]) == ("MIT", "LICENSE")
    assert metadata["Requires-Python"] == PROJECT["project"]["requires-python"]
    assert set(metadata.get_all("Provides-Extra")) == set(PROJECT["project"]["optional-dependencies"])
    assert scripts.split() == ["[console_scripts]", "dnd", "=", "dnd.__main__:main"]
    assert (built / f"{WHEEL}-py3-none-any.whl").stat().st_size < LIMIT_WHEEL_BYTES


@needs_build
@pytest.mark.timeout(600)
def test_the_sdist_holds_what_the_tests_need(built: Path) -> None:
    with tarfile.open(built / f"{WHEEL}.tar.gz") as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    wanted = {
        "PKG-INFO",
        "LICENSE",
        "README.md",
        "CITATION.cff",
        "Dockerfile",
        ".dockerignore",
        ".importlinter",
        ".ci/run",
    }
    assert wanted <= names
    for folder in ("src", "tests", "docs", "benchmarks", "data", "packaging"):
        paths = [path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
        assert not {path.relative_to(ROOT).as_posix() for path in paths} - names
    assert not [name for name in names if "__pycache__" in name or name.startswith((".venv", ".git/"))]


@needs_build
@pytest.mark.timeout(600)
def test_the_index_would_show_both(built: Path) -> None:
    run(sys.executable, "-m", "twine", "check", "--strict", *sorted(built.glob("dnd_mol-*")))


# The conda recipe.


def test_the_recipe_has_the_ranges_and_the_entry_points_of_the_package() -> None:
    recipe = lines("packaging/conda/recipe.yaml")
    project = PROJECT["project"]
    asked = dict(line.removeprefix("- ").split(" ", 1) for line in section(recipe, "run:", "tests:"))
    wanted = {"python": project["requires-python"]}
    for requirement in project["dependencies"]:
        name = requirement.partition(">=")[0]
        wanted[CONDA_NAMES.get(name, name)] = requirement.removeprefix(name)
    assert asked == wanted
    host = [line.removeprefix("- ").replace(" ", "") for line in section(recipe, "host:", "run:")]
    assert host == [f"python{project['requires-python']}", "pip", *PROJECT["build-system"]["requires"]]
    points = [line.removeprefix("- ") for line in section(recipe, "entry_points:", "requirements:")]
    assert points == [f"{name} = {place}" for name, place in project["scripts"].items()]
    assert f"license: {project['license']}" in recipe
    assert [f"license_file: {name}" for name in project["license-files"]] == [recipe[-1]]
    assert f"name: {project['name']}" in recipe


def section(recipe: list[str], start: str, end: str) -> list[str]:
    return [line for line in recipe[recipe.index(start) + 1 : recipe.index(end)] if line]


# The Dockerfile, stage by stage.


def instructions() -> Iterator[tuple[int, str, str]]:
    """Stage, instruction and argument of each step, its continued lines joined."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    stage = 0
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip():
            word, _, argument = line.strip().partition(" ")
            stage += word == "FROM"
            yield stage, word, argument


def test_the_image_is_built_from_files_that_are_there_with_the_tested_torch() -> None:
    steps = list(instructions())
    copied = [name for stage, word, rest in steps if (stage, word) == (1, "COPY") for name in rest.split()[:-1]]
    let_through = [line.removeprefix("!") for line in lines(".dockerignore") if line.startswith("!")]
    assert sorted(copied) == sorted(let_through)
    assert all((ROOT / name).exists() for name in copied)
    (torch,) = [line for line in lines("constraints.txt") if line.startswith("torch==")]
    assert any(torch in rest.split() for _, word, rest in steps if word == "RUN")
    images = {rest.split()[0] for _, word, rest in steps if word == "FROM"}
    (version,) = {re.fullmatch(r"python:(3\.\d+)-slim", image)[1] for image in images}  # type: ignore[index]
    assert set(re.findall(r"python(3\.\d+)/", " ".join(rest for _, _, rest in steps))) == {version}
    assert f"Programming Language :: Python :: {version}" in PROJECT["project"]["classifiers"]
    assert [(word, rest) for _, word, rest in steps[-2:]] == [("ENTRYPOINT", '["dnd"]'), ("CMD", '["--help"]')]
    assert [word for stage, word, _ in steps if stage == 2 and word in ("COPY", "USER")] == ["COPY", "USER"]


@needs_build
@pytest.mark.timeout(900)
def test_the_steps_of_the_image_make_a_dnd_that_predicts_and_serves(tmp_path: Path) -> None:
    """The first stage runs as it stands, in folders of its own; packages of this environment stand in for an index."""
    places = {"/opt/dnd": tmp_path / "opt" / "dnd", "/source": tmp_path / "source"}
    plain = os.pathsep.join([str(places["/opt/dnd"] / "bin"), str(Path(sys.executable).parent), "/usr/bin", "/bin"])
    offline = {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    environment = {"PATH": plain, "HOME": str(tmp_path), "OMP_NUM_THREADS": "1", **offline}
    ran = 0
    for stage, word, rest in instructions():
        for place, folder in places.items():
            rest = rest.replace(place, str(folder))
        if (stage, word) == (1, "COPY"):
            *names, target = rest.split()
            for name in names:
                place = Path(target) / (name if len(names) > 1 else "")
                place.parent.mkdir(parents=True, exist_ok=True)
                copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
                copy(ROOT / name, place)  # type: ignore[operator]
        if (stage, word) == (1, "RUN"):
            run("bash", "-euo", "pipefail", "-c", rest, env=environment, cwd=tmp_path)
            ran += 1
            here = places["/opt/dnd"] / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
            for old in here.glob("setuptools*"):
                shutil.rmtree(old)  # of a venv before Python 3.12; that of the image has none
            (here / "index.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    assert ran == 3
    command, work = places["/opt/dnd"] / "bin" / "dnd", tmp_path / "work"
    work.mkdir()
    (work / "two.csv").write_text("smiles\nCCO\nc1ccccc1O\n")
    options = {"env": environment, "cwd": work}
    place = run(places["/opt/dnd"] / "bin" / "python", "-c", "import dnd; print(dnd.__file__)", **options)
    assert Path(place.strip()).is_relative_to(places["/opt/dnd"])
    assert run(command, "--version", **options).split()[-1] == dnd.__version__
    run(command, "predict", "two.csv", "-m", ROOT / "tests" / "golden" / "predictor-blend", "-o", "out.csv", **options)
    assert len((work / "out.csv").read_text().splitlines()) == 3
    assert "--port" in run(command, "serve", "--help", **options)
