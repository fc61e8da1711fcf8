# syntax=docker/dockerfile:1
# Everything that builds bundles, and engines of TensorRT-RTX for GPUs that need not be here; see docker/README.md.
# To pin the bytes of the base too, append its digest: --build-arg BASE=python:...@sha256:...
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS environment
# For instance an index with PyTorch's CPU build, which saves gigabytes: --build-arg PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"
ARG PIP_ARGS=""
WORKDIR /source
COPY requirements/dev.txt requirements/dev.txt
# Unquoted, as these are several words.
# hadolint ignore=SC2086
RUN python -m venv /opt/nerve && /opt/nerve/bin/pip install --no-cache-dir ${PIP_ARGS} -r requirements/dev.txt
COPY pyproject.toml README.md LICENSE ./
COPY nerve_ref nerve_ref
COPY export export
COPY runtime runtime
COPY benchmarks benchmarks
RUN /opt/nerve/bin/pip install --no-cache-dir --no-deps --no-build-isolation .

FROM ${BASE}
LABEL org.opencontainers.image.title="nerve-build" \
    org.opencontainers.image.description="NERVE: bundles of ONNX graphs and TensorRT-RTX engines from networks in PyTorch" \
    org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --gid 10001 nerve && useradd --uid 10001 --gid nerve --create-home nerve
COPY --from=environment /opt/nerve /opt/nerve
ENV PATH=/opt/nerve/bin:$PATH PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /data
ENTRYPOINT ["nerve-build"]
CMD ["--help"]
# It ends when the bundle is built: there is nothing to ask.
HEALTHCHECK NONE
