# Sourced by the scripts that need containers, after common.sh: a Docker engine of their own, that knows Debian as
# debian:bookworm-slim. Debian is fetched once, and kept in build/install.
[ "$(id -u)" -eq 0 ] || skip "not root"
need dockerd docker debootstrap curl nsenter openssl

export DOCKER_HOST=unix://$work/docker.sock DOCKER_BUILDKIT=0 DOCKER_CONFIG=$work/config
engine=''

cleanup() {
    if [ -n "$engine" ]; then
        docker ps -aq 2>/dev/null | xargs -r docker rm -f >/dev/null 2>&1 || true
        kill "$engine" 2>/dev/null || true
        wait "$engine" 2>/dev/null || true
    fi
    local mount
    awk -v below="$work/" 'index($2, below) == 1 { print $2 }' /proc/mounts | sort -r | while read -r mount; do
        umount "$mount" || umount -l "$mount" || true
    done
}

# The base image as a tar file, made by whoever comes first.
base() {
    mkdir -p "$cache"
    exec 9>"$cache/lock"
    flock 9
    if [ ! -e "$cache/base.tar" ]; then
        step "debootstrap (kept in build/install)"
        local mirror
        mirror=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE)' 2>/dev/null | awk '$2 == "bookworm" { print $1; exit }')
        debootstrap --variant=minbase bookworm "$work/debian" "${mirror:-http://deb.debian.org/debian}" >"$work/debootstrap.log" 2>&1 ||
            skip "debootstrap: $(tail -n 1 "$work/debootstrap.log")"
        rm -rf "$work/debian/var/cache/apt"/* "$work/debian/var/lib/apt/lists"/*
        tar -C "$work/debian" --one-file-system -cf "$work/base.tar" .
        mv "$work/base.tar" "$cache/base.new" && mv "$cache/base.new" "$cache/base.tar"
        rm -rf "$work/debian"
    fi
    exec 9>&-
}

answers() { docker info >/dev/null 2>&1; }

base
dockerd --data-root "$work/data" --exec-root "$work/exec" --pidfile "$work/pid" -H "$DOCKER_HOST" \
    --storage-driver=overlay2 --iptables=false --ip6tables=false --bridge=none \
    --default-ulimit nofile=20000:20000 >"$work/dockerd.log" 2>&1 &
engine=$!
for _ in $(seq 300); do
    answers || ! kill -0 $engine 2>/dev/null || { sleep 0.1; continue; }
    break
done
answers || skip "dockerd: $(tail -n 1 "$work/dockerd.log")"
docker import - debian:bookworm-slim <"$cache/base.tar" >/dev/null

# build_image NAME FOLDER
build_image() {
    docker build -q --network host -t "$1" "$2" >"$work/build.log" 2>&1 || { tail -n 40 "$work/build.log"; fail "image $1"; }
}
main_pid() { docker inspect -f '{{.State.Pid}}' "$1"; }
# HTTP from inside a container's network. The answer's body goes to $work/body, the status to standard output.
http() {
    local container=$1
    shift
    nsenter -t "$(main_pid "$container")" -n \
        curl -s -m 20 -o "$work/body" -w '%{http_code}' -H 'Content-Type: application/json' "$@" || true
}
