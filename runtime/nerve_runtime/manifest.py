"""The bundle's `manifest.json`: all that crosses from the exporter to the device. Specified line by line in the README."""

import hashlib
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from nerve_runtime.errors import BundleError
from nerve_runtime.spec import StageName, StageSpec

FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"
MANIFEST_LIMIT_BYTES = 4_000_000
REQUIRED_STAGES: frozenset[StageName] = frozenset(
    {"text", "scores", "attention", "mix", "walk", "walk_warm", "readout"}
)


def _plain_relative(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or "\\" in path or ":" in path or any(part in ("..", ".") for part in parts):
        raise ValueError(f"path {path!r} must be relative, with forward slashes, and stay inside the bundle")
    return path


BundlePath = Annotated[str, AfterValidator(_plain_relative)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileRecord(_Strict):
    """Size and SHA-256 of one file of the bundle."""

    bytes: int = Field(ge=0)
    sha256: Sha256


class StageRecord(_Strict):
    """One graph: its ONNX file, the files of its external data, its doors, and what one run costs in GMAC."""

    onnx: BundlePath
    external_data: tuple[BundlePath, ...] = ()
    spec: StageSpec
    gmac: float = Field(ge=0)


class Method(_Strict):
    """Default values of the graph inputs, and every constant that is baked in, for the record (`baked`)."""

    tau: float = Field(gt=0)
    alpha: float = Field(ge=0, lt=1)
    beta: Probability
    head_temperature: float = Field(gt=0)
    threshold: Probability
    baked: dict[str, str | int | float | bool | list[int] | list[str]]


class Geometry(_Strict):
    """Sizes that the graphs fix: working frame, token grid, pooled keys `m`, heads `t`, text width `d`, most classes."""

    working_hw: tuple[Positive, Positive]
    grid_hw: tuple[Positive, Positive]
    pooled_keys: Positive
    heads: Positive
    text_width: Positive
    max_classes: int = Field(ge=2, le=254)

    @property
    def tokens(self) -> int:
        """Number of tokens p = h * w."""
        return self.grid_hw[0] * self.grid_hw[1]


class Vocabulary(_Strict):
    """How class names become token ids.

    `known_words_only` is true for a tokenizer that maps words it has never seen to `unknown_token`.
    """

    tokenizer: BundlePath
    context_length: Positive
    end_token: str
    unknown_token: str | None = None
    template_sets: dict[str, list[str]]
    default_template_set: str

    @model_validator(mode="after")
    def _default_is_there(self) -> "Vocabulary":
        if self.default_template_set not in self.template_sets:
            raise ValueError(f"default_template_set {self.default_template_set!r} is not in template_sets")
        return self


class WeightRecord(_Strict):
    """Where the weights of one network came from and under which licence they may be used."""

    role: str
    source: str
    revision: str
    sha256: Sha256
    licence: str


class EngineRecord(_Strict):
    """One compiled engine: for which stage, made from which ONNX bytes, by what, for what."""

    stage: StageName
    target: str
    path: BundlePath
    onnx_sha256: Sha256
    backend_version: str
    precision: str
    profile: dict[str, list[list[int]]]
    builder_options: dict[str, str | int | float | bool]


class Manifest(_Strict):
    """Everything the runtime knows about a bundle; see the README for each line and what is refused."""

    format_version: Literal[1]
    preset: str
    random_weights: bool = False
    opset: Literal[20, 23]
    precision: Literal["fp32", "fp16", "bf16"]
    plan_key: Sha256
    geometry: Geometry
    method: Method
    vocabulary: Vocabulary
    stages: dict[StageName, StageRecord]
    weights: tuple[WeightRecord, ...]
    engines: tuple[EngineRecord, ...] = ()
    tool_versions: dict[str, str]
    files: dict[BundlePath, FileRecord]

    @model_validator(mode="after")
    def _whole(self) -> "Manifest":
        missing = sorted(REQUIRED_STAGES - set(self.stages))
        if missing:
            raise ValueError(f"stages {missing} are missing")
        named = [path for stage in self.stages.values() for path in (stage.onnx, *stage.external_data)]
        named += [self.vocabulary.tokenizer, *(engine.path for engine in self.engines)]
        unlisted = sorted(set(named) - set(self.files))
        if unlisted:
            raise ValueError(f"files {unlisted} are named but not listed under 'files'")
        return self


def load_manifest(bundle: Path) -> Manifest:
    """Read and check `manifest.json`; files are checked by `verify_file`, before any parser sees them.

    Raises:
        BundleError: there is no bundle, the manifest is not valid, or its format version is not this one's.
    """
    try:
        return _read_manifest(bundle / MANIFEST_NAME)
    except OSError as error:
        raise BundleError(
            f"bundle {bundle} cannot be read: {error.strerror or error}; check its path and rights"
        ) from error


def _read_manifest(path: Path) -> Manifest:
    bundle = path.parent
    if not path.is_file():
        raise BundleError(
            f"{bundle} is not a bundle: it has no {MANIFEST_NAME}; make one with: python export/build_engines.py"
        )
    if path.stat().st_size > MANIFEST_LIMIT_BYTES:
        raise BundleError(f"{path} is {path.stat().st_size} bytes, expected at most {MANIFEST_LIMIT_BYTES}")
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "manifest"
        raise BundleError(f"{path} is not a valid manifest: {where}: {first['msg']}; rebuild the bundle") from error


def verify_file(bundle: Path, manifest: Manifest, relative: str) -> Path:
    """Return the path of a file of the bundle after comparing its size and SHA-256 with the manifest.

    Raises:
        BundleError: the file is missing, no plain file, a link, or differs from the manifest.
    """
    path = bundle / relative
    inside = [path, *(parent for parent in path.parents if bundle in parent.parents)]
    linked = [part for part in inside if part.is_symlink()]
    if linked:
        raise BundleError(
            f"{linked[0]} is a symbolic link; a bundle holds real files only. From a hub cache, download with local_dir=..."
        )
    if not path.is_file():
        raise BundleError(f"{path} is missing or no plain file, but the manifest lists it; copy the whole bundle again")
    if path.stat().st_nlink > 1:
        raise BundleError(f"{path} is a hard link to a file elsewhere; a bundle holds files of its own, copy it")
    record = manifest.files[relative]
    if path.stat().st_size != record.bytes:
        raise BundleError(f"{path}: size {path.stat().st_size} bytes != manifest {record.bytes}; copy the bundle again")
    try:
        found = file_sha256(path)
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror or error}; check its rights") from error
    if found != record.sha256:
        raise BundleError(f"{path}: sha256 {found[:12]}... != manifest {record.sha256[:12]}...; the file was changed")
    return path


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in lower-case hex."""
    with path.open("rb") as stream:
        digest = hashlib.sha256()
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
