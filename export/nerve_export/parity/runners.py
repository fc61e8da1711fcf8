"""Runners of a bundle's stages for a comparison: our sessions, or those of polygraphy.

A build checks itself with our sessions, which the device uses too. `nerve-build parity` uses polygraphy's, so that a
fault of ours in binding tensors cannot hide.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from nerve_export.parity.graph import tapped_graph
from nerve_export.parity.taps import Tensors
from nerve_runtime.backends import BACKEND_NAMES, Backend, BackendOptions, open_backend
from nerve_runtime.backends.ort import import_onnxruntime
from nerve_runtime.backends.tensorrt.backend import TrtBackend
from nerve_runtime.backends.tensorrt.library import LibraryName
from nerve_runtime.bundle.manifest import Manifest, StageRecord, verify_file
from nerve_runtime.bundle.spec import Array, StageName, StageSpec
from nerve_runtime.errors import CompatibilityError, UsageError

Run = Callable[[Tensors], Mapping[str, Array]]
"""Takes at least a stage's inputs by name, gives its outputs by name."""
POLYGRAPHY_PREFIX = "polygraphy:"
ENGINE_LIBRARIES: Mapping[str, LibraryName] = {"rtx": "tensorrt_rtx", "tensorrt": "tensorrt"}
POLYGRAPHY_BACKENDS = ("ort", *ENGINE_LIBRARIES)
RTX_SWITCH = "POLYGRAPHY_USE_TENSORRT_RTX"
EXTERNAL_FOLDER_KEY = "session.model_external_initializers_file_folder_path"
CLASS_AXIS = "c"
ORT_ERRORS_ONLY = 3


class Runner(ABC):
    """Opens stages of one bundle, one at a time.

    Attributes:
        bundle: its folder.
        manifest: its manifest.
        engines: path in the bundle of each engine that was opened, by stage; empty for graphs.
    """

    def __init__(self, bundle: Path, manifest: Manifest) -> None:
        self.bundle = bundle
        self.manifest = manifest
        self.engines: dict[StageName, str] = {}

    @abstractmethod
    def describe(self) -> str:
        """Library and version in one line."""

    @abstractmethod
    @contextmanager
    def open(self, stage: StageName) -> Iterator[Run]:
        """Verify and open a stage; its memory is freed afterwards."""

    @contextmanager
    def open_inner(self, stage: StageName) -> Iterator[Run | None]:
        """Open a copy of the stage's graph that gives its inner taps by tap name; None where it has none.

        Inner tensors are those of the ONNX graph; an engine has none that could be read.
        """
        path = self.verified(stage)
        graph, taps = tapped_graph(path)
        if not taps:
            yield None
            return
        session = self._inner_session(graph, path.parent)
        inputs = {value.name for value in session.get_inputs()}

        def run(tensors: Tensors) -> Mapping[str, Array]:
            values = list(dict.fromkeys(taps.values()))
            given = {name: np.ascontiguousarray(tensors[name]) for name in inputs}
            outputs = dict(zip(values, session.run(values, given), strict=True))
            return {tap: outputs[value] for tap, value in taps.items()}

        yield run

    def verified(self, stage: StageName) -> Path:
        """Path of a stage's graph, it and its external data checked against the manifest."""
        record = self.record(stage)
        for relative in record.external_data:
            verify_file(self.bundle, self.manifest, relative)
        return verify_file(self.bundle, self.manifest, record.onnx)

    def record(self, stage: StageName) -> StageRecord:
        """The manifest's record of a stage.

        Raises:
            UsageError: the bundle does not have it.
        """
        if stage not in self.manifest.stages:
            raise UsageError(f"the bundle has no stage {stage!r}, only {', '.join(self.manifest.stages)}")
        return self.manifest.stages[stage]

    @staticmethod
    def _inner_session(graph: bytes, folder: Path) -> Any:
        library = import_onnxruntime()
        options = _session_options(library)
        options.add_session_config_entry(EXTERNAL_FOLDER_KEY, os.fsencode(folder).decode())
        return library.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


