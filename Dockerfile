# The gateway; with target `embedded` the gateway with its own small engine (llama.cpp, no GPU); with target
# `gpu-sidecar` the program that reads NVIDIA cards.
#
#   docker build -t unified-llm-gateway .
#   docker build -t unified-llm-gateway:embedded --target embedded .
#   docker build -t gpu-sidecar --target gpu-sidecar .
#
# Any image with Python 3.11 or newer under the name python3 will do as the base. There is no syntax line, and
# nothing that Docker Engine 20.10 would not know.
ARG BASE_IMAGE=python:3.12-slim

FROM ${BASE_IMAGE} AS build-gateway
COPY requirements/image.lock /tmp/requirements.lock
# Both secrets are for builds behind a package mirror of one's own, and need not be there.
RUN --mount=type=secret,id=pipconf,target=/etc/pip.conf,required=false \
    --mount=type=secret,id=cabundle,target=/run/ca.crt,required=false \
    if [ -s /run/ca.crt ]; then export PIP_CERT=/run/ca.crt; fi; \
    python3 -m venv /opt/venv \
 && /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check --timeout 60 --no-deps --require-hashes \
      -r /tmp/requirements.lock \
 && find /opt/venv -depth -type d -name __pycache__ -exec rm -rf {} +

FROM ${BASE_IMAGE} AS build-embedded
COPY requirements/runtime.lock /tmp/requirements.lock
RUN --mount=type=secret,id=pipconf,target=/etc/pip.conf,required=false \
    --mount=type=secret,id=cabundle,target=/run/ca.crt,required=false \
    if [ -s /run/ca.crt ]; then export PIP_CERT=/run/ca.crt; fi; \
    python3 -m venv /opt/venv \
 && /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check --timeout 60 --no-deps --require-hashes \
      -r /tmp/requirements.lock
COPY gateway /app/gateway
WORKDIR /app
# The small model's weights go into the image: what it serves must not depend on the network.
RUN --mount=type=secret,id=pipconf,target=/etc/pip.conf,required=false \
    --mount=type=secret,id=cabundle,target=/run/ca.crt,required=false \
    if [ -s /run/ca.crt ]; then export PIP_CERT=/run/ca.crt; fi; \
    XDG_CACHE_HOME=/opt/weights /opt/venv/bin/python -m gateway.engine.weights ensure smollm2-q4_1 \
 && XDG_CACHE_HOME=/opt/weights /opt/venv/bin/python -m gateway.engine.weights ensure smollm2-q8_0 \
 && find /opt/venv /app -depth -type d -name __pycache__ -exec rm -rf {} +

FROM ${BASE_IMAGE} AS base
LABEL org.opencontainers.image.title="Unified LLM Inference Gateway" \
      org.opencontainers.image.description="One API in front of all your models on one GPU that cannot hold them all" \
      org.opencontainers.image.licenses="MIT"
# Made here, so that volumes mounted there belong to the user who runs.
RUN mkdir -p /var/lib/gateway /run/gateway && chown 10001:10001 /var/lib/gateway /run/gateway
WORKDIR /app
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    GATEWAY_HOST=0.0.0.0 \
    GATEWAY_PORT=8000 \
    GATEWAY_LOG_FORMAT=json \
    GATEWAY_RUN_DIR=/var/lib/gateway
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
  CMD ["python3", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
USER 10001:10001
ENTRYPOINT ["python3", "-m", "gateway"]
CMD ["serve"]

FROM ${BASE_IMAGE} AS gpu-sidecar
LABEL org.opencontainers.image.title="GPU sidecar of the Unified LLM Inference Gateway" \
      org.opencontainers.image.licenses="MIT"
WORKDIR /app
COPY monitoring/gpu/requirements.lock ./
RUN --mount=type=secret,id=pipconf,target=/etc/pip.conf,required=false \
    --mount=type=secret,id=cabundle,target=/run/ca.crt,required=false \
    if [ -s /run/ca.crt ]; then export PIP_CERT=/run/ca.crt; fi; \
    python3 -m pip install --no-cache-dir --disable-pip-version-check --timeout 60 --root-user-action=ignore \
      --break-system-packages --no-deps --require-hashes -r requirements.lock
COPY monitoring/gpu/gpu_sidecar ./gpu_sidecar
# The NVIDIA container toolkit puts the driver's management library in, and no more than that.
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=utility \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
ENTRYPOINT ["python3", "-m", "gpu_sidecar"]

FROM base AS embedded
USER root
# llama.cpp needs OpenMP's library.
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends libgomp1 \
 && rm -rf /var/lib/apt/lists/* /var/log/*
USER 10001:10001
COPY --from=build-embedded /opt/venv /opt/venv
COPY --from=build-embedded /opt/weights /opt/weights
COPY gateway /app/gateway
COPY models/*.yaml /app/models/
ENV XDG_CACHE_HOME=/opt/weights \
    GATEWAY_CONFIG=/app/models/local.yaml

FROM base AS gateway
COPY --from=build-gateway /opt/venv /opt/venv
COPY gateway /app/gateway
COPY models/*.yaml /app/models/
ENV GATEWAY_CONFIG=/app/models/models.yaml
