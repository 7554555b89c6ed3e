# syntax=docker/dockerfile:1
# One image for `tenuto topics`, `worker features`, `worker join`, `sink parquet`, …; and with PyTorch,
# which `train` and `checkpoints` need, another that can do all of them:
#
#   docker build -t tenuto .
#   docker build -t tenuto-trainer --build-arg EXTRAS=workers,trainer .
#
# For PyTorch's CPU build add
#   --build-arg PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
#
# An application adds its own code to the working directory, where `--app module:object` finds it:
#
#   FROM tenuto
#   COPY myapp/ /app/myapp/
#   ENV TENUTO_APP=myapp.ranking:app
#
# and, for checkpoints at an s3:// or gs:// URL, fsspec's package for it (s3fs, gcsfs).

FROM python:3.11-slim AS build

ARG EXTRAS=workers
ARG PIP_EXTRA_INDEX_URL=""

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1

RUN python -m venv /opt/tenuto
WORKDIR /src
# The packages in tenuto/ are links to these folders.
COPY pyproject.toml README.md ./
COPY features/ features/
COPY snapshot/ snapshot/
COPY streams/ streams/
COPY trainer/ trainer/
COPY tenuto/ tenuto/
RUN PIP_EXTRA_INDEX_URL="${PIP_EXTRA_INDEX_URL}" /opt/tenuto/bin/pip install ".[${EXTRAS}]"

FROM python:3.11-slim

RUN useradd --system --uid 10001 --create-home tenuto \
    && install --directory --owner tenuto --group tenuto /app /samples /checkpoints
COPY --from=build /opt/tenuto /opt/tenuto

ENV PATH=/opt/tenuto/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    TENUTO_SINK__DIR=/samples \
    TENUTO_TRAINER__STORE=/checkpoints \
    TENUTO_WORKERS__METRICS_HOST=0.0.0.0 \
    TENUTO_WORKERS__METRICS_PORT=9100

USER tenuto
WORKDIR /app
VOLUME /samples /checkpoints
EXPOSE 9100

# SIGTERM ends a process with nothing half done; whatever else ends it, restart it always.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.environ['TENUTO_WORKERS__METRICS_PORT'] + '/metrics', timeout=4)"]

ENTRYPOINT ["tenuto"]
CMD ["--help"]
