"""Starts postmasters under a supervisor that does what it is told (harness/sharing.py)."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from harness.sharing import Sharer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from harness.installations import Installation, Place


class Share(Protocol):
    def __call__(self, installation: Installation, /, **more: Any) -> Sharer: ...


@pytest.fixture(scope="module")
def data_dirs() -> dict[Installation, Path]:
    """One for each installation: whatever a test did to it, the next start recovers."""
    return {}


@pytest.fixture
def share(place: Place, data_dirs: dict[Installation, Path]) -> Iterator[Share]:
    """Starts a sharer, which ends with the test: one in a test."""
    with ExitStack() as stack:

        def begin(installation: Installation, /, **more: Any) -> Sharer:
            if installation not in data_dirs:
                data_dirs[installation] = place.data_dir(installation)
            return stack.enter_context(Sharer(installation, place, data_dir=data_dirs[installation], **more))

        yield begin


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack
