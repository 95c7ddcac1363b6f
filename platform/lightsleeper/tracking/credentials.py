"""Whether W&B has a key on this machine; the key itself is never read into a variable of ours."""

import netrc
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

HOST = "https://api.wandb.ai"


def key_source(environ: Mapping[str, str] = os.environ) -> str | None:
    """Where a W&B key was found (the name of the place, never the key), or None."""
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        if environ.get(name):
            return name
    host = urlsplit(environ.get("WANDB_BASE_URL") or HOST).netloc
    files = [Path(environ["NETRC"])] if environ.get("NETRC") else [Path.home() / ".netrc", Path.home() / "_netrc"]
    for file in files:
        with suppress(OSError, netrc.NetrcParseError):
            if netrc.netrc(str(file)).hosts.get(host):
                return file.name
    return None
