"""Write the pins from what is installed in the environment that runs this: `python requirements/pin.py`.

`embed.txt` is what an application that embeds the thin runtime needs, `run.txt` what `nerve-segment` needs, `dev.txt`
is everything but `scale.txt`, which is what Ray and the client of Triton need, `deploy.txt`, which is what checks
docker/ and deploy/, and `docs.txt`, which is what `make docs` needs. Each lists every package that is needed directly or by another one, at exactly the installed version.
`jetson.txt` and `triton-image.txt` were resolved for other machines and are not written here.
"""

import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info < (3, 11):
    raise SystemExit("pin.py reads pyproject.toml with tomllib: run it with Python 3.11 or newer")

import tomllib

FOLDER = Path(__file__).resolve().parent
DEV_EXTRAS = ("stream", "export", "ort", "parity", "bench", "openvino", "native", "web")
SCALE_EXTRAS = ("ray", "triton")
# Of extra `rtx` only what runs without a GPU: the compiler, and bindings whose signatures the fake is compared with.
DEV_ADDED = ("cuda-bindings", "tensorrt-rtx")
HEADER = """\
# Written by requirements/pin.py from an environment that passed the tests (Python {python}). Do not edit.
# {purpose}
"""


def pins(roots: Iterable[str]) -> list[str]:
    """Pin the given requirements and, through their metadata, all that they need on this platform.

    Returns:
        Lines `name==version`, sorted, without local version labels (`+cpu` exists on no other index).

    Raises:
        SystemExit: one of them is not installed.
    """
    versions: dict[str, str] = {}
    waiting = [need for root in roots if _applies(need := Requirement(root))]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if (name, frozenset(requirement.extras)) in seen:
            continue
        seen.add((name, frozenset(requirement.extras)))
        try:
            installed = distribution(name)
        except PackageNotFoundError as error:
            raise SystemExit(f"{name} is needed but not installed here: install it, then run this again") from error
        versions[name] = installed.version.partition("+")[0]
        waiting += [
            need for text in installed.requires or () if _applies(need := Requirement(text), requirement.extras)
        ]
    return [f"{name}=={version}" for name, version in sorted(versions.items())]


def _applies(requirement: Requirement, extras: Iterable[str] = ()) -> bool:
    """Whether a requirement counts on this platform, for one of the extras asked for or for none."""
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras))


def main() -> None:
    """Write the six files beside this one."""
    settings = tomllib.loads((FOLDER.parent / "pyproject.toml").read_text())
    base, extras = settings["project"]["dependencies"], settings["project"]["optional-dependencies"]
    named = [line for extra in DEV_EXTRAS for line in extras[extra] if not line.startswith("nerve-deploy")]
    everything = [*base, *named, *DEV_ADDED, *settings["dependency-groups"]["dev"]]
    _write(
        "embed.txt",
        "What an application needs that embeds the thin runtime, with ONNX Runtime.",
        [*base, *extras["ort"]],
    )
    _write(
        "run.txt",
        "What nerve-segment needs: the above and the extra `stream`.",
        [*base, *extras["stream"], *extras["ort"]],
    )
    scale = [line for extra in SCALE_EXTRAS for line in extras[extra]]
    _write("scale.txt", "What Ray and the client of Triton need, beside dev.txt.", scale)
    _write("deploy.txt", "What checks docker/ and deploy/, beside dev.txt.", settings["dependency-groups"]["deploy"])
    _write("docs.txt", "What makes the pages of docs/, beside dev.txt.", settings["dependency-groups"]["docs"])
    _write("dev.txt", "Everything: build, measure, test. PyTorch's CPU build is enough.", everything)


def _write(name: str, purpose: str, roots: list[str]) -> None:
    python = ".".join(map(str, sys.version_info[:2]))
    lines = pins(roots)
    (FOLDER / name).write_text(HEADER.format(python=python, purpose=purpose) + "\n".join(lines) + "\n")
    sys.stdout.write(f"{name}: {len(lines)} packages\n")


if __name__ == "__main__":
    main()
