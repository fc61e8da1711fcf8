"""From facts about a machine to what is wrong or missing and what can be built and run; pure functions."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from nerve_runtime.backends.tensorrt.library import RTX_CAPABILITIES

Level = Literal["problem", "missing", "note"]
GB = 1_000_000_000
TRUE_SIZE_MEMORY_BYTES = 14 * GB
"""What the build of preset sd21 may take at its peak, by its own limit; TensorRT-RTX alone takes 10.8 GB for fp32."""
TINY_MEMORY_BYTES = 2 * GB
TRUE_SIZE_DISK_BYTES = 16 * GB
"""Weights of 5 GB, a bundle of 5 GB, and the old one beside it until the new one is whole."""
TINY_DISK_BYTES = 200_000_000
ATTENTION_SINCE = (10, 14)
"""The first TensorRT whose ONNX parser knows opset 23's Attention, by the parser's release notes."""
ORT_PYTHON = (3, 11)
"""onnxruntime 1.23, the oldest that runs our opset-23 graphs, has no wheel for Python below this."""
EXPORT_PACKAGES = ("torch", "transformers", "diffusers", "onnx", "onnxscript", "jaxtyping")
OPENCV_WHEELS = (
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)
ORT_WHEELS = ("onnxruntime", "onnxruntime-gpu")
LEAST: Mapping[str, tuple[tuple[int, ...], str]] = {
    "torch": ((2, 9), "export"),
    "transformers": ((5, 23), "export"),
    "diffusers": ((0, 35), "export"),
    "onnx": ((1, 19), "export"),
    "onnxruntime": ((1, 23), "ort"),
    "onnxruntime-gpu": ((1, 23), "ort-gpu"),
    "tensorrt": ((10, 3), "trt"),
    "tensorrt-rtx": ((1, 2), "rtx"),
    "polygraphy": ((0, 49), "parity"),
}
"""Oldest version that works, and the extra that installs it."""
REPORTED = (
    *EXPORT_PACKAGES,
    "huggingface_hub",
    *ORT_WHEELS,
    "tensorrt",
    "tensorrt-cu12",
    "tensorrt-cu13",
    "tensorrt-rtx",
    "cuda-python",
    "cuda-bindings",
    "polygraphy",
    *OPENCV_WHEELS,
)
"""Packages whose versions are looked at."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One NVIDIA GPU: its name, compute capability such as "sm89" (None if unknown), and memory."""

    name: str
    capability: str | None
    memory_bytes: int | None


