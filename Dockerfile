# pgidle added to the official image, whose conventions all hold: see docs/docker.md.
#   docker build -t pgidle .        docker build -t pgidle --build-arg BASE=pgvector/pgvector:pg18 .
ARG BASE=postgres:18

FROM ${BASE} AS build
RUN command -v apt-get >/dev/null \
    || { echo "BASE must be an image on Debian 12 or newer: postgres:18, not postgres:18-alpine" >&2; exit 1; }
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev python3-venv
RUN python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
    || { echo "pgidle needs Python 3.11, this BASE has $(python3 -V): take one on Debian 12 or newer" >&2; exit 1; }
# For a machine that reaches package indexes only in a way of its own.
ARG PIP_INDEX_URL
ARG PIP_CERT
WORKDIR /src
COPY LICENSE README.md pyproject.toml ./
COPY pgidle pgidle
COPY docker /opt/pgidle
# Not a virtual environment but a folder that also holds both scripts of docker/: Python finds it without `site`, whose
# import would slow every wake. unchecked-hash: file times that a copy changes do not make the compiled files stale.
RUN python3 -m venv /build \
    && /build/bin/pip install --no-cache-dir --no-compile --target /opt/pgidle . \
    && ls /opt/pgidle/pgidle/gate/_listener.*.so \
    && rm -r /opt/pgidle/bin \
    && find /opt/pgidle -name tests -type d -prune -exec rm -r {} + \
    && python3 -m compileall -q --invalidation-mode unchecked-hash /opt/pgidle

FROM ${BASE}
# ca-certificates: for an on-event address with https.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates python3 tini \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/*
COPY --from=build /opt/pgidle /opt/pgidle
RUN ln -s /opt/pgidle/command /usr/local/bin/pgidle
# Without a host: every address, IPv4 and IPv6.
ENV PGIDLE_HTTP=:8008
EXPOSE 8008
STOPSIGNAL SIGINT
HEALTHCHECK --interval=30s --timeout=5s --retries=3 CMD ["pgidle", "health"]
# tini reaps what Postgres leaves behind, also (-s) where it is not the first process.
ENTRYPOINT ["tini", "-s", "--", "/opt/pgidle/entrypoint"]
CMD ["postgres"]
