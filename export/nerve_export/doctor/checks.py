"""`nerve-build doctor`: what is installed, what can be built and run here, what to install for what is missing.

Looks at files and package metadata; imports none of the libraries, which would take seconds, or fail, or touch the GPU.
"""

import json
import mmap
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Annotated

import typer

from nerve_export.doctor.inventory import BUNDLES, BundleState, ExtraState, found_bundles, found_extras, found_weights
from nerve_export.doctor.rules import GB, REPORTED, Ability, Facts, Finding, Gpu, abilities, findings
from nerve_ref.weights.files import HubNetwork
from nerve_runtime.bundle.hub import fetched_bundles
from nerve_runtime.errors import CompatibilityError

ASK_GPU = ("nvidia-smi", "--query-gpu=name,compute_cap,memory.total,driver_version", "--format=csv,noheader,nounits")
ASK_GPU_TIMEOUT_S = 5
MIB = 1 << 20
DRIVER_FOLDER = Path("/proc/driver/nvidia/gpus")
JETSON_RELEASE = Path("/etc/nv_tegra_release")
JETSON_MODEL = Path("/proc/device-tree/model")
JETSON_CAPABILITIES = {"Orin": "sm87", "Thor": "sm110", "Xavier": "sm72"}
LIBRARY_CACHE = Path("/etc/ld.so.cache")
CUDA_PROVIDER = "onnxruntime/capi/libonnxruntime_providers_cuda.so"
PROVIDER_HEAD_BYTES = 8 << 20
"""The names that a library is linked with stand near its beginning; the provider is some hundred megabytes long."""
CUDA_LIBRARIES = re.compile(rb"lib(?:cudart|cublas|cublasLt|cudnn|cufft|curand|nvrtc)\.so\.\d+")
MARKS = {"problem": "WRONG", "missing": "MISSING", "note": "NOTE"}


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON line per fact, ability and finding.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Also hash every file of the bundles.")] = False,
) -> None:
    """Say what is installed, what can be built and run here, and what to do about what is missing.

    Exit codes: 0 something can be built or run here, 4 nothing can.
    """
    facts = gather_facts()
    folders = (BUNDLES, *sorted(fetched_bundles().glob("*/")))
    bundles = tuple(state for folder in folders for state in found_bundles(folder, verify=verify))
    weights, extras = found_weights(), found_extras()
    able, problems = abilities(facts), findings(facts)
    lines = _json_lines(facts, able, problems) if as_json else _lines(facts, able, problems)
    lines += _inventory_json(bundles, weights, extras) if as_json else _inventory(bundles, weights, extras)
    for line in lines:
        typer.echo(line)
    if not any(ability.possible for ability in able):
        raise CompatibilityError("nothing can be built or run here; the lines above say what to install")


def gather_facts() -> Facts:
    """Look at this machine; takes a fraction of a second."""
    gpus, driver = _gpus()
    memory = _memory_bytes()
    return Facts(
        python=tuple(sys.version_info[:3]),
        system=f"{platform.system()} {platform.machine()}",
        packages={name: number for name in REPORTED if (number := _version(name))},
        gpus=gpus,
        driver=driver,
        jetpack=_jetpack(),
        memory_bytes=memory.get("MemTotal", 0),
        free_memory_bytes=memory.get("MemAvailable", 0),
        free_disk_bytes=shutil.disk_usage(Path.cwd()).free,
        missing_libraries=_missing_cuda_libraries(),
    )


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _gpus() -> tuple[tuple[Gpu, ...], str | None]:
    """NVIDIA GPUs and the driver's version: from nvidia-smi, or from the system's files."""
    if JETSON_RELEASE.is_file():
        return _jetson_gpu(), None
    if shutil.which(ASK_GPU[0]) is not None:
        try:
            answer = subprocess.run(ASK_GPU, capture_output=True, text=True, timeout=ASK_GPU_TIMEOUT_S, check=True)
        except (OSError, subprocess.SubprocessError):
            return _gpus_by_files(), None
        return parsed_gpus(answer.stdout)
    return _gpus_by_files(), None


def parsed_gpus(answer: str) -> tuple[tuple[Gpu, ...], str | None]:
    """GPUs and driver version out of nvidia-smi's lines "name, compute capability, MiB, driver".

    >>> parsed_gpus("NVIDIA L4, 8.9, 23034, 570.1")[0][0].capability
    'sm89'
    """
    gpus, driver = [], None
    for line in answer.splitlines():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) != len(ASK_GPU[1].split(",")):
            continue
        name, capability, memory, driver = parts
        known = re.fullmatch(r"\d+\.\d", capability)
        gpus.append(
            Gpu(
                name,
                f"sm{capability.replace('.', '')}" if known else None,
                int(memory) * MIB if memory.isdigit() else None,
            )
        )
    return tuple(gpus), driver


