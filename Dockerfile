# Builds from public images with a plain `docker build .`; the result is one static binary, nothing else.
#   docker build --build-arg SPLITWAY_COMMIT="$(git rev-parse --short=12 HEAD)" -t splitway .
#   docker run --read-only --cap-drop ALL -p 8080:8080 -p 9090:9090 \
#     -v "$PWD/splitway.yaml:/etc/splitway/splitway.yaml:ro" splitway

FROM rust:1.95-alpine AS build
# The allocator is C.
RUN apk add --no-cache build-base
WORKDIR /splitway
COPY Cargo.toml Cargo.lock build.rs ./
COPY src ./src
COPY benches ./benches
COPY loadtest ./loadtest
ARG SPLITWAY_COMMIT=""
ENV SPLITWAY_COMMIT=${SPLITWAY_COMMIT}
RUN cargo build --locked --profile dist --bin splitway

FROM scratch
LABEL org.opencontainers.image.title="splitway" \
      org.opencontainers.image.description="An exact HTTP traffic split in front of the versions of one application" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /splitway/target/dist/splitway /splitway
# For `kubectl exec POD -- splitway check`.
ENV PATH=/
# No shell, no package, no name for the user: numbers are what Kubernetes checks with runAsNonRoot. Nothing is written.
USER 65532:65532
EXPOSE 8080 9090
STOPSIGNAL SIGTERM
ENTRYPOINT ["/splitway"]
CMD ["run", "--config", "/etc/splitway/splitway.yaml"]
