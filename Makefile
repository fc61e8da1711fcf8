# Everything a person or a machine does with this checkout. `make help` lists the targets.
# Works with GNU make 4.3 and any python3 from 3.11 on; nothing else has to be installed first.

PYTHON ?= python3
# More words for pip, for instance another index for PyTorch: make demo PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"
PIP_ARGS ?=
# How many tests run at a time; those that take longer run one after another.
JOBS ?= 2
# More words for pytest, for instance: make test PYTEST_ARGS="-k walk -x"
PYTEST_ARGS ?=

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules --no-print-directory

VENV := .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
ROOMS := $(CURDIR):$(CURDIR)/export:$(CURDIR)/runtime:$(CURDIR)/benchmarks
PIP := $(PY) -m pip --quiet --disable-pip-version-check

DEMO := out/demo
DEMO_CLASSES := runtime/nerve_stream/demo/classes.txt
WHEEL := build/wheel
# The wheel carries the tiny bundle, so that an installation can segment at once.
PACKAGED_BUNDLE := runtime/nerve_stream/tiny
TRUE_SIZE := build/true-size
EVIDENCE := out/evidence
ON_SCENES := accuracy parts heads steps affinity sweep layers providers adaptive groups transfer things better exact solo \
	tiles-256 tiles-384
TIMED := video latency memory cost load capacity capacity-assumed