def _gpus_by_files() -> tuple[Gpu, ...]:
    gpus = []
    for path in sorted(DRIVER_FOLDER.glob("*/information")):
        match = re.search(r"^Model:\s*(.+)$", path.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
        gpus.append(Gpu(match[1] if match else "NVIDIA GPU", None, None))
    return tuple(gpus)


def _jetson_gpu() -> tuple[Gpu, ...]:
    try:
        model = JETSON_MODEL.read_text(encoding="utf-8", errors="replace").strip("\x00\n ")
    except OSError:
        model = "NVIDIA Jetson"
    capability = next((sm for name, sm in JETSON_CAPABILITIES.items() if name in model), None)
    return (Gpu(model, capability, None),)


def _jetpack() -> str | None:
    """Release of Jetson's system software, such as "R36.4.3"."""
    try:
        text = JETSON_RELEASE.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return parsed_jetpack(text)


def parsed_jetpack(text: str) -> str:
    """Out of the release file's first line.

    >>> parsed_jetpack("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic")
    'R36.4.3'
    """
    match = re.search(r"R(\d+).*?REVISION:\s*([\d.]+)", text)
    return f"R{match[1]}.{match[2]}" if match else "unknown"


def _memory_bytes() -> Mapping[str, int]:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
        return {"MemTotal": pages}
    fields = (line.split() for line in lines)
    return {parts[0].rstrip(":"): int(parts[1]) * 1024 for parts in fields if len(parts) == 3}


def _missing_cuda_libraries() -> tuple[str, ...]:
    """Libraries that ONNX Runtime's CUDA provider is linked with and that no folder known to the loader has."""
    try:
        provider = Path(str(distribution("onnxruntime-gpu").locate_file(CUDA_PROVIDER)))
        with provider.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            needed = sorted({name.decode() for name in CUDA_LIBRARIES.findall(content[:PROVIDER_HEAD_BYTES])})
    except (PackageNotFoundError, OSError, ValueError):
        return ()
    return tuple(name for name in needed if not _is_there(name, provider.parents[2]))


def _is_there(name: str, site: Path) -> bool:
    folders = [Path(part) for part in os.environ.get("LD_LIBRARY_PATH", "").split(":") if part]
    if any((folder / name).exists() for folder in folders) or any(site.glob(f"nvidia/*/lib/{name}")):
        return True
    try:
        return name.encode() in LIBRARY_CACHE.read_bytes()
    except OSError:
        return False


def _lines(facts: Facts, able: tuple[Ability, ...], problems: tuple[Finding, ...]) -> list[str]:
    memory = f"{facts.memory_bytes / GB:.1f} GB, {facts.free_memory_bytes / GB:.1f} GB of it free"
    lines = [
        "Installed",
        f"  {facts.system}, Python {'.'.join(map(str, facts.python))}",
        f"  memory {memory}; disk {facts.free_disk_bytes / GB:.1f} GB free here",
        f"  GPU: {'; '.join(map(_gpu_words, facts.gpus)) or 'none found'}{f', driver {facts.driver}' if facts.driver else ''}",
    ]
    lines += [f"  {name} {number}" for name, number in facts.packages.items()]
    for kind, title in (("build", "Can be built here"), ("run", "Can be run here")):
        lines += ["", title]
        lines += [
            f"  {'yes' if ability.possible else 'no '}  {ability.what}: {ability.why}"
            for ability in able
            if ability.kind == kind
        ]
    lines += ["", "To do" if problems else "Nothing to do"]
    for finding in problems:
        lines += [f"  {MARKS[finding.level]:<8}{finding.says}", f"  {'':<8}{finding.do}"]
    return lines


def _gpu_words(gpu: Gpu) -> str:
    memory = f", {gpu.memory_bytes / GB:.0f} GB" if gpu.memory_bytes else ""
    return f"{gpu.name} ({gpu.capability or 'compute capability unknown'}{memory})"


def _json_lines(facts: Facts, able: tuple[Ability, ...], problems: tuple[Finding, ...]) -> list[str]:
    items = [
        {"kind": "facts", **asdict(facts)},
        *(
            {
                "kind": "ability",
                "does": ability.kind,
                "what": ability.what,
                "possible": ability.possible,
                "why": ability.why,
            }
            for ability in able
        ),
        *({"kind": "finding", **asdict(finding)} for finding in problems),
    ]
    return [json.dumps(item) for item in items]


def _inventory(
    bundles: tuple[BundleState, ...], weights: tuple[HubNetwork, ...], extras: tuple[ExtraState, ...]
) -> list[str]:
    lines = [
        "",
        "Bundles in bundles/ and from the hub" if bundles else "No bundles in bundles/; make one with: nerve-build",
    ]
    lines += [f"  {'yes' if bundle.is_whole else 'no '}  {bundle.path}: {bundle.says}" for bundle in bundles]
    lines += ["", "Weights on disk", "  yes  tiny: packaged"]
    for network in weights:
        here = "downloaded before" if network.is_here else f"{network.missing_bytes / 1e6:.0f} MB to download"
        lines.append(f"  {'yes' if network.is_here else 'no '}  {network.name}: {here}, {network.repository}")
    lines += ["", "Extras"]
    for extra in extras:
        lacks = f" needs {', '.join(extra.missing)}: pip install 'nerve-deploy[{extra.name}]'" if extra.missing else ""
        lines.append(f"  {'no ' if extra.missing else 'yes'}  {extra.name}, for {extra.is_for}{lacks and ';'}{lacks}")
    return lines


def _inventory_json(
    bundles: tuple[BundleState, ...], weights: tuple[HubNetwork, ...], extras: tuple[ExtraState, ...]
) -> list[str]:
    kinds = (("bundle", bundles), ("weights", weights), ("extra", extras))
    return [json.dumps({"kind": kind, **asdict(state)}) for kind, states in kinds for state in states]
