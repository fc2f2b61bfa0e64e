"""Ways in which a sealed folder goes bad; each is one damage that must be found before anything in it is used."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

Damage = tuple[str, Callable[[Path], None]]


def damages(sealed: Path, other: Path, *, truncations: int, flips: int, seed: int = 1) -> Iterator[Damage]:
    """Name and deed of each damage to the folder `sealed`; a deed is done to a copy of it.

    Args:
        sealed: an intact folder with a manifest.
        other: an intact folder of the same kind with other content.
        truncations: per file, at random lengths beside 0 and one byte less.
        flips: per file, of random bits.
        seed: of the positions.
    """
    draw = random.Random(seed)
    members = sorted(path.name for path in sealed.iterdir() if path.is_file() and not path.name.startswith("."))
    for name in members:
        size = (sealed / name).stat().st_size
        for length in {0, size - 1, *(draw.randrange(size) for _ in range(truncations))}:
            yield f"{name} cut to {length} of {size} bytes", _truncate(name, length)
        for _ in range(flips):
            position = draw.randrange(size * 8)
            yield f"{name} bit {position} flipped", _flip(name, position)
        yield f"{name} one page zeroed", _zero_page(name, draw.randrange(size))
        yield f"{name} one byte longer", _append(name)
        yield f"{name} deleted", lambda folder, name=name: (folder / name).unlink()
        yield f"{name} is a folder", _folder_instead(name)
        yield f"{name} is a link", _link_instead(name, sealed)
        if (other / name).read_bytes() != (sealed / name).read_bytes():
            yield f"{name} of another", lambda folder, name=name: shutil.copy(other / name, folder / name)
    for first, second in pairwise(members):
        yield f"{first} and {second} swapped", _swap(first, second)


def damaged_copy(sealed: Path, target: Path, deed: Callable[[Path], None]) -> Path:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(sealed, target)
    deed(target)
    return target


def _truncate(name: str, length: int) -> Callable[[Path], None]:
    return lambda folder: os.truncate(folder / name, length)


def _flip(name: str, position: int) -> Callable[[Path], None]:
    def flip(folder: Path) -> None:
        data = bytearray((folder / name).read_bytes())
        data[position // 8] ^= 1 << (position % 8)
        (folder / name).write_bytes(data)

    return flip


def _zero_page(name: str, start: int) -> Callable[[Path], None]:
    def zero(folder: Path) -> None:
        data = bytearray((folder / name).read_bytes())
        begin = start // 4096 * 4096
        data[begin : begin + 4096] = bytes(len(data[begin : begin + 4096]))
        (folder / name).write_bytes(data)

    return zero


def _append(name: str) -> Callable[[Path], None]:
    def append(folder: Path) -> None:
        with open(folder / name, "ab") as stream:
            stream.write(b"\n")

    return append


def _folder_instead(name: str) -> Callable[[Path], None]:
    def replace(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return replace


def _link_instead(name: str, sealed: Path) -> Callable[[Path], None]:
    def link(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to(sealed / name)

    return link


def _swap(first: str, second: str) -> Callable[[Path], None]:
    def swap(folder: Path) -> None:
        (folder / first).rename(folder / "third")
        (folder / second).rename(folder / first)
        (folder / "third").rename(folder / second)

    return swap
