"""uvicorn's configuration, with what its protocols share here."""

from __future__ import annotations

from typing import Any

import uvicorn
from starlette.types import ASGIApp

from realtime.limits import Handshakes


class Config(uvicorn.Config):
    """uvicorn's configuration, and what its protocols share here."""

    def __init__(self, app: ASGIApp, *, handshakes: Handshakes, **given: Any) -> None:
        super().__init__(app, **given)
        self.handshakes = handshakes
