"""The bundle's `manifest.json`: all that crosses from the exporter to the device. Specified line by line in docs/bundle.md."""

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from nerve_runtime.bundle.own_sha256 import NO_SHA256, OwnSha256
from nerve_runtime.bundle.spec import (
    BATCH_AXIS,
    BATCH_LIMIT,
    BATCHED_STAGES,
    READOUT_STAGES,
    Readout,
    StageName,
    StageSpec,
    StrictModel,
)
from nerve_runtime.errors import BundleError
from nerve_runtime.labels import CLASSES_LIMIT, label_dtype

FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"
MANIFEST_LIMIT_BYTES = 4_000_000
UNPORTABLE = frozenset('\\:*?"<>|')  # not allowed in names on every system, or of a meaning of their own
MANIFEST_SHA256 = OwnSha256(b'"manifest_sha256": "')
REQUIRED_STAGES: frozenset[StageName] = frozenset(
    {"text", "scores", "attention", "mix", "walk", "walk_warm", "readout"}
)


def _plain_relative(path: str) -> str:
    plain = PurePosixPath(path)
    odd = UNPORTABLE.intersection(path) or any(ord(letter) < ord(" ") for letter in path)
    if odd or plain.is_absolute() or path != plain.as_posix() or {"..", "."}.intersection((path, *plain.parts)):
        raise ValueError(f"path {path!r} must be relative, with forward slashes, and stay inside the bundle")
    return path


BundlePath = Annotated[str, AfterValidator(_plain_relative)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0, lt=2**24)]
Side = Annotated[int, Field(gt=0, le=8192)]
Steps = Annotated[int, Field(strict=True, ge=1, le=1000)]  # of a walk, each a node of its graph; presets have 3 to 20
TENSOR_ELEMENTS_LIMIT = 2**31
TEMPLATE_LIMIT = 1000  # characters, as of a word


class FileRecord(StrictModel):
    """Size and SHA-256 of one file of the bundle."""

    bytes: int = Field(ge=0)
    sha256: Sha256


class StageRecord(StrictModel):
    """One graph: its ONNX file, the files of its external data, its inputs and outputs, and the cost of a run in GMAC."""

    onnx: BundlePath
    external_data: tuple[BundlePath, ...] = ()
    spec: StageSpec
    gmac: float = Field(ge=0)

    @model_validator(mode="after")
    def _tensors_of_some_size(self) -> "StageRecord":
        for tensor in (*self.spec.inputs, *self.spec.outputs):
            sizes = [axis for axis in tensor.axes if isinstance(axis, int)]
            if min(sizes, default=1) < 1 or math.prod(sizes) > TENSOR_ELEMENTS_LIMIT:
                raise ValueError(f"tensor {tensor.name!r} has axes {tensor.axes}, which no tensor of ours has")
        return self


class BakedConstants(StrictModel, extra="allow"):
    """Constants that are baked into the graphs. The runtime reads the two named here, the others are for the record."""

    __pydantic_extra__: dict[str, str | int | float | bool | list[int] | list[str]]

    steps: Steps
    warm_steps: Steps


class Method(StrictModel):
    """Default values of the graph inputs and of the read-out, and every constant that is baked in (`baked`)."""

    tau: float = Field(gt=0)
    alpha: float = Field(ge=0, lt=1)
    beta: Probability
    head_temperature: float = Field(gt=0)
    threshold: Probability
    readout: Readout = "bilinear"
    baked: BakedConstants


