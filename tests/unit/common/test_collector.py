"""What is loaded to stay is not looked through by the collector, which works as before for the rest."""

from __future__ import annotations

import gc
import weakref

import pytest

from dnd.common.compute import kept_to_the_end


class Node:
    def __init__(self) -> None:
        self.itself = self


def test_what_is_made_inside_is_kept_and_what_is_made_after_is_collected():
    before = gc.get_freeze_count()
    try:
        with kept_to_the_end():
            assert not gc.isenabled()
            loaded = weakref.ref(Node())
        assert gc.isenabled()
        assert gc.get_freeze_count() > before
        later = weakref.ref(Node())
        gc.collect()
        assert loaded() is not None
        assert later() is None
    finally:
        gc.unfreeze()


def test_the_collector_goes_on_after_an_error_and_stays_off_where_it_was():
    try:
        with pytest.raises(ValueError, match="no model"), kept_to_the_end():
            raise ValueError("no model")
        assert gc.isenabled()
        gc.disable()
        with kept_to_the_end():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
        gc.unfreeze()
