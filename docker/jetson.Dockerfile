# syntax=docker/dockerfile:1
# nerve-segment and `nerve-build engines` on a Jetson with JetPack 6, with the TensorRT of its system; see docker/README.md.
# To pin the bytes of a base too, append its digest: --build-arg BASE=nvcr.io/nvidia/l4t-jetpack:...@sha256:...
ARG BASE=nvcr.io/nvidia/l4t-jetpack:r36.4.0
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

FROM ${BASE}
LABEL org.opencontainers.image.title="nerve-segment-jetson" \
    org.opencontainers.image.description="NERVE: open-vocabulary segmentation of video, TensorRT on Jetson" \
    org.opencontainers.image.licenses="Apache-2.0"
# The release of JetPack that the base's tag names decides the versions.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends python3-libnvinfer python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 nerve && useradd --uid 10001 --gid nerve --groups video --create-home nerve
COPY requirements/jetson.txt /pins/jetson.txt
COPY --from=wheel /wheel /wheel
# The environment sees the packages of the system, TensorRT among them.
RUN python3 -m venv --system-site-packages /opt/nerve \
    && /opt/nerve/bin/pip install --no-cache-dir -r /pins/jetson.txt \
    && /opt/nerve/bin/pip install --no-cache-dir --no-deps /wheel/*.whl
ENV PATH=/opt/nerve/bin:$PATH PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /data
# The metrics are for the check below; another --metrics-port after it replaces this one, and then the check fails.
ENTRYPOINT ["nerve-segment", "--metrics-port", "9100"]
CMD ["--help"]
HEALTHCHECK --interval=15s --timeout=5s --start-period=180s CMD ["python3", "-c", "from urllib.request import urlopen; raise SystemExit(b'nerve_ready 1.0' not in urlopen('http://127.0.0.1:9100/metrics', timeout=4).read())"]