class Geometry(StrictModel):
    """Sizes that the graphs fix: working frame, token grid, pooled keys `m`, heads `t`, text width `d`, most classes.

    `max_batch` is the most frames in a run of the graphs `scores`, `attention` and `frame`. Beyond 1 all their tensors
    have an axis `b` in front, frames and vocabularies alike, and one graph takes 1 to `max_batch`.
    """

    working_hw: tuple[Side, Side]
    grid_hw: tuple[Side, Side]
    pooled_keys: Positive
    heads: Positive
    text_width: Positive
    max_classes: int = Field(ge=2, le=CLASSES_LIMIT)
    max_batch: int = Field(default=1, ge=1, le=BATCH_LIMIT)

    @property
    def tokens(self) -> int:
        """Number of tokens p = h * w."""
        return self.grid_hw[0] * self.grid_hw[1]

    def batches(self, stage: StageName) -> bool:
        """Whether the tensors of a stage have the axis of several frames in front."""
        return self.max_batch > 1 and stage in BATCHED_STAGES

    def shapes(self, *, batched: bool = False) -> "dict[str, tuple[tuple[int | None, ...], ...]]":
        """The shapes that a tensor of a name may have in a stage; None is a size that the geometry does not fix."""
        p, m, t, d = self.tokens, self.pooled_keys, self.heads, self.text_width
        label_axes = ((None, p),)
        shapes: dict[str, tuple[tuple[int | None, ...], ...]] = {
            "text_embeddings": ((None, d),),
            **dict.fromkeys(("seed_scores", "label_scores", "previous_scores", "carried_scores"), label_axes),
            "head_affinity": ((t, p, m), (2, t, p, None)),  # the second is the pair of factors of kind `linear`
            "affinity": ((p, m), (2, p, None)),
            "local_affinity": ((p, m),),
            "closed_sum": ((m, m),),
            "local_weights": ((8, *self.grid_hw),),
            **dict.fromkeys(("head_weights", "head_entropies"), ((t,),)),
            **dict.fromkeys(("previous_tokens", "previous_weights"), ((4, p),)),
            **dict.fromkeys(("origin_tokens", "origin_visible"), ((p,),)),
        }
        if batched:
            shapes = {name: tuple((None, *shape) for shape in known) for name, known in shapes.items()}
        return {"frame": ((None if batched else 1, *self.working_hw, 3),), **shapes}


class Vocabulary(StrictModel):
    """How class names become token ids; `synthetic` marks a tokenizer that no network was trained with.

    `unknown_token` is set for a tokenizer that maps words it does not know to this token.
    """

    tokenizer: BundlePath
    context_length: Positive
    end_token: str
    unknown_token: str | None = None
    synthetic: bool = False
    template_sets: dict[str, list[str]]
    default_template_set: str

    @model_validator(mode="after")
    def _templates_are_usable(self) -> "Vocabulary":
        if self.default_template_set not in self.template_sets:
            raise ValueError(f"default_template_set {self.default_template_set!r} is not in template_sets")
        for name, templates in self.template_sets.items():
            if not templates or any(template.count("{}") != 1 for template in templates):
                raise ValueError(f"template set {name!r} needs templates, each with {{}} once, it has {templates[:3]}")
            if longest := max((len(template) for template in templates if len(template) > TEMPLATE_LIMIT), default=0):
                raise ValueError(
                    f"template set {name!r} has a template of {longest} characters, expected at most {TEMPLATE_LIMIT}"
                )
        return self


class WeightRecord(StrictModel):
    """Where the weights of one network came from and under which licence they may be used."""

    role: str
    source: str
    revision: str
    sha256: Sha256
    licence: str


class EngineRecord(StrictModel):
    """One compiled engine: for which stage, made from which graph, by what, for what.

    `onnx_sha256` is `graph_sha256` of its stage, `key` the SHA-256 of all that decides an engine's bytes, `gpu` a compute
    capability such as "sm89", `os_arch` for example "linux-x86_64"; `parity` says whether it was compared with the reference.
    """

    stage: StageName
    target: str
    path: BundlePath
    key: Sha256
    onnx_sha256: Sha256
    backend_version: str
    gpu: str = Field(pattern=r"^sm\d{2,3}$")
    os_arch: str = Field(min_length=1)
    precision: str
    profile: dict[str, list[list[int]]]
    builder_options: dict[str, str | int | float | bool]
    parity: Literal["passed", "failed", "not run"] = "not run"

    @model_validator(mode="after")
    def _ranges(self) -> "EngineRecord":
        for name, sizes in self.profile.items():
            if len(sizes) != 3 or len({len(size) for size in sizes}) != 1 or not sizes[0]:
                raise ValueError(f"profile of {name!r} must be three lists of one length: least, usual, greatest sizes")
        return self


