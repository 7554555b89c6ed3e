# syntax=docker/dockerfile:1
# One image for every role: `tenuto topics`, `worker features`, `worker join`, `sink parquet`, …
#
#   docker build -t tenuto .
#   docker build -t tenuto-trainer --build-arg EXTRAS=workers,trainer .
#
# The trainer's extra brings PyTorch; for its CPU build add
#   --build-arg PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
#
# An application adds its own code to the working directory, where `--app module:object` finds it:
#
#   FROM tenuto
#   COPY myapp/ /app/myapp/
#   ENV TENUTO_APP=myapp.ranking:app

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
    && install --directory --owner tenuto --group tenuto /app /samples
COPY --from=build /opt/tenuto /opt/tenuto

ENV PATH=/opt/tenuto/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    TENUTO_SINK__DIR=/samples \
    TENUTO_WORKERS__METRICS_HOST=0.0.0.0 \
    TENUTO_WORKERS__METRICS_PORT=9100

USER tenuto
WORKDIR /app
VOLUME /samples
EXPOSE 9100

# Workers end by SIGTERM with everything committed, and by a crash: restart them always.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.environ['TENUTO_WORKERS__METRICS_PORT'] + '/metrics', timeout=4)"]

ENTRYPOINT ["tenuto"]
CMD ["--help"]
