"""`python -m dnd` is the command `dnd`, for a source tree that is not installed."""

from dnd.cli.main import main

if __name__ == "__main__":
    main()
