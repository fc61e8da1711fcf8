"""Opens the page of a run; can be imported without the extra `web`."""

import threading
from importlib.util import find_spec
from typing import TYPE_CHECKING

from nerve_runtime import CompatibilityError
from nerve_runtime.drawing import OverlayStyle
from nerve_stream.monitoring.health import Health
from nerve_stream.pipeline import StreamControl
from nerve_stream.web.address import OPTION, parse_page_address

if TYPE_CHECKING:
    from nerve_stream.web.live_page import LivePage

PACKAGES = ("starlette", "uvicorn", "websockets")
"""What the extra `web` installs."""


def open_page(
    address: str, style: OverlayStyle, health: Health, control: StreamControl, stop: threading.Event
) -> "LivePage":
    """Serve the page of a run; see `LivePage`.

    Args:
        address: the value of `--web`.
        style: of the overlays of this run.
        health: of the run.
        control: pauses the run.
        stop: of the run; once it is set the page ends.

    Raises:
        UsageError: the address is none.
        CompatibilityError: a package is missing.
        ResourceError: the address cannot be used.
    """
    where = parse_page_address(address)
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise CompatibilityError(
            f'{OPTION} needs {", ".join(missing)} (not installed); run: pip install "nerve-deploy[web]"'
        )
    from nerve_stream.web.live_page import LivePage

    return LivePage(where, style, health, control, stop)
