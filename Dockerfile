FROM python:3.11-slim

WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE NOTICE ./
COPY realtime realtime
COPY store store
RUN pip install --no-cache-dir --constraint constraints.txt . \
    && useradd --system --create-home runstream

# Elsewhere than in /app, whose sources would be imported instead of what was installed.
USER runstream
WORKDIR /home/runstream

EXPOSE 8080
# SIGTERM sends the clients away in order before the process ends: give it time to.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8080/readyz', timeout=2)"]

# An API key must be set (RUNSTREAM_API_KEY): without one it listens on loopback only.
ENTRYPOINT ["realtime"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8080"]
