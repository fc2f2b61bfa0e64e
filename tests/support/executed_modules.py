"""Which files of the package a command executes: `python tests/support/executed_modules.py VERB WORDS...`.

The verb runs in this process with the arguments given; then the files of `dnd` that Python has executed are printed,
one a line, and their number last. Empty `__init__.py` files are left out: nothing in them runs.
"""

from __future__ import annotations

import sys
from pathlib import Path


def executed() -> list[str]:
    """Files of the package that this process has executed, relative to it."""
    paths = {
        Path(file)
        for name, module in list(sys.modules.items())
        if name.split(".")[0] == "dnd" and (file := getattr(module, "__file__", None))
    }
    return sorted(path.as_posix().rpartition("/dnd/")[2] for path in paths if path.stat().st_size)


if __name__ == "__main__":
    from dnd.cli.main import main

    sys.argv = ["dnd", *sys.argv[1:]]
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise
    files = executed()
    print(*files, len(files), sep="\n")
