# nnseg in a container.
#
#   docker build -t nnseg .                                  # for CPUs: torch without CUDA, several GB smaller
#   docker build -t nnseg:cuda --build-arg DEVICE=cuda .     # for NVIDIA GPUs: torch brings its own CUDA
#
#   docker run --rm --network none -v "$PWD:/data" --user "$(id -u):$(id -g)" nnseg predict scans out --model model.nnseg
#   docker run --rm --gpus all ... nnseg:cuda ...            # needs the NVIDIA container toolkit
#
# The network is used while the image is built, never while it runs. The file system may be read-only (--read-only --tmpfs /tmp).

FROM python:3.11-slim AS build
ARG DEVICE=cpu
ARG CPU_INDEX=https://download.pytorch.org/whl/cpu
COPY . /source
WORKDIR /source
RUN python -m venv /opt/nnseg
RUN if [ "$DEVICE" = cpu ]; then export PIP_EXTRA_INDEX_URL="$CPU_INDEX"; fi; \
    /opt/nnseg/bin/pip install --no-cache-dir -c constraints.txt ".[figures]"

FROM python:3.11-slim
ARG DEVICE=cpu
# torch.compile and Triton build their kernels with it at run time; without it trainings on a GPU are slower.
RUN if [ "$DEVICE" = cuda ]; then apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*; fi
COPY --from=build /opt/nnseg /opt/nnseg
RUN mkdir /data && chown 1000:1000 /data
ENV PATH=/opt/nnseg/bin:$PATH
ENV HOME=/tmp
ENV PYTHONDONTWRITEBYTECODE=1
WORKDIR /data
USER 1000:1000
ENTRYPOINT ["nnseg"]
CMD ["--help"]
