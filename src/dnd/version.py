"""The version, in a module of its own: the lowest room records it in every artefact, and `dnd/__init__` names all rooms."""

__version__ = "0.1.0"
