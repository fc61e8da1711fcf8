# syntax=docker/dockerfile:1
# Triton with the runtime that the Python model of `nerve-build triton` imports, without PyTorch; see docker/README.md.
# To pin the bytes of a base too, append its digest: --build-arg BASE=nvcr.io/nvidia/tritonserver:...@sha256:...
ARG BASE=nvcr.io/nvidia/tritonserver:26.04-py3
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

# With the Python that Triton's back end starts. Triton itself runs the graphs, so no ONNX Runtime is installed.
FROM ${BASE} AS environment
COPY requirements/triton-image.txt /pins/triton-image.txt
COPY --from=wheel /wheel /wheel
# The pins are complete: nothing else is fetched.
RUN python3 -m pip install --no-cache-dir --no-deps --target /opt/nerve -r /pins/triton-image.txt /wheel/*.whl

FROM ${BASE}
LABEL org.opencontainers.image.title="nerve-triton" \
    org.opencontainers.image.description="NERVE: Triton Inference Server with the runtime that serves a bundle" \
    org.opencontainers.image.licenses="Apache-2.0"
COPY --from=environment /opt/nerve /opt/nerve
ENV PYTHONPATH=/opt/nerve PYTHONUNBUFFERED=1
# NVIDIA's own user of this image has this number.
USER 1000:1000
EXPOSE 8000 8001 8002
# The entry point of the base sets up the libraries and runs this.
CMD ["tritonserver", "--model-repository=/models", "--strict-readiness=true"]
HEALTHCHECK --interval=10s --timeout=5s --start-period=300s CMD ["curl", "--fail", "--silent", "http://127.0.0.1:8000/v2/health/ready"]