class Manifest(StrictModel):
    """Everything the runtime knows about a bundle; see docs/bundle.md for each line and what is refused.

    `manifest_sha256` is a line of the file only, None in memory: the SHA-256 of the file's bytes with these 64 digits as
    zeros. It finds damage, not forgery: who can change the file can change this too.
    """

    format_version: Literal[1]
    preset: str
    random_seed: int | None = None
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
    manifest_sha256: Sha256 | None = None

    @property
    def random_weights(self) -> bool:
        """Whether the networks have random weights, so that labels mean nothing."""
        return self.random_seed is not None

    @model_validator(mode="after")
    def _whole(self) -> "Manifest":
        missing = sorted(REQUIRED_STAGES - set(self.stages))
        if missing:
            raise ValueError(f"stages {missing} are missing")
        readout = READOUT_STAGES[self.method.readout]
        if readout not in self.stages:
            raise ValueError(f"method.readout is {self.method.readout!r}, but there is no stage {readout!r}")
        named = [path for stage in self.stages.values() for path in (stage.onnx, *stage.external_data)]
        named += [self.vocabulary.tokenizer, *(engine.path for engine in self.engines)]
        unlisted = sorted(set(named) - set(self.files))
        if unlisted:
            raise ValueError(f"files {unlisted} are named but not listed under 'files'")
        folders = {str(folder) for path in self.files for folder in PurePosixPath(path).parents}
        if both := sorted(folders.intersection(self.files)):
            raise ValueError(f"paths {both} are files and also folders of other files")
        self._refuse_axes_beside_the_geometry()
        self._refuse_labels_beside_the_classes()
        return self

    def _refuse_axes_beside_the_geometry(self) -> None:
        for stage, record in sorted(self.stages.items()):
            batched = self.geometry.batches(stage)
            shapes = self.geometry.shapes(batched=batched)
            for tensor in (*record.spec.inputs, *record.spec.outputs):
                if (tensor.axes[:1] == (BATCH_AXIS,)) != batched:
                    raise ValueError(
                        f"tensor {tensor.name!r} of stage {stage!r} has axes {tensor.axes}, with max_batch "
                        f"{self.geometry.max_batch} they {'begin' if batched else 'do not begin'} with {BATCH_AXIS!r}"
                    )
                expected = shapes.get(tensor.name)
                if expected and not any(_agree(tensor.axes, shape) for shape in expected):
                    raise ValueError(
                        f"tensor {tensor.name!r} of stage {stage!r} has axes {tensor.axes}, geometry says "
                        f"{' or '.join(str(shape).replace('None', 'any') for shape in expected)}"
                    )

    def _refuse_labels_beside_the_classes(self) -> None:
        classes = self.geometry.max_classes
        expected = label_dtype(classes).name
        for stage, record in self.stages.items():
            for tensor in record.spec.outputs:
                if tensor.name == "labels" and tensor.dtype != expected:
                    raise ValueError(
                        f"tensor 'labels' of stage {stage!r} is {tensor.dtype}, up to {classes} classes need {expected}"
                    )


def _agree(axes: tuple[int | str, ...], shape: tuple[int | None, ...]) -> bool:
    """Whether every axis that the geometry fixes has that size; a letter stands for any size, so it does not."""
    return len(axes) == len(shape) and all(size in (None, axis) for axis, size in zip(axes, shape, strict=True))


