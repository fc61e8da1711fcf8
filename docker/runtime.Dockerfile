# syntax=docker/dockerfile:1
# nerve-segment on an x86-64 machine with an NVIDIA GPU; see docker/README.md.
# To pin the bytes of a base too, append its digest: --build-arg BASE=nvidia/cuda:...@sha256:...
ARG BASE=nvidia/cuda:13.0.2-cudnn-runtime-ubuntu24.04
ARG WHEEL_BASE=python:3.11-slim-bookworm

FROM ${WHEEL_BASE} AS wheel
WORKDIR /source
COPY requirements/dev.txt requirements/dev.txt
RUN pip install --no-cache-dir --constraint requirements/dev.txt hatchling
COPY pyproject.toml README.md LICENSE ./
COPY nerve_ref nerve_ref
COPY export export
COPY runtime runtime
COPY benchmarks benchmarks
RUN pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheel .

FROM ${BASE} AS environment
# The release of Ubuntu that the base's tag names decides the versions.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends python3-venv && rm -rf /var/lib/apt/lists/*
COPY requirements/run.txt /pins/run.txt
COPY --from=wheel /wheel /wheel
# The wheel for NVIDIA GPUs in place of the processor's; never both.
RUN python3 -m venv /opt/nerve \
    && sed 's/^onnxruntime==/onnxruntime-gpu==/' /pins/run.txt > /pins/gpu.txt \
    && /opt/nerve/bin/pip install --no-cache-dir -r /pins/gpu.txt \
    && /opt/nerve/bin/pip install --no-cache-dir --no-deps /wheel/*.whl

FROM ${BASE}
LABEL org.opencontainers.image.title="nerve-segment" \
    org.opencontainers.image.description="NERVE: open-vocabulary segmentation of video, ONNX Runtime on NVIDIA GPUs" \
    org.opencontainers.image.licenses="Apache-2.0"
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends python3 && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 nerve && useradd --uid 10001 --gid nerve --create-home nerve
COPY --from=environment /opt/nerve /opt/nerve
ENV PATH=/opt/nerve/bin:$PATH PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /data
# The metrics are for the check below; another --metrics-port after it replaces this one, and then the check fails.
ENTRYPOINT ["nerve-segment", "--metrics-port", "9100"]
CMD ["--help"]
HEALTHCHECK --interval=15s --timeout=5s --start-period=180s CMD ["python3", "-c", "from urllib.request import urlopen; raise SystemExit(b'nerve_ready 1.0' not in urlopen('http://127.0.0.1:9100/metrics', timeout=4).read())"]
