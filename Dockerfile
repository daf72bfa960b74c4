# The service, without weights: those are data, mounted at /weights. Three layers, by how often they change: torch, the
# other requirements, the code.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS torch
# What pip installs as torch, options allowed: another build, or a CPU one. The default is CUDA on x86-64.
ARG TORCH="torch==2.13.0"
# A folder of its own, outside the environment below: no change of a requirement touches these gigabytes.
# hadolint ignore=DL3013,SC2086
RUN --mount=type=cache,target=/root/.cache/pip python3 -m pip install --target /opt/torch ${TORCH}

FROM ${BASE_IMAGE} AS requirements
COPY requirements/serve.txt /tmp/
# The environment looks in /opt/torch last, so that what is pinned here wins over what torch brought along.
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m venv --without-pip /opt/genserve \
    && python3 -m pip --python /opt/genserve/bin/python install --no-deps -r /tmp/serve.txt \
    && echo /opt/torch >"$(/opt/genserve/bin/python -c 'import site; print(site.getsitepackages()[0])')/torch.pth"

FROM ${BASE_IMAGE} AS code
COPY . /src
RUN --mount=type=cache,target=/root/.cache/pip python3 -m pip wheel --no-deps --wheel-dir /wheels /src

FROM ${BASE_IMAGE}
LABEL org.opencontainers.image.title="Genserve" \
    org.opencontainers.image.description="A small REST inference server for generative models" \
    org.opencontainers.image.licenses="Apache-2.0"
WORKDIR /tmp
COPY --from=torch /opt/torch /opt/torch
COPY --from=requirements /opt/genserve /opt/genserve
# The import proves that the parts fit together, and leaves compiled every module of the standard library that the
# service needs: slim images come without, and under a read-only root each start would compile them anew.
RUN --mount=type=bind,from=code,source=/wheels,target=/wheels \
    PYTHONDONTWRITEBYTECODE=1 python3 -m pip --python /opt/genserve/bin/python install --no-cache-dir --no-deps --no-index \
    /wheels/*.whl \
    && /opt/genserve/bin/python -P -c 'import app.cli, app.worker.loop'

# /tmp is the one place that has to be writable, for libraries that keep a cache.
ENV PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    GENSERVE_HOST=0.0.0.0 \
    GENSERVE_PORT=8000 \
    GENSERVE_WEIGHTS=/weights
USER 10001:10001
EXPOSE 8000
# http.client rather than urllib, which would ask the proxy that the environment may name.
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 CMD ["/opt/genserve/bin/python", "-I", "-c", "\
import http.client, os; \
link = http.client.HTTPConnection('127.0.0.1', int(os.environ['GENSERVE_PORT']), timeout=4); \
link.request('GET', '/health/ready'); \
exit(link.getresponse().status != 200)"]
ENTRYPOINT ["/opt/genserve/bin/genserve"]
CMD ["serve"]
