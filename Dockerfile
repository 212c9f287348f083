# The supervisor with its workers, and the command-line client. See docs/install.md.
#   docker build -t triggerflow .
#   docker run -p 8080:8080 -p 5000:5000 -v triggerflow:/var/lib/triggerflow triggerflow

FROM debian:bookworm-slim AS build
WORKDIR /src
RUN apt-get update && apt-get install -y --no-install-recommends make
COPY Makefile ./
COPY .ci ./.ci
RUN make build/packages.build
COPY . .
RUN make programs && make install-strip PREFIX=/usr DESTDIR=/dest

FROM debian:bookworm-slim
RUN apt-get update && \
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        ca-certificates libmicrohttpd12 libyaml-0-2 libjson-c5 libcurl4 libhiredis0.14 libssl3 libsqlite3-0 librdkafka1 librabbitmq4 && \
    rm -rf /var/lib/apt/lists/* /var/cache/apt/* && \
    groupadd --system --gid 10001 triggerflow && \
    useradd --system --uid 10001 --gid 10001 --home-dir /var/lib/triggerflow --shell /usr/sbin/nologin triggerflow && \
    install -d -m 700 -o triggerflow -g triggerflow /var/lib/triggerflow && \
    install -d -m 1777 /run/triggerflow
COPY --from=build /dest/usr/bin/ /usr/bin/
# All can be overridden, as every variable of docs/configuration.md. The two folders are sub-folders of our own, since
# what is mounted above them belongs to root.
ENV TRIGGERFLOW_CONTROLLER_ADDRESS=0.0.0.0 \
    TRIGGERFLOW_API_ADDRESS=0.0.0.0 \
    TRIGGERFLOW_STATE_DIRECTORY=/var/lib/triggerflow/state \
    TRIGGERFLOW_RUN_DIRECTORY=/run/triggerflow/supervisor
VOLUME /var/lib/triggerflow
USER 10001:10001
WORKDIR /var/lib/triggerflow
EXPOSE 8080 5000
# SIGTERM drains the workers; `docker stop --time` should be longer than stop_timeout (30 s).
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 CMD ["triggerflow-supervisor", "health"]
ENTRYPOINT ["triggerflow-supervisor"]
CMD ["start"]