class BackendRunner(Runner):
    """Our own back ends, as the device uses them."""

    def __init__(self, bundle: Path, manifest: Manifest, backend: str) -> None:
        super().__init__(bundle, manifest)
        self._backend = backend

    def describe(self) -> str:
        """Library, version and device."""
        with self._opened() as backend:
            return backend.describe()

    @contextmanager
    def open(self, stage: StageName) -> Iterator[Run]:
        """Open one session; the back end is closed with it."""
        spec = self.record(stage).spec
        with self._opened() as backend:
            if isinstance(backend, TrtBackend):
                self.engines[stage] = backend.approved_engine(stage).path
            yield with_class_slots(backend.open_session(stage).run, spec, backend.class_slots)

    def _opened(self) -> Backend:
        if self._backend in ENGINE_LIBRARIES:
            return open_engines(self.bundle, self.manifest, self._backend)
        return open_backend(self._backend, self.bundle, self.manifest)


class PolygraphyRunner(Runner):
    """polygraphy's `OnnxrtRunner` on the graphs, or its `TrtRunner` on the engines of one target.

    Raises:
        CompatibilityError: polygraphy is not installed.
    """

    def __init__(self, bundle: Path, manifest: Manifest, backend: str) -> None:
        super().__init__(bundle, manifest)
        self._backend = backend
        self._polygraphy = import_polygraphy(tensorrt_rtx=backend == "rtx")

    def describe(self) -> str:
        """Version of polygraphy and what it runs."""
        runs = (
            f"onnxruntime {import_onnxruntime().__version__}" if self._backend == "ort" else f"{self._backend} engines"
        )
        return f"polygraphy {self._polygraphy.__version__}: {runs}"

    @contextmanager
    def open(self, stage: StageName) -> Iterator[Run]:
        """Activate one runner; a stage's tensors are checked against its spec by polygraphy."""
        spec = self.record(stage).spec
        runner, slots = self._onnx(stage) if self._backend == "ort" else self._engine(stage)
        with runner:
            yield with_class_slots(lambda tensors: dict(runner.infer(dict(tensors))), spec, slots)

    def _onnx(self, stage: StageName) -> tuple[Any, None]:
        from polygraphy.backend.onnxrt import OnnxrtRunner

        library, path = import_onnxruntime(), self.verified(stage)
        providers = ["CPUExecutionProvider"]
        return OnnxrtRunner(
            lambda: library.InferenceSession(os.fsencode(path).decode(), _session_options(library), providers)
        ), None

    def _engine(self, stage: StageName) -> tuple[Any, int | None]:
        from polygraphy.backend.common import BytesFromPath
        from polygraphy.backend.trt import EngineFromBytes, TrtRunner

        with closing(open_engines(self.bundle, self.manifest, self._backend)) as backend:
            record = backend.approved_engine(stage)
            slots = backend.class_slots
        self.engines[stage] = record.path
        path = verify_file(self.bundle, self.manifest, record.path)
        return TrtRunner(EngineFromBytes(BytesFromPath(str(path)))), slots


def open_engines(bundle: Path, manifest: Manifest, backend: str) -> TrtBackend:
    """The back end that decides which engine fits this machine; a verdict of an earlier comparison does not count.

    Engines that were not built here stay refused: they are executable code.

    Raises:
        CompatibilityError: the library or a GPU is missing.
    """
    engines = tuple(record.model_copy(update={"parity": "not run"}) for record in manifest.engines)
    unjudged = manifest.model_copy(update={"engines": engines})
    return TrtBackend(bundle, unjudged, BackendOptions(allow_unchecked=True), library=ENGINE_LIBRARIES[backend])


def engine_stages(manifest: Manifest, backend: str) -> list[StageName]:
    """The stages that a bundle has engines of for a library, in the order of the manifest's stages.

    Raises:
        CompatibilityError: there are none.
    """
    built = {record.stage for record in manifest.engines if record.target.partition("-")[0] == backend}
    if not built:
        raise CompatibilityError(
            f"the bundle has no {backend} engines to compare; build them with: nerve-build engines BUNDLE --target "
            f"{'tensorrt' if backend == 'tensorrt' else 'auto'}"
        )
    return [stage for stage in manifest.stages if stage in built]


