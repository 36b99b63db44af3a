# docker build -t ringserve .
#
# Two stages: one with a compiler, which builds the wheel, and one that only has what it takes to run it. BASE is the
# official Python image, or a plain Debian (12 or later): `--build-arg BASE=debian:12-slim`. Both stages begin from the
# same image, because a virtual environment refers to the interpreter that made it by its path.
#
# To run it, io_uring has to be let through the container's seccomp filter: see examples/docker/README.md.

ARG BASE=python:3.13-slim

FROM ${BASE} AS build
# Debian's Python is installed where there is none, or one that cannot build: without headers, or without venv.
RUN set -eu; \
    export DEBIAN_FRONTEND=noninteractive; \
    apt-get update; \
    apt-get install -y --no-install-recommends gcc libc6-dev liburing-dev; \
    if ! python3 -c 'import ensurepip, os, sysconfig as s, venv; os.stat(s.get_path("include") + "/Python.h")'; then \
        apt-get install -y --no-install-recommends python3 python3-dev python3-venv; \
    fi; \
    rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY pyproject.toml setup.py README.md LICENSE ./
COPY ringserve ringserve
# The wheels are made by one environment and installed into another, so that pip is not in the one that is kept.
# liburing is linked from its archive: the extension must need no shared library that the second stage does not have.
RUN set -eu; \
    python3 -m venv /tools; \
    /tools/bin/pip wheel --no-cache-dir --disable-pip-version-check --wheel-dir /wheels '.[auth]'; \
    python3 -m venv --without-pip /opt/ringserve; \
    /tools/bin/pip --python /opt/ringserve/bin/python install --no-cache-dir --disable-pip-version-check \
        --no-index --find-links /wheels 'ringserve[auth]'; \
    extension=$(find /opt/ringserve -name '_uring*.so'); \
    if ldd "$extension" | grep liburing; then echo "liburing is linked as a shared library" >&2; exit 1; fi; \
    cd / && /opt/ringserve/bin/ringserve --version

FROM ${BASE}
COPY --from=build /opt/ringserve /opt/ringserve
# A plain Debian has no interpreter yet. The second call is the proof that everything is there. The directory is made
# here, since not every builder makes that of WORKDIR, and a runtime cannot if the root is read-only.
RUN set -eu; \
    mkdir /etc/ringserve; \
    if ! /opt/ringserve/bin/ringserve --version; then \
        export DEBIAN_FRONTEND=noninteractive; \
        apt-get update; \
        apt-get install -y --no-install-recommends python3; \
        rm -rf /var/lib/apt/lists/*; \
        /opt/ringserve/bin/ringserve --version; \
    fi
# Everybody, for the container's port is published on purpose; ringserve itself listens on localhost by default.
ENV RINGSERVE_HOST=0.0.0.0 \
    RINGSERVE_PORT=8080 \
    RINGSERVE_LOG_FORMAT=combined \
    PYTHONDONTWRITEBYTECODE=1
# Where a ringserve.toml is looked for. Not /srv: whoever may write what is served must not configure the server.
WORKDIR /etc/ringserve
# By number, so that Kubernetes' runAsNonRoot can tell that it is not root; it needs no account.
USER 10001:10001
EXPOSE 8080
STOPSIGNAL SIGTERM
# A client of the server's own address, by the same variables; there is no curl here. (It is kept in images of docker's
# format only: `buildah bud --format docker`. Kubernetes does not look at it and has probes of its own.)
HEALTHCHECK --interval=30s --timeout=5s --start-period=5s --retries=3 \
    CMD ["/opt/ringserve/bin/ringserve", "healthcheck"]
ENTRYPOINT ["/opt/ringserve/bin/ringserve"]
CMD ["/srv"]
