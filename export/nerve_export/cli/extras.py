"""What a command needs beyond the base install, looked for before it starts; nothing is imported."""

from importlib.util import find_spec

from nerve_runtime.errors import CompatibilityError

REFERENCE = ("diffusers", "jaxtyping", "safetensors", "torch", "transformers")
"""What the PyTorch reference imports."""
GRAPHS = (*REFERENCE, "onnx", "onnxscript", "onnxruntime")
"""What building graphs takes, ONNX Runtime to compare them with the reference included."""
EXTRAS = {"onnxruntime": "ort", "openvino": "openvino", "polygraphy": "parity"}
"""The extra that installs a package, where it is not the command's own."""
PROJECTS = {"PIL": "pillow"}
"""The project's name, where its package has another."""


def is_installed(*packages: str) -> bool:
    """Whether all of these packages can be found."""
    return not _missing(packages)


def require(command: str, extra: str, *packages: str) -> None:
    """Refuse a command where packages that it needs are not installed.

    Args:
        command: as it is called, such as "nerve-bench accuracy".
        extra: the extra of nerve-deploy that installs most of them.
        packages: names of what is imported.

    Raises:
        CompatibilityError: some are missing; says what to install.
    """
    missing = _missing(packages)
    if missing:
        extras = ",".join(dict.fromkeys(EXTRAS.get(name, extra) for name in missing))
        names = ", ".join(PROJECTS.get(name, name) for name in missing)
        raise CompatibilityError(f'{command} needs {names} (not installed); run: pip install "nerve-deploy[{extras}]"')


def _missing(packages: tuple[str, ...]) -> list[str]:
    return [name for name in packages if find_spec(name) is None]
