# One Dockerfile, two images: --build-arg FLAVOUR=cpu (torch's CPU build) or gpu (its CUDA build, for NVIDIA drivers 580+).
#
# The base is pinned by digest. To refresh it: docker buildx imagetools inspect python:3.11-slim-bookworm
ARG BASE_IMAGE=python:3.11-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b

FROM ${BASE_IMAGE} AS packages
ARG FLAVOUR=cpu
# The address of torch's index for CPU builds; it is on pytorch.org under "Get started". A pip.conf given as the secret
# pip_conf can name it too, and whatever else pip needs behind a proxy. The hashes hold whatever the source.
ARG TORCH_INDEX=
COPY deploy/image-${FLAVOUR}.lock /tmp/image.lock
RUN python3 -m venv /opt/venv
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check --no-compile --no-deps --require-hashes \
        --only-binary :all: ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} -r /tmp/image.lock \
    || { echo "pip could not install deploy/image-$FLAVOUR.lock. If it lacks torch: the CPU build is not on pip's own" \
              "index; name torch's (see pytorch.org) as --build-arg TORCH_INDEX=... or in a pip.conf" >&2; exit 1; }
# What no server opens: torch's C++ headers (there is no compiler here), test programs, and the packages' own tests.
RUN cd /opt/venv/lib/python3.11/site-packages \
    && rm -rf torch/include torch/test torch/share torch/bin/test_* torch/bin/protoc* torch/lib/*test*.so torch/lib/*.a \
              sympy/*/tests sympy/*/*/tests networkx/*/tests networkx/*/*/tests numpy/*/tests \
    && /opt/venv/bin/python -m compileall -q -j 0 -x py312_ .

FROM ${BASE_IMAGE}
ARG FLAVOUR=cpu
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Loadstone" \
      org.opencontainers.image.description="Serves any PyTorch checkpoint as an Azure ML online endpoint (${FLAVOUR})" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
RUN useradd --uid 1000 --create-home --shell /usr/sbin/nologin score && mkdir -p /var/azureml-app/azureml-models
COPY --from=packages /opt/venv /opt/venv
COPY models /opt/loadstone/models
COPY score /opt/loadstone/score
COPY deployment.yml /opt/loadstone/deployment.yml
RUN printf '/opt/loadstone\n' > /opt/venv/lib/python3.11/site-packages/loadstone.pth \
    && printf '#!/opt/venv/bin/python\nfrom score.cli.app import app\n\napp()\n' > /opt/venv/bin/score \
    && chmod 755 /opt/venv/bin/score \
    && /opt/venv/bin/python -m compileall -q /opt/loadstone

# On Azure ML, AZUREML_MODEL_DIR is set by the platform. Elsewhere: mount the model's folder here.
# PYTHONUNBUFFERED: the diagnosis of a failed start has to be what the log ends with.
ENV PATH=/opt/venv/bin:$PATH \
    AML_APP_ROOT=/opt/loadstone \
    AZUREML_MODEL_DIR=/var/azureml-app/azureml-models \
    GUNICORN_CMD_ARGS="--config /opt/loadstone/score/server/gunicorn_config.py" \
    HF_HUB_OFFLINE=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER score
WORKDIR /opt/loadstone
EXPOSE 5001
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:5001/', timeout=2)"]
CMD ["azmlinfsrv", "--entry_script", "/opt/loadstone/score/main.py", "--port", "5001"]
