# One node of Caxton, from Debian's own Python.
#
#   docker build -t caxton .
#   docker run --name n1 caxton                         alone; `docker exec n1 caxton status` talks to it
#
# A node listens beyond its container only with security material. Issue a bundle and mount it:
#
#   caxton init ./cluster --node n1 --bind-host 0.0.0.0 --http-host 0.0.0.0 --advertise-host HOST
#   docker run -v "$PWD/cluster/nodes/n1:/etc/caxton:ro" -e CAXTON_CONFIG=/etc/caxton/node.yaml \
#       -v n1-data:/var/lib/caxton -p 8080:8080 -p 7946:7946/tcp -p 7946:7946/udp -p 7947:7947 caxton
#
# The key in the bundle must be readable by the user id 10001. Where there is no container engine,
# `python3 -m configs.deployment.run_dockerfile` runs these steps in a bare root file system.
FROM debian:bookworm-slim

ENV LANG=C.UTF-8 \
    PATH=/opt/caxton/bin:$PATH

RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*

RUN useradd --uid 10001 --user-group --no-log-init --home-dir /var/lib/caxton --create-home \
        --shell /usr/sbin/nologin caxton \
    && chmod 0700 /var/lib/caxton \
    && python3 -m venv /opt/caxton

# The dependencies are a layer of their own, which a change of the source leaves alone.
WORKDIR /usr/src/caxton
COPY pyproject.toml constraints.txt ./
RUN python3 -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"], sep="\n")' \
        > requirements.txt \
    && pip install --no-cache-dir -c constraints.txt -r requirements.txt

COPY . .
RUN pip install --no-cache-dir --no-deps -c constraints.txt . \
    && rm -rf /usr/src/caxton/*

ENV CAXTON_STORAGE__DATA_DIR=/var/lib/caxton
USER caxton
WORKDIR /var/lib/caxton
VOLUME /var/lib/caxton

# The admin API; membership (gossip and its streams); messages between nodes.
EXPOSE 8080 7946/tcp 7946/udp 7947

# The admin API always has the port 8080 in here; publish another one outside if need be.
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s --retries=3 \
    CMD ["python3", "-c", "import sys, urllib.request as r; t = r.urlopen('http://127.0.0.1:8080/api/v1/health', timeout=4).read(); print(t.decode()); sys.exit(b'\"healthy\"' not in t)"]

ENTRYPOINT ["caxton"]
CMD ["start"]