@dataclass(frozen=True, slots=True)
class Facts:
    """Facts about a machine.

    Attributes:
        python: version, such as (3, 11, 7).
        system: such as "Linux x86_64".
        packages: version by name of each installed package out of `REPORTED`.
        gpus: NVIDIA GPUs; empty where none was found.
        driver: version of the NVIDIA driver.
        jetpack: release of Jetson's system software, such as "R36.4"; None on other machines.
        memory_bytes: memory of the machine.
        free_memory_bytes: of it what new programs can have.
        free_disk_bytes: in the current folder.
        missing_libraries: shared libraries that ONNX Runtime's CUDA provider needs and the system does not have.
    """

    python: tuple[int, ...]
    system: str
    packages: Mapping[str, str]
    gpus: tuple[Gpu, ...] = ()
    driver: str | None = None
    jetpack: str | None = None
    memory_bytes: int = 0
    free_memory_bytes: int = 0
    free_disk_bytes: int = 0
    missing_libraries: tuple[str, ...] = ()

    def has(self, *names: str) -> bool:
        """Whether all of these packages are installed."""
        return all(name in self.packages for name in names)

    def version(self, name: str) -> tuple[int, ...]:
        """The numbers at the start of a package's version; empty where it is not installed."""
        return version_numbers(self.packages.get(name, ""))


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding: its level, its subject, what is the case, and what to do."""

    level: Level
    about: str
    says: str
    do: str


@dataclass(frozen=True, slots=True)
class Ability:
    """Something that can or cannot be done here, and why."""

    kind: Literal["build", "run"]
    what: str
    possible: bool
    why: str


def version_numbers(text: str) -> tuple[int, ...]:
    """The numbers that a version starts with.

    >>> version_numbers("2.13.0+cpu")
    (2, 13, 0)
    """
    match = re.match(r"\d+(\.\d+)*", text)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def findings(facts: Facts) -> tuple[Finding, ...]:
    """All that is wrong, missing or worth knowing, the worst first."""
    rules = (_clashes, _old_versions, _missing, _gpu_findings, _tensorrt_findings, _sizes)
    order = ("problem", "missing", "note")
    unsorted = [finding for rule in rules for finding in rule(facts)]
    return tuple(sorted(unsorted, key=lambda finding: order.index(finding.level)))


def abilities(facts: Facts) -> tuple[Ability, ...]:
    """What can be built and run here."""
    return (*_can_build_graphs(facts), *_can_build_engines(facts), *_can_run(facts))


def _clashes(facts: Facts) -> Iterator[Finding]:
    if facts.has(*ORT_WHEELS):
        yield Finding(
            "problem",
            "onnxruntime",
            "onnxruntime and onnxruntime-gpu are both installed; they overwrite each other's files",
            "pip uninstall onnxruntime onnxruntime-gpu, then install one: pip install 'nerve-deploy[ort]' or "
            "'nerve-deploy[ort-gpu]'",
        )
    wheels = [name for name in OPENCV_WHEELS if facts.has(name)]
    if len(wheels) > 1:
        yield Finding(
            "problem",
            "opencv",
            f"{' and '.join(wheels)} are installed together; they overwrite each other's files",
            f"pip uninstall {' '.join(wheels)}, then install one: opencv-python-headless, or opencv-python for windows",
        )
    if facts.missing_libraries:
        yield Finding(
            "problem",
            "onnxruntime-gpu",
            f"its CUDA provider needs {', '.join(facts.missing_libraries)}, not found on this system",
            "pip install 'onnxruntime-gpu[cuda,cudnn]', or install CUDA and cuDNN of these versions; until then "
            "--providers cpu works",
        )


def _old_versions(facts: Facts) -> Iterator[Finding]:
    for name, (least, extra) in LEAST.items():
        installed = facts.version(name)
        if installed and installed < least:
            expected = ".".join(map(str, least))
            yield Finding(
                "problem",
                name,
                f"{name} {facts.packages[name]} is too old, expected {expected} or newer",
                f"pip install --upgrade 'nerve-deploy[{extra}]'",
            )


def _missing(facts: Facts) -> Iterator[Finding]:
    absent = [name for name in EXPORT_PACKAGES if not facts.has(name)]
    if absent:
        yield Finding(
            "missing",
            "export",
            f"graphs cannot be built: {', '.join(absent)} {'is' if len(absent) == 1 else 'are'} not installed",
            "pip install 'nerve-deploy[export]'; a device that only runs a bundle does not need it",
        )
    if not any(map(facts.has, ORT_WHEELS)):
        yield _no_onnxruntime(facts)
    if not any(map(facts.has, OPENCV_WHEELS)):
        yield Finding(
            "missing", "opencv", "no OpenCV is installed: pictures cannot be read", "pip install nerve-deploy"
        )
    if not facts.has("polygraphy"):
        yield Finding(
            "missing",
            "polygraphy",
            "nerve-build parity needs polygraphy; building does without",
            "pip install 'nerve-deploy[parity]'",
        )
    if facts.has("torch") and not facts.has("huggingface_hub"):
        yield Finding(
            "missing",
            "huggingface_hub",
            "weights cannot be downloaded",
            "pip install huggingface_hub, or give local ones with --clip, --sd and --vae",
        )


def _no_onnxruntime(facts: Facts) -> Finding:
    if facts.python < ORT_PYTHON:
        return Finding(
            "missing",
            "onnxruntime",
            f"graphs cannot be run: onnxruntime 1.23 or newer has no wheel for Python {_dotted(facts.python[:2])}",
            "use Python 3.11 or newer, or run engines: nerve-build engines BUNDLE --target tensorrt",
        )
    extra = "ort-gpu" if facts.gpus else "ort"
    return Finding("missing", "onnxruntime", "graphs cannot be run or checked", f"pip install 'nerve-deploy[{extra}]'")


def _gpu_findings(facts: Facts) -> Iterator[Finding]:
    for gpu in facts.gpus:
        unsupported = gpu.capability is not None and gpu.capability not in RTX_CAPABILITIES
        if unsupported and facts.has("tensorrt-rtx") and not facts.has("tensorrt"):
            yield Finding(
                "problem",
                "tensorrt-rtx",
                f"TensorRT-RTX has no target for {gpu.name} ({gpu.capability}), only {', '.join(RTX_CAPABILITIES)}",
                "pip install 'nerve-deploy[trt]' and build with --target tensorrt, or run the graphs with --providers cuda",
            )
        elif not facts.has("tensorrt") and not facts.has("tensorrt-rtx"):
            extra = "trt" if unsupported else "rtx"
            yield Finding(
                "missing",
                "engines",
                f"{gpu.name} is here, but neither TensorRT nor TensorRT-RTX: engines cannot be built or run",
                f"pip install 'nerve-deploy[{extra}]'",
            )
    if not facts.gpus and facts.has("onnxruntime-gpu"):
        yield Finding(
            "note",
            "onnxruntime-gpu",
            "onnxruntime-gpu is installed, but no NVIDIA GPU was found",
            "use --providers cpu; if there is a GPU, install its driver",
        )


def _tensorrt_findings(facts: Facts) -> Iterator[Finding]:
    version = facts.version("tensorrt")
    if version and version < ATTENTION_SINCE:
        yield Finding(
            "note",
            "tensorrt",
            f"TensorRT {facts.packages['tensorrt']} cannot parse the Attention operation of opset 23",
            "build the bundle with --opset 20",
        )
    bindings = facts.version("cuda-python") or facts.version("cuda-bindings")
    if (version or facts.has("tensorrt-rtx")) and not bindings:
        yield Finding(
            "missing",
            "cuda-python",
            "engines can be built, but not run: cuda-python is not installed",
            f"pip install 'nerve-deploy[{'trt' if version else 'rtx'}]'",
        )
    for major in (12, 13):
        if facts.has(f"tensorrt-cu{major}") and bindings and bindings[0] != major:
            yield Finding(
                "problem",
                "cuda-python",
                f"TensorRT {facts.packages[f'tensorrt-cu{major}']} is built for CUDA {major}, cuda-python is "
                f"{_dotted(bindings)} for CUDA {bindings[0]}",
                f"pip install 'cuda-python=={major}.*'",
            )
    if facts.jetpack:
        yield Finding(
            "note",
            "jetpack",
            f"this is a Jetson with system release {facts.jetpack}; TensorRT comes with JetPack",
            "build graphs on another machine, copy the bundle here, then: nerve-build engines BUNDLE --target tensorrt",
        )


def _sizes(facts: Facts) -> Iterator[Finding]:
    if facts.memory_bytes < TRUE_SIZE_MEMORY_BYTES:
        yield Finding(
            "note",
            "memory",
            f"{facts.memory_bytes / GB:.1f} GB of memory; presets of true size such as sd21 take up to "
            f"{TRUE_SIZE_MEMORY_BYTES // GB} GB to build",
            "add swap, build on a larger machine and copy the bundle, or use preset edge or tiny",
        )
    if facts.free_disk_bytes < TRUE_SIZE_DISK_BYTES:
        yield Finding(
            "note",
            "disk",
            f"{facts.free_disk_bytes / GB:.1f} GB free here; a bundle of true size takes up to "
            f"{TRUE_SIZE_DISK_BYTES // GB} GB while it is built, its weights included",
            "free space, or choose another disk with --out",
        )


def _can_build_graphs(facts: Facts) -> Iterator[Ability]:
    absent = [name for name in EXPORT_PACKAGES if not facts.has(name)]
    checked = any(map(facts.has, ORT_WHEELS))
    sizes = (
        ("graphs of preset tiny", TINY_MEMORY_BYTES, TINY_DISK_BYTES),
        ("graphs at true size (sd21)", TRUE_SIZE_MEMORY_BYTES, TRUE_SIZE_DISK_BYTES),
    )
    for what, memory_bytes, disk_bytes in sizes:
        need = f"needs {memory_bytes / GB:.0f} GB of memory and {disk_bytes / GB:.1f} GB of disk"
        lacks = [f"{name} is not installed" for name in absent]
        lacks += [] if checked else ["no onnxruntime to check them with"]
        lacks += [f"{need.split(' and ')[0]}"] if facts.memory_bytes < memory_bytes else []
        lacks += [f"needs {disk_bytes / GB:.1f} GB of disk"] if facts.free_disk_bytes < disk_bytes else []
        yield Ability("build", what, not lacks, "; ".join(lacks) or need)


def _can_build_engines(facts: Facts) -> Iterator[Ability]:
    rtx = facts.has("tensorrt-rtx")
    targets = ",".join(RTX_CAPABILITIES)
    why = f"--target rtx:{targets}; no GPU needed" if rtx else "tensorrt-rtx is not installed"
    yield Ability("build", "engines with TensorRT-RTX", rtx, why)
    here = facts.gpus[0].capability if facts.gpus else None
    trt = facts.has("tensorrt") and bool(facts.gpus)
    reason = "tensorrt is not installed" if not facts.has("tensorrt") else "no NVIDIA GPU was found"
    why = f"--target tensorrt, for the GPU here{f' ({here})' if here else ''}" if trt else reason
    yield Ability("build", "engines with TensorRT", trt, why)


def _can_run(facts: Facts) -> Iterator[Ability]:
    ort = any(map(facts.has, ORT_WHEELS)) and not facts.has(*ORT_WHEELS)
    reason = "both onnxruntime wheels are installed" if facts.has(*ORT_WHEELS) else "onnxruntime is not installed"
    yield Ability("run", "graphs on the processor", ort, "--backend ort" if ort else reason)
    gpu_lacks = [
        *([] if facts.has("onnxruntime-gpu") else ["onnxruntime-gpu is not installed"]),
        *([] if facts.gpus else ["no NVIDIA GPU was found"]),
        *(f"{name} is missing" for name in facts.missing_libraries),
    ]
    gpu = ort and not gpu_lacks
    yield Ability("run", "graphs on the GPU", gpu, "--providers cuda" if gpu else "; ".join(gpu_lacks) or reason)
    bindings = facts.has("cuda-python") or facts.has("cuda-bindings")
    for package, backend in (("tensorrt-rtx", "rtx"), ("tensorrt", "tensorrt")):
        fits = [gpu for gpu in facts.gpus if backend != "rtx" or gpu.capability in (None, *RTX_CAPABILITIES)]
        lacks = [
            *([] if facts.has(package) else [f"{package} is not installed"]),
            *([] if bindings else ["cuda-python is not installed"]),
            *([] if facts.gpus else ["no NVIDIA GPU was found"]),
            *([f"no target for {facts.gpus[0].capability}"] if facts.gpus and not fits else []),
        ]
        yield Ability("run", f"engines of {package}", not lacks, "; ".join(lacks) or f"--backend {backend}")


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