READERS := build/readers
SEARCH_SHIM := build/docs/iframe-worker.js
NATIVE := build/native
CPP := $(wildcard runtime/native/src/*.cc runtime/native/src/*.h tests/native/*.cc tests/native/nvinfer/*.cc runtime/native/examples/*.cpp \
	export/nerve_export/deepstream/templates/*.cc export/nerve_export/deepstream/templates/*.h \
	tests/unit/nerve_export/deepstream/stand_ins/*.cc tests/unit/nerve_export/deepstream/stand_ins/*.h \
	runtime/native/ros2/nerve_segmenter/src/*.cpp)
CLANG_FORMAT := $(BIN)/clang-format --style=file:runtime/native/.clang-format
NATIVE_HEADERS := build/native-headers
# An ONNX Runtime for 64-bit ARM, which an emulator runs here.
ARM := build/native-aarch64
ARM_ONNXRUNTIME := $(ARM)/onnxruntime
# A Triton server for the tests.
TRITON := build/triton
# How long the native parsers are fuzzed.
SECONDS ?= 600
CLANG ?= $(notdir $(shell command -v clang || command -v clang-14 || echo clang))

# Quick tests of which some need what only test-slow installs.
WANT_SCALE := tests/unit/nerve_stream/triton tests/unit/nerve_export/triton tests/unit/nerve_export/deepstream
QUICK := not slow and not presets and not true_size and not native

.PHONY: help demo test test-slow native test-native test-exports native-arm fuzz-native fuzz-abi measure-native presets true-size rehearsal check format format-check lint types contracts coverage fuzz endurance bundle docs wheel train evidence clean

help: ## list the targets
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/make \1\t\2/p' Makefile | expand -t 20

demo: $(VENV)/.linked bundle $(DEMO)/world.mp4 ## build the tiny bundle and segment a moving scene with it
	@$(PY) runtime/segment.py $(DEMO)/world.mp4 --bundle bundles/tiny --classes-file $(DEMO_CLASSES) --force \
		--overlay $(DEMO)/overlay.mp4 --masks $(DEMO)/masks --jsonl $(DEMO)/results.jsonl
	@echo "overlay: $(DEMO)/overlay.mp4"
	@echo "live page: $(BIN)/nerve-segment $(DEMO)/world.mp4 --classes-file $(DEMO_CLASSES) --web"

test: $(VENV)/.linked bundle ## run every test that takes seconds
	@$(PY) -m pytest -q -n $(JOBS) --dist loadfile -m "$(QUICK)" $(PYTEST_ARGS)

# The C library last, so that a machine that cannot build it has run everything else; its tests are skipped there by name.
test-slow: $(VENV)/.linked $(VENV)/.scale $(VENV)/.deploy bundle ## run the tests that take longer, and the quick ones of the C library
	@$(MAKE) $(TRITON)/.fetched || echo "no Triton server can be fetched here; its tests are skipped" >&2
	@$(PY) -m pytest -q -m "$(QUICK)" $(PYTEST_ARGS) $(WANT_SCALE)
	@$(PY) -m pytest -q -m "slow and not presets and not true_size and not native" $(PYTEST_ARGS)
	@$(MAKE) native || echo "the C library cannot be built here; its tests are skipped" >&2
	@$(PY) -m pytest -q -m "native and not slow" $(PYTEST_ARGS) tests/native

# $(call build_native,PRESET,MORE WORDS) builds one of runtime/native/CMakePresets.json; the compiler is only heard when it fails.
define build_native
mkdir -p build
(cd runtime/native \
	&& "$(CURDIR)/$(BIN)/cmake" --preset $(1) $(2) \
	&& "$(CURDIR)/$(BIN)/cmake" --build --preset $(1) --parallel 2) > build/native-$(1).txt 2>&1 \
	|| { cat build/native-$(1).txt >&2; exit 1; }
endef

native: $(VENV)/.linked $(NATIVE_HEADERS)/onnxruntime_c_api.h ## build the library for C and C++, libnerve.so
	@$(call build_native,release)
	@strip -o $(NATIVE)/stripped.so $(NATIVE)/libnerve.so
	@echo "library: $(NATIVE)/libnerve.so ($$(($$(stat -c %s $(NATIVE)/stripped.so) / 1000)) kB stripped)"

test-native: bundle native ## run the tests of the native library, with sanitizers, and for ARM where its compiler is installed
	@if command -v aarch64-linux-gnu-g++ > /dev/null; then $(MAKE) native-arm; fi
	@$(PY) -m pytest -q -m native $(PYTEST_ARGS) tests/native

native-arm: $(VENV)/.linked $(NATIVE_HEADERS)/onnxruntime_c_api.h $(ARM_ONNXRUNTIME)/.fetched ## build the native library for 64-bit ARM
	@command -v aarch64-linux-gnu-g++ > /dev/null \
		|| { echo "the compiler for ARM is missing; on Debian: apt install g++-aarch64-linux-gnu qemu-user" >&2; exit 1; }
	@$(call build_native,aarch64)
	@echo "library: $(ARM)/libnerve.so"

fuzz-native: $(VENV)/.linked bundle $(NATIVE_HEADERS)/onnxruntime_c_api.h ## feed mutated files to the native parsers for SECONDS=600
	@command -v $(CLANG) > /dev/null || { echo "clang is missing; on Debian: apt install clang, or name yours:" \
		"make fuzz-native CLANG=clang-18" >&2; exit 1; }
	@$(call build_native,fuzz,-DCMAKE_C_COMPILER=$(CLANG) -DCMAKE_CXX_COMPILER=$(subst clang,clang++,$(CLANG)))
	@$(PY) -m tests.native.fuzz_seeds build/native-fuzz/seeds
	@mkdir -p build/native-fuzz/corpus
	@cd build/native-fuzz && . seeds/settings.sh && ./fuzz_parsers -max_total_time=$(SECONDS) -timeout=10 -rss_limit_mb=2048 -max_len=65536 \
		-dict=seeds/dictionary.txt -print_final_stats=1 corpus seeds/corpus

# Every mutated file goes through the C interface under the address sanitizer; most have hashes that fit.
fuzz-abi: native ## feed 3,000 mutated bundles and vocabulary files to the C interface, with the address sanitizer
	@$(call build_native,asan)
	@$(PY) -m tests.native.fuzz build/native-asan/libnerve.so

measure-native: native bundle ## print what the C library costs beside the Python runtime: time, start-up, memory
	@$(PY) -m tests.native.measure $(NATIVE)/libnerve.so

$(NATIVE_HEADERS)/onnxruntime_c_api.h:
	@runtime/native/tools/fetch_headers.sh $(NATIVE_HEADERS)

# The release that requirements/dev.txt names: the same numbers are expected of both.
$(ARM_ONNXRUNTIME)/.fetched: requirements/dev.txt | $(VENV)/.linked
	@rm -rf $(ARM_ONNXRUNTIME) && mkdir -p $(ARM_ONNXRUNTIME)
	@$(PIP) download --no-deps --only-binary=:all: --platform manylinux_2_28_aarch64 --python-version 3.11 \
		--dest $(ARM_ONNXRUNTIME) $$(grep '^onnxruntime==' requirements/dev.txt)
	@cd $(ARM_ONNXRUNTIME) && "$(CURDIR)/$(PY)" -m zipfile -e *.whl unpacked && rm *.whl
	@touch $@

$(TRITON)/.fetched: requirements/triton-server.txt | $(VENV)/.linked
	@echo "fetching the Triton server of the tests into $(TRITON), 73 MB" >&2
	@rm -rf $(TRITON) && mkdir -p $(TRITON)
	@$(PIP) download $(PIP_ARGS) --no-deps --only-binary=:all: --dest $(TRITON) -r requirements/triton-server.txt
	@cd $(TRITON) && for name in nvidia_pytriton numpy; do "$(CURDIR)/$(PY)" -m zipfile -e $$name-*.whl $$name; done && rm *.whl
	@touch $@

test-exports: $(VENV)/.linked $(READERS)/.installed ## read exports back with the libraries of CVAT, COCO, YOLO and Label Studio
	@$(PY) -m pytest -q $(PYTEST_ARGS) tests/unit/nerve_stream/exports

# They want another OpenCV and pandas than ours.
$(READERS)/.installed: requirements/readers.txt
	@$(PYTHON) -m venv $(READERS)
	@$(READERS)/bin/python -m pip --quiet --disable-pip-version-check install $(PIP_ARGS) -r requirements/readers.txt
	@touch $@

presets: $(VENV)/.linked ## build every kind of network that no preset names, and edge, sd15 and dinov2 from a stand-in of the hub (half an hour)
	@$(PY) -m pytest -q -m presets $(PYTEST_ARGS)

check: format-check lint types contracts test ## all that a change must pass

format: $(VENV)/.linked ## format the code and sort its imports
	@$(BIN)/ruff check --quiet --select I --fix .
	@$(BIN)/ruff format --quiet .
	@$(CLANG_FORMAT) -i $(CPP)

format-check: $(VENV)/.linked
	@$(BIN)/ruff format --quiet --check . && $(CLANG_FORMAT) --dry-run --Werror $(CPP) \
		|| { echo "some files are not formatted; run: make format" >&2; exit 1; }

lint: $(VENV)/.linked ## look for mistakes and bad habits (ruff)
	@$(BIN)/ruff check --quiet .

types: $(VENV)/.linked ## check the types (mypy, strict)
	@$(BIN)/mypy --no-error-summary

contracts: $(VENV)/.linked ## check who imports whom (import-linter)
	@mkdir -p build
	@PYTHONPATH="$(ROOMS)" $(BIN)/lint-imports --no-cache > build/contracts.txt 2>&1 || { cat build/contracts.txt >&2; exit 1; }

fuzz: $(VENV)/.linked bundle ## feed 3,000 mutated graphs, manifests and bundles to the runtime
	@$(PY) -m tests.fuzz

# What a camera in the field does in a week: flaps and freezes, hours in small, ten times too many frames, a long file.
endurance: $(VENV)/.linked bundle ## run live sources, load, soak and a ten-minute file for about 45 minutes
	@$(PY) -m tests.load --seconds 60
	@$(PY) -m tests.load --seconds 30 --overload 10
	@$(PY) -m tests.soak --seconds 300
	@if $(PY) -m tests.soak --seconds 60 --leak-bytes-per-frame 1024; then echo "the leaking control was not caught" >&2; exit 1; fi
	@mkdir -p build && $(PY) -m tests.flaps --kills 50 --freezes 10 --log build/flaps.jsonl
	@$(PY) -m tests.long_video build/long-video

coverage: $(VENV)/.linked bundle ## measure how much of the runtime the tests reach
	@$(PY) -m pytest -q -m "$(QUICK)" --cov --cov-report=term $(PYTEST_ARGS)

# The builder answers at once when nothing changed, so a bundle is never older than the code that is tested.
bundle: $(VENV)/.linked ## build bundles/tiny
	@$(PY) export/build_engines.py

$(DEMO)/world.mp4: $(wildcard benchmarks/nerve_bench/world/*.py) | $(VENV)/.linked
	@mkdir -p $(@D)
	@$(PY) benchmarks/run.py demo-video --out $@

# Two presets with random weights, engines included; then cost, size and dead code, and every preset at opset 20.
true-size: $(VENV)/.linked ## build sd21 and sd21-fast at true size and check them (about an hour, 20 GB of disk)
	@mkdir -p $(TRUE_SIZE)
	@for preset in sd21 sd21-fast; do \
		$(PY) export/build_engines.py --preset $$preset --random-weights 0 --precision fp16 --target rtx:sm89 \
			--out $(TRUE_SIZE)/$$preset --force --json | tee $(TRUE_SIZE)/$$preset.jsonl; \
	done
	@$(PY) -m pytest -q -m true_size -o faulthandler_timeout=7200 $(PYTEST_ARGS)

docs: $(VENV)/.docs $(SEARCH_SHIM) ## make a site of docs/ that needs no network
	@rm -rf build/site
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict > build/docs/log.txt 2>&1 || { cat build/docs/log.txt >&2; exit 1; }
	@echo "pages: build/site/index.html"

# The hub's file lists, names and sizes with random numbers in them, over a server that cuts, is busy and sends a wrong byte.
rehearsal: $(VENV)/.linked ## build edge at true size from a stand-in of the hub, as with real weights (20 GB of disk)
	@$(PY) -m tests.rehearsal build/rehearsal

wheel: $(VENV)/.linked bundle $(DEMO)/world.mp4 ## build the wheel and run it alone, without PyTorch: embedded, and as nerve-segment
	@rm -rf $(WHEEL) $(PACKAGED_BUNDLE) && mkdir -p $(WHEEL)
	@cp -rL bundles/tiny $(PACKAGED_BUNDLE)
	@$(PY) -m build --no-isolation --wheel --outdir $(WHEEL)/dist . > $(WHEEL)/build.txt 2>&1 \
		|| { cat $(WHEEL)/build.txt >&2; rm -rf $(PACKAGED_BUNDLE); exit 1; }
	@rm -rf $(PACKAGED_BUNDLE)
	@for pins in embed run; do \
		$(PYTHON) -m venv $(WHEEL)/$$pins; \
		$(WHEEL)/$$pins/bin/python -m pip --quiet --disable-pip-version-check install $(PIP_ARGS) -r requirements/$$pins.txt; \
		$(WHEEL)/$$pins/bin/python -m pip --quiet --disable-pip-version-check install --no-deps $(WHEEL)/dist/*.whl; \
	done
	@tests/contracts/wheel_alone.sh "$(CURDIR)/$(WHEEL)" "$(CURDIR)/bundles/tiny" "$(CURDIR)/$(DEMO)/world.mp4"
	@echo "wheel: $$(ls $(WHEEL)/dist/*.whl)"

train: $(VENV)/.linked ## train the tiny models again (about two hours on 2 cores)
	@$(PY) benchmarks/run.py train-tiny

# A figure that is there is not measured again: make clean, or remove its file. What is timed runs alone, at the end.
evidence: $(VENV)/.linked bundle ## measure all figures of docs but walk and true size (about two and a half hours)
	@OMP_NUM_THREADS=1 $(MAKE) -j2 $(ON_SCENES:%=$(EVIDENCE)/%.jsonl)
	@$(MAKE) -j1 $(TIMED:%=$(EVIDENCE)/%.jsonl)
	@$(BIN)/nerve-bench figures

$(EVIDENCE)/%.jsonl:
	@mkdir -p $(@D)
	@echo "measuring $*" >&2
	@$(BIN)/nerve-bench $(COMMAND_$*) --json > $@.tmp 2> $@.log || { tail -3 $@.log >&2; exit 1; }
	@mv $@.tmp $@

COMMAND_accuracy := accuracy
COMMAND_tiles-256 := tiles --width 256
COMMAND_tiles-384 := tiles --width 384
COMMAND_video := video --limit 40 --plot docs/images/video.png
COMMAND_latency := latency --limit 128
COMMAND_memory := memory
COMMAND_cost := cost bundles/tiny
COMMAND_load := load
COMMAND_capacity := capacity --plot docs/images/capacity.png
COMMAND_capacity-assumed := capacity --service-ms keyframe=5,follow=1
$(foreach name,$(filter-out accuracy tiles-%,$(ON_SCENES)),$(eval COMMAND_$(name) := experiment $(name) $(if $(filter steps sweep exact,$(name)),--plots docs/images)))

clean: ## remove all that was made, but keep the environment
	@rm -rf build bundles dist out .coverage .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -not -path "./$(VENV)/*" -prune -exec rm -rf {} +

# Two stamps: pins that change install packages, a changed pyproject.toml only links the commands again.
$(VENV)/.installed: requirements/dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "the pinned environment needs Python 3.11" \
		"or newer, $(PYTHON) is $$($(PYTHON) -V 2>&1); run: make PYTHON=python3.11 ..." >&2; exit 1; }
	@echo "making $(VENV) from requirements/dev.txt, some minutes the first time" >&2
	@$(PYTHON) -m venv $(VENV) || { echo "$(PYTHON) cannot make an environment; on Debian: apt install python3-venv" >&2; exit 1; }
	@$(PIP) install $(PIP_ARGS) -r requirements/dev.txt
	@touch $@

# Ray and the client of Triton, 0.7 GB that only test-slow needs.
$(VENV)/.scale: requirements/scale.txt | $(VENV)/.linked
	@$(PIP) install $(PIP_ARGS) -r requirements/scale.txt
	@touch $@

# The linters of docker/ and deploy/, 107 MB that only test-slow needs. Debian alone has promtool; elsewhere its tests are skipped.
$(VENV)/.deploy: requirements/deploy.txt tests/deploy/fetch_promtool.sh | $(VENV)/.linked
	@$(PIP) install $(PIP_ARGS) -r requirements/deploy.txt
	@test -x build/promtool/promtool || tests/deploy/fetch_promtool.sh build/promtool > /dev/null 2>&1 \
		|| echo "promtool cannot be fetched here; its tests are skipped" >&2
	@touch $@

# 1 kB that lets a browser search pages that were opened as files; without it the search needs a server.
$(SEARCH_SHIM):
	@mkdir -p $(@D)
	@cd $(@D) && npm pack --silent iframe-worker@1.0.4 > /dev/null && tar xzf iframe-worker-1.0.4.tgz --strip-components 2 package/shim/index.js \
		&& mv index.js $(@F) || { echo "npm cannot fetch iframe-worker here: searching takes a server, python3 -m http.server -d build/site" >&2; \
		echo "// npm was not there when this site was made" > $(@F); }

# mkdocs and its theme, which only docs needs.
$(VENV)/.docs: requirements/docs.txt | $(VENV)/.linked
	@$(PIP) install $(PIP_ARGS) -r requirements/docs.txt
	@touch $@

$(VENV)/.linked: $(VENV)/.installed pyproject.toml
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@
