"""Kernel timings that TensorRT measured while building, kept for the next build; TensorRT-RTX measures none.

One file per library version and GPU in the user's cache folder. A digest in front of the content detects damage,
so that the library never parses a damaged file.
"""

import hashlib
from pathlib import Path

from platformdirs import user_cache_dir

from nerve_runtime.atomic import write_bytes_whole
from nerve_runtime.errors import ResourceError

DIGEST_BYTES = hashlib.sha256().digest_size


def timing_cache_path(backend_version: str, target: str, folder: Path | None = None) -> Path:
    """Where timings of a version such as "tensorrt 10.16.1.11" and a target such as "tensorrt-sm87" lie."""
    folder = folder or Path(user_cache_dir("nerve-deploy")) / "timing"
    return folder / f"{backend_version.replace(' ', '-')}-{target}.timings"


def read_timings(path: Path) -> tuple[bytes | None, str]:
    """The timings kept at `path`, None without usable ones, and a message where something is wrong."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None, ""
    except OSError as error:
        return None, f"timings of earlier builds cannot be read ({error}); this build measures anew"
    digest, timings = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
    if not timings or hashlib.sha256(timings).digest() != digest:
        return None, f"timings of earlier builds, {path}, are damaged; this build measures anew and replaces them"
    return timings, ""


def write_timings(path: Path, timings: bytes) -> str:
    """Keep timings; returns a message where that fails, which costs the next build time only."""
    try:
        write_bytes_whole(path, hashlib.sha256(timings).digest() + timings)
    except ResourceError as error:
        return f"timings of this build are not kept: {error}"
    return ""
