"""Which files may be weights: safetensors and plain JSON; whatever can carry code is refused before anything parses it."""

from pathlib import Path

from safetensors import SafetensorError, safe_open

from nerve_ref.weights.errors import WeightError
from nerve_ref.weights.whole_files import read_json_object

PICKLED = (".bin", ".pt", ".pth", ".ckpt")
"""Suffixes of PyTorch's own format, a pickle."""
_REFUSED = (*PICKLED, ".pkl", ".pickle", ".joblib", ".npy", ".npz", ".yaml", ".yml", ".h5", ".msgpack")
_SIGNATURES = {
    b"PK\x03\x04": "a zip archive, as PyTorch writes it around a pickle",
    b"\x93NUMPY": "a numpy array, which may hold pickled objects",
    b"\x89HDF": "an HDF5 file",
    b"GGUF": "a GGUF file",
    b"!!python": "YAML with Python tags",
    b"%YAML": "YAML",
    b"---": "YAML",
    b"\x1f\x8b": "a gzip archive",
}
_PICKLE_PROTOCOLS = range(2, 6)
CONVERT = (
    'convert it once where it is trusted: python -c "import torch; from safetensors.torch import save_file; '
    "save_file({k: v.contiguous().clone() for k, v in torch.load('IN.bin', weights_only=True).items()}, "
    "'model.safetensors', {'format': 'pt'})\""
)


def check_safetensors(path: Path) -> tuple[str, ...]:
    """The names of the tensors in a file that is safetensors by name and by content; only its header is read.

    The library refuses a header that lies about lengths, types, shapes or places.

    Raises:
        WeightError: it is anything else.
    """
    _refuse_by_name(path)
    if path.suffix.lower() != ".safetensors":
        raise WeightError(f"{path} is named {path.suffix or 'without a suffix'}, expected a .safetensors file")
    _refuse_by_content(path)
    try:
        with safe_open(path, framework="np") as file:
            return tuple(file.keys())
    except (SafetensorError, OSError) as error:
        raise WeightError(f"{path} is no sound safetensors file: {error}; fetch it again from where it came") from error


def check_config(path: Path) -> dict[str, object]:
    """The content of a configuration or tokenizer that is a JSON object by name and by content.

    Raises:
        WeightError: it is anything else.
    """
    _refuse_by_name(path)
    if path.suffix.lower() != ".json":
        raise WeightError(f"{path} is named {path.suffix or 'without a suffix'}, expected a .json file")
    _refuse_by_content(path)
    return read_json_object(path)


def _refuse_by_name(path: Path) -> None:
    suffix = path.suffix.lower()
    if suffix not in _REFUSED:
        return
    advice = CONVERT if suffix in PICKLED else "give safetensors for weights and JSON for configurations"
    raise WeightError(f"{path} is refused: a {suffix} file can run code when it is opened; {advice}")


def _refuse_by_content(path: Path) -> None:
    if not path.is_file():
        raise WeightError(f"there is no file {path}, or it is no plain file; give the path of one")
    try:
        with path.open("rb") as stream:
            start = stream.read(16)
    except OSError as error:
        raise WeightError(f"cannot read {path}: {error.strerror or error}; give a file that can be read") from error
    kind = next((kind for signature, kind in _SIGNATURES.items() if start.startswith(signature)), None)
    # 0x80 and the protocol start every pickle since 2003; where they are the length of a safetensors header, '{' follows.
    if len(start) > 1 and start[0] == 0x80 and start[1] in _PICKLE_PROTOCOLS and start[8:9] != b"{":
        kind = "a pickle, which can run code when it is opened"
    if kind is not None:
        raise WeightError(f"{path} is refused: whatever its name says, it is {kind}; give what its name promises")
