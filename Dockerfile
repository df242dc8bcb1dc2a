# The sidecar in a container: the locked dependencies and the program, run by a user without rights or a name.

ARG PYTHON=3.14-slim-trixie

FROM python:${PYTHON} AS build
COPY requirements-image.lock /tmp/requirements-image.lock
# Into the environment goes what is locked by its hash, Redis and tracing included, and no pip. Wheels only: there is no compiler.
RUN python -m venv --without-pip /app \
    && python -m pip --python /app/bin/python --disable-pip-version-check --no-cache-dir \
        install --no-compile --only-binary :all: --no-deps --require-hashes -r /tmp/requirements-image.lock
COPY proxy /app/src/proxy
# Nothing is written at run time, so it is compiled now; by hash, as copying may change the times of files.
RUN ["/app/bin/python", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", "/app/lib", "/app/src"]

FROM python:${PYTHON}
ARG PYTHON
ARG VERSION=unreleased
ARG REVISION=unknown
LABEL org.opencontainers.image.title="invoisys-proxy" \
      org.opencontainers.image.description="The sidecar between an ERP and the Invoisys fiscal API" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="docker.io/library/python:${PYTHON}"
# The official image comes without the standard library's bytecode: every start and every health check would compile anew.
RUN python -m compileall -q --invalidation-mode unchecked-hash -x '/(site-packages|ensurepip|idlelib|turtledemo)/' \
    "$(python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')"
COPY --from=build /app /app
COPY LICENSE /app/LICENSE
ENV PYTHONPATH=/app/src \
    PYTHONSAFEPATH=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 65532:65532
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=6s --start-period=30s CMD ["/app/bin/python", "-m", "proxy", "health"]
ENTRYPOINT ["/app/bin/python", "-m", "proxy"]
CMD ["run"]