def open_runner(name: str, bundle: Path, manifest: Manifest) -> Runner:
    """A runner by name: a back end of ours ("ort"), or "polygraphy:" and "ort", "rtx" or "tensorrt".

    Raises:
        UsageError: the name is unknown.
        CompatibilityError: polygraphy is asked for and not installed.
    """
    backend = name.removeprefix(POLYGRAPHY_PREFIX)
    if name.startswith(POLYGRAPHY_PREFIX) and backend in POLYGRAPHY_BACKENDS:
        return PolygraphyRunner(bundle, manifest, backend)
    if name in BACKEND_NAMES:
        return BackendRunner(bundle, manifest, name)
    raise UsageError(
        f"the runner is {name!r}, expected one of {', '.join(BACKEND_NAMES)}, or one of "
        f"{', '.join(POLYGRAPHY_PREFIX + known for known in POLYGRAPHY_BACKENDS)}"
    )


def import_polygraphy(*, tensorrt_rtx: bool) -> ModuleType:
    """Import polygraphy; it chooses between TensorRT and TensorRT-RTX once, while it is imported.

    Raises:
        CompatibilityError: it is not installed.
    """
    if tensorrt_rtx:
        os.environ[RTX_SWITCH] = "1"
    try:
        import polygraphy
        from polygraphy.logger import G_LOGGER
    except ImportError as error:
        raise CompatibilityError(
            f"polygraphy cannot be imported ({error}); install it with: pip install 'nerve-deploy[parity]'"
        ) from error
    # Its log repeats our report line by line.
    G_LOGGER.module_severity = G_LOGGER.CRITICAL
    module: ModuleType = polygraphy
    return module


def one_run(items: Sequence[Tensors], spec: StageSpec) -> dict[str, Array]:
    """The inputs of a stage for several frames in a run: those of each, side by side."""
    names = [tensor.name for tensor in spec.inputs]
    # A frame has an axis of its one item already.
    return {
        name: (np.concatenate if name == "frame" else np.stack)([np.asarray(item[name]) for item in items])
        for name in names
    }


def in_a_run_of_one(run: Run, spec: StageSpec) -> Run:
    """A stage of several frames in a run as one that takes and gives the tensors of one frame."""
    return lambda tensors: {name: array[0] for name, array in run(one_run([tensors], spec)).items()}


def with_class_slots(run: Run, spec: StageSpec, slots: int | None) -> Run:
    """Fill the class axis up to the slots that an engine fixes, and cut its outputs back.

    The slots added are off: their mask is False, their rows repeat the first class, their scores are 0.

    Raises:
        UsageError: on a run, where there are more classes than slots.
    """
    inputs = [tensor.name for tensor in spec.inputs]
    tensors_of = (*spec.inputs, *spec.outputs)
    by_class = {tensor.name: tensor.axes.index(CLASS_AXIS) for tensor in tensors_of if CLASS_AXIS in tensor.axes}

    def run_with_slots(tensors: Tensors) -> Mapping[str, Array]:
        given = {name: np.array(tensors[name], order="C") for name in inputs}
        if slots is None:
            return run(given)
        counts = {given[name].shape[by_class[name]] for name in inputs if name in by_class}
        if not counts:
            return run(given)
        classes = counts.pop()
        if classes > slots:
            raise UsageError(f"{classes} classes are given, the engine has {slots} slots; name fewer classes")
        filled = {
            name: _filled(name, array, by_class[name], slots) if name in by_class else array
            for name, array in given.items()
        }
        return {
            name: array.take(range(classes), by_class[name]) if name in by_class else array
            for name, array in run(filled).items()
        }

    return run_with_slots


def _filled(name: str, array: Array, axis: int, slots: int) -> Array:
    """An array with the classes of an axis filled up: `class_rows` with those of the first class, others with zeros."""
    first = array.take([0], axis)
    more = np.repeat(first if name == "class_rows" else np.zeros_like(first), slots - array.shape[axis], axis=axis)
    return np.concatenate([array, more], axis=axis)


def _session_options(library: Any) -> Any:
    options = library.SessionOptions()
    options.log_severity_level = ORT_ERRORS_ONLY
    return options
