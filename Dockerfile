# dnd on a CPU, with `dnd serve`:
#
#   docker build -t dnd .
#   docker run --rm -v "$PWD:/work" dnd predict molecules.csv -m model -o predictions.csv
#   docker run --rm -v "$PWD:/work" -p 127.0.0.1:8000:8000 dnd serve -m model --host 0.0.0.0
#
# torch is the build without CUDA, far smaller than the default one; what only builds or tests stays in the first stage.
FROM python:3.12-slim AS build
RUN python -m venv /opt/dnd
ENV PATH=/opt/dnd/bin:$PATH
RUN pip install --no-cache-dir torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu
COPY pyproject.toml constraints.txt README.md LICENSE /source/
COPY src /source/src
RUN pip install --no-cache-dir -c /source/constraints.txt "/source[serve]" \
    && find /opt/dnd -type d \( -name __pycache__ -o -name tests \) -prune -exec rm -r {} + \
    && for part in torch/include torch/test torch/bin/test_* pyarrow/include; do \
         rm -rf /opt/dnd/lib/python3.12/site-packages/$part; done

FROM python:3.12-slim
# OpenMP for LightGBM; what RDKit's drawings are linked with.
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 libxrender1 libxext6 libexpat1 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/dnd /opt/dnd
ENV PATH=/opt/dnd/bin:$PATH
RUN useradd --create-home dnd
USER dnd
WORKDIR /work
EXPOSE 8000
ENTRYPOINT ["dnd"]
CMD ["--help"]
