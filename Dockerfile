# pgidle as the entrypoint of the official image, with all of that image's conventions.
#   docker build -t pgidle .
#   docker run -e POSTGRES_PASSWORD=... -p 5432:5432 --sysctl net.ipv4.tcp_migrate_req=1 pgidle --when-idle stay
# Without the sysctl, which a container may not set itself, the gate works in mode `synhold`.
ARG POSTGRES=postgres:18

FROM ${POSTGRES} AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev python3 python3-venv
WORKDIR /src
COPY . .
RUN python3 -m venv /build \
    && /build/bin/pip wheel --no-cache-dir --wheel-dir /wheels . \
    && python3 -m venv /opt/pgidle \
    && /opt/pgidle/bin/pip install --no-index --find-links /wheels pgidle \
    && /opt/pgidle/bin/pip uninstall -y pip

FROM ${POSTGRES}
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 tini \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/pgidle /opt/pgidle
RUN ln -s /opt/pgidle/bin/pgidle /usr/local/bin/pgidle
ENV PGIDLE_HTTP=0.0.0.0:8008
EXPOSE 5432 8008
STOPSIGNAL SIGINT
# tini reaps what Postgres leaves behind; the supervisor waits only for its own children.
ENTRYPOINT ["tini", "--", "pgidle", "run"]
CMD []
