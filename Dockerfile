# The backend. CPU:  docker build -t calico .
#              Workers: docker build -t calico:cluster --build-arg EXTRAS=postgres,cluster .
#              GPU:  docker build -t calico:gpu --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130 .
FROM python:3.12-slim

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG EXTRAS=postgres
ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1

WORKDIR /app
RUN pip install torch --index-url "$TORCH_INDEX"
COPY pyproject.toml README.md LICENSE ./
COPY calico calico
RUN pip install ".[$EXTRAS]"
COPY backend backend

# The inbox and the media cache live in /data: give it a volume. Several backends and workers share /registry, a new volume
# of which belongs to whom the folder here belongs to.
RUN useradd --uid 1000 calico && install -d -o calico /data /registry
USER calico
VOLUME /data

# Listening on all addresses needs a credential: set CALICO_WEBHOOK_SECRET or the two of basic auth.
ENV CALICO_HOST=0.0.0.0 CALICO_PORT=9090 CALICO_DATA_DIR=/data
EXPOSE 9090
HEALTHCHECK --interval=10s --timeout=2s --start-period=60s \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ[\"CALICO_PORT\"]}/health')"]
CMD ["python", "-m", "backend"]
