# One Dockerfile, two images: --build-arg FLAVOUR=cpu (torch's CPU build) or gpu (its CUDA build). Any builder takes it:
# `az acr build` has no BuildKit, so nothing here needs it.
#
# The base is pinned by digest. To refresh it: docker buildx imagetools inspect python:3.11-slim-bookworm
ARG BASE_IMAGE=python:3.11-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b

# torch's CUDA 13 build needs an NVIDIA driver of release 580, and Azure's GPU hosts have been seen with 535. For the gpu
# flavour, name an image that carries NVIDIA's cuda-compat, such as nvidia/cuda:13.0.1-base-ubuntu22.04: the container
# runtime takes the libraries in /usr/local/cuda/compat where the host's driver is older than they are.
ARG COMPAT_IMAGE=${BASE_IMAGE}
# The memory allocator: glibc's takes convolutional networks up to two thirds of their time on a CPU (docs/tuning.md). apt
# checks Debian's signature. ALLOCATOR= builds without, where no archive of Debian's can be reached.
ARG ALLOCATOR=libtcmalloc-minimal4=2.10-1

FROM ${COMPAT_IMAGE} AS compat
USER root
RUN mkdir -p /usr/local/cuda/compat

FROM ${BASE_IMAGE} AS packages
ARG FLAVOUR=cpu
# The address of torch's index for CPU builds; it is on pytorch.org under "Get started". What else pip needs behind a proxy
# comes the same way, and stays out of the image, which has nothing of this stage but the packages. The hashes hold
# whatever the source.
ARG TORCH_INDEX=
ARG PIP_INDEX_URL=
ARG PIP_EXTRA_INDEX_URL=
ARG PIP_FIND_LINKS=
ARG PIP_TRUSTED_HOST=
ARG PIP_PROXY=
COPY deploy/image-${FLAVOUR}.lock /tmp/image.lock
RUN python3 -m venv /opt/venv
RUN /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check --no-compile --no-deps --require-hashes \
        --only-binary :all: ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} -r /tmp/image.lock \
    || { echo "pip could not install deploy/image-$FLAVOUR.lock. If it lacks torch: the CPU build is not on pip's own" \
              "index; name torch's (see pytorch.org) as --build-arg TORCH_INDEX=..." >&2; exit 1; }
ARG ALLOCATOR
RUN mkdir /opt/allocator; [ -z "$ALLOCATOR" ] || { apt-get update -qq \
        && apt-get install -qq -y --no-install-recommends "$ALLOCATOR" \
        && cp -L /usr/lib/*/libtcmalloc_minimal.so.4 /opt/allocator/; } \
    || { echo "apt could not install $ALLOCATOR. Where Debian's archive can't be reached: --build-arg ALLOCATOR=" >&2; exit 1; }
# What no server opens: torch's C++ headers (there is no compiler here), test programs, and the packages' own tests.
RUN cd /opt/venv/lib/python3.11/site-packages \
    && rm -rf torch/include torch/test torch/share torch/bin/test_* torch/bin/protoc* torch/lib/*test*.so torch/lib/*.a \
              pandas/tests sympy/*/tests sympy/*/*/tests networkx/*/tests networkx/*/*/tests numpy/*/tests \
    && /opt/venv/bin/python -m compileall -q -j 0 -x py312_ .

FROM ${BASE_IMAGE}
ARG ALLOCATOR
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
COPY --from=packages /opt/allocator/ /usr/lib/
COPY --from=compat /usr/local/cuda/compat /usr/local/cuda/compat
COPY models /opt/loadstone/models
COPY score /opt/loadstone/score
COPY deployment.yml /opt/loadstone/deployment.yml
RUN printf '/opt/loadstone\n' > /opt/venv/lib/python3.11/site-packages/loadstone.pth \
    && printf '#!/opt/venv/bin/python\nfrom score.cli.app import main\n\nmain()\n' > /opt/venv/bin/score \
    && printf '#!/bin/sh\nexec score serve "$@"\n' > /opt/venv/bin/serve \
    && chmod 755 /opt/venv/bin/score /opt/venv/bin/serve \
    && /opt/venv/bin/python -m compileall -q /opt/loadstone

# LD_PRELOAD, and what two libraries have to know of it: score/inference/allocator.py.
# On Azure ML, AZUREML_MODEL_DIR is set by the platform. Elsewhere: mount the model's folder here.
# PYTHONUNBUFFERED: the diagnosis of a failed start has to be what the log ends with.
ENV PATH=/opt/venv/bin:$PATH \
    AML_APP_ROOT=/opt/loadstone \
    AZUREML_MODEL_DIR=/var/azureml-app/azureml-models \
    GUNICORN_CMD_ARGS="--config /opt/loadstone/score/server/gunicorn_config.py" \
    HF_HUB_OFFLINE=1 \
    LD_PRELOAD=${ALLOCATOR:+/usr/lib/libtcmalloc_minimal.so.4} \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    NVIDIA_VISIBLE_DEVICES=all \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    TBB_ENABLE_SANITIZERS=1 \
    TCMALLOC_LARGE_ALLOC_REPORT_THRESHOLD=0
# By number: Kubernetes refuses a name where a pod says runAsNonRoot.
USER 1000
WORKDIR /opt/loadstone
EXPOSE 5001
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request; e = os.environ.get; urllib.request.urlopen(f\"http://127.0.0.1:{e('AIP_HTTP_PORT') or e('PORT') or 5001}/\", timeout=2)"]
# azmlinfsrv, on the port and with the model that the platform names: score/cli/platforms.py.
CMD ["score", "serve", "--verbose"]
