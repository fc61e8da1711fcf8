"""Which files may be weights: safetensors and plain JSON.

What can carry code is refused before anything parses it, except pickles whose hash is pinned: those become safetensors.
"""

import json
import pickle
from pathlib import Path, PurePosixPath
from typing import Any

from nerve_ref.weights.digests import RememberedDigests, file_sha256, write_text_whole
from nerve_ref.weights.errors import WeightError

MOST_JSON_BYTES = 64_000_000
"""The tokenizer of CLIP has 2 MB, an index of shards less than 1 MB."""
PICKLED = (".bin", ".pt", ".pth", ".ckpt")
"""Suffixes of PyTorch's own format, a pickle."""
UNFINISHED = ".unfinished"
"""Suffix of a file that is still being fetched, or whose hash nobody has compared yet."""
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

    The library refuses a header that is wrong about lengths, types, shapes or offsets.

    Raises:
        WeightError: it is anything else.
    """
    from safetensors import SafetensorError, safe_open  # here, so that `nerve-build --help` runs without it

    _refuse_other_kinds(path, ".safetensors")
    try:
        with safe_open(path, framework="np") as file:
            return tuple(file.keys())
    except (SafetensorError, OSError) as error:
        raise WeightError(f"{path} is no sound safetensors file: {error}; fetch it again from where it came") from error


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file of at most 64 MB.

    Raises:
        WeightError: it is missing, too large, no JSON, or not an object.
    """
    try:
        size = path.stat().st_size
        content = json.loads(path.read_bytes()) if size <= MOST_JSON_BYTES else None
    except OSError as error:
        raise WeightError(f"cannot read {path}: {error.strerror or error}; give a folder that has it") from error
    except (ValueError, RecursionError) as error:
        raise WeightError(f"{path} is no JSON ({error}); fetch it again from where it came") from error
    if size > MOST_JSON_BYTES:
        raise WeightError(f"{path} has {size} bytes, expected at most {MOST_JSON_BYTES} of JSON; give a smaller one")
    if not isinstance(content, dict):
        raise WeightError(f"{path} holds a {type(content).__name__}, expected a JSON object; fetch it again")
    return content


def check_config(path: Path) -> dict[str, Any]:
    """The content of a configuration or tokenizer that is a JSON object by name and by content.

    Raises:
        WeightError: it is anything else.
    """
    _refuse_other_kinds(path, ".json")
    return read_json_object(path)


def _refuse_other_kinds(path: Path, expected: str) -> None:
    """Refuse a file by its suffix, then by its first bytes, before any parser reads it."""
    suffix = path.suffix.lower()
    if suffix in _REFUSED:
        advice = CONVERT if suffix in PICKLED else "give safetensors for weights and JSON for configurations"
        raise WeightError(f"{path} is refused: a {suffix} file can run code when it is opened; {advice}")
    if suffix != expected:
        raise WeightError(f"{path} is named {path.suffix or 'without a suffix'}, expected a {expected} file")
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


def safetensors_name(path: str) -> str:
    """The name under which a file of a repository lies here: a pickle is kept as the safetensors that libraries find."""
    given = PurePosixPath(path)
    if given.suffix not in PICKLED:
        return path
    return str(given.with_name(f"{'model' if given.stem == 'pytorch_model' else given.stem}.safetensors"))


def convert_pickle(source: Path, target: Path, source_sha256: str) -> None:
    """Read tensors with `torch.load(weights_only=True)`, which runs no code of the file, and save them as safetensors.

    The caller has checked the hash of `source`. Both hashes are noted beside `target` for `is_conversion_of`.

    Raises:
        WeightError: the file holds anything but named tensors.
    """
    import torch
    from safetensors.torch import save_file

    name = source.name.removesuffix(UNFINISHED)
    try:
        tensors = torch.load(source, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, AttributeError) as error:
        reason = str(error).split("\n", 1)[0][:200]
        raise WeightError(f"{name} is refused: it holds more than tensors, or is damaged ({reason})") from error
    if not isinstance(tensors, dict) or not all(
        isinstance(key, str) and isinstance(tensor, torch.Tensor) for key, tensor in tensors.items()
    ):
        raise WeightError(f"{name} is refused: expected named tensors and nothing else")
    temporary = target.with_name(f".{target.name}.tmp")
    # Clones: safetensors refuses tensors that share memory, as tied weights do.
    save_file({key: tensor.contiguous().clone() for key, tensor in tensors.items()}, temporary, {"format": "pt"})
    digest = file_sha256(temporary)
    temporary.replace(target)
    write_text_whole(_note_path(target), json.dumps({"source_sha256": source_sha256, "sha256": digest}))


def is_conversion_of(target: Path, source_sha256: str, digests: RememberedDigests) -> bool:
    """Whether `target` is, byte for byte, what `convert_pickle` once made of the file with this hash."""
    if not target.is_file() or not _note_path(target).is_file():
        return False
    return read_json_object(_note_path(target)) == {"source_sha256": source_sha256, "sha256": digests.sha256(target)}


def _note_path(target: Path) -> Path:
    return target.with_name(f"{target.name}.converted.json")