def load_manifest(bundle: Path) -> Manifest:
    """Read and check `manifest.json`; files are checked by `verify_file`, before any parser sees them.

    Raises:
        BundleError: there is no bundle, the manifest is not valid, or its format version is not this one's.
    """
    path = bundle / MANIFEST_NAME
    with _read_errors(f"bundle {bundle}"):
        _refuse_link(path)
        if not path.is_file():
            raise BundleError(f"{bundle} is not a bundle: it has no {MANIFEST_NAME}; make one with: nerve-build")
        if path.stat().st_size > MANIFEST_LIMIT_BYTES:
            raise BundleError(f"{path} is {path.stat().st_size} bytes, expected at most {MANIFEST_LIMIT_BYTES}")
        content = path.read_bytes()
    _refuse_changed(path, content)
    try:
        return Manifest.model_validate_json(content).model_copy(update={"manifest_sha256": None})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "manifest"
        raise BundleError(f"{path} is not a valid manifest: {where}: {first['msg']}; rebuild the bundle") from error


def _refuse_changed(path: Path, content: bytes) -> None:
    """Compare a manifest with its own hash; one written by hand may have none."""
    written = MANIFEST_SHA256.written(content)
    if len(written) > 1:
        raise BundleError(
            f"{path} is not a valid manifest: it has manifest_sha256 {len(written)} times; rebuild the bundle"
        )
    if written and written[0] != MANIFEST_SHA256.of(content):
        raise BundleError(
            f"{path} was changed after it was written: its sha256 is {MANIFEST_SHA256.of(content)[:12]}..., "
            f"its manifest_sha256 says {written[0][:12]}...; copy the bundle again, or rebuild it"
        )


def manifest_bytes(manifest: Manifest) -> bytes:
    """The content of `manifest.json`, with its own hash in it."""
    blank = manifest.model_copy(update={"manifest_sha256": NO_SHA256})
    return MANIFEST_SHA256.filled_in(f"{blank.model_dump_json(indent=2)}\n".encode())


def _refuse_link(path: Path) -> None:
    if path.is_symlink():
        raise BundleError(
            f"{path} is a symbolic link; a bundle holds real files only. From a hub cache, download with local_dir=..."
        )


def verify_bundle(bundle: Path, manifest: Manifest, *, engines: bool = True) -> None:
    """Verify every file that the manifest lists, as `verify_file` does; without `engines`, all but those."""
    left_out = set() if engines else {engine.path for engine in manifest.engines}
    for relative in manifest.files:
        if relative not in left_out:
            verify_file(bundle, manifest, relative)


def verify_file(bundle: Path, manifest: Manifest, relative: str) -> Path:
    """Return the path of a file of the bundle after comparing its size and SHA-256 with the manifest.

    Raises:
        BundleError: the file is missing, no plain file, a link, or differs from the manifest.
    """
    path = bundle / relative
    with _read_errors(str(path)):
        _verify(bundle, path, manifest.files[relative])
    return path


@contextmanager
def _read_errors(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BundleError(f"{what} cannot be read: {error.strerror or error}; check its path and rights") from error


def _verify(bundle: Path, path: Path, record: FileRecord) -> None:
    for part in (path, *(parent for parent in path.parents if bundle in parent.parents)):
        _refuse_link(part)
    if not path.is_file():
        raise BundleError(f"{path} is missing or no plain file, but the manifest lists it; copy the whole bundle again")
    if path.stat().st_nlink > 1:
        raise BundleError(f"{path} is a hard link to a file elsewhere; a bundle holds files of its own, copy it")
    if path.stat().st_size != record.bytes:
        raise BundleError(f"{path}: size {path.stat().st_size} bytes != manifest {record.bytes}; copy the bundle again")
    found = file_sha256(path)
    if found != record.sha256:
        raise BundleError(
            f"{path}: sha256 {found[:12]}... != manifest {record.sha256[:12]}...; the file was changed, "
            "copy the bundle again or build it with --force"
        )


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in lower-case hex."""
    with path.open("rb") as stream:
        digest = hashlib.sha256()
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
