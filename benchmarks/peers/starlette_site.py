"""starlette's StaticFiles, to be run by uvicorn with uvloop and httptools, which it uses when they are installed."""

# mypy: disable-error-code="import-not-found"
# The peers are not in the project's own venv.

from __future__ import annotations

import os

from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

app = Starlette(routes=[Mount("/", StaticFiles(directory=os.environ["SITE"]))])
