#!/usr/bin/env bash
# A Docker engine on a Debian 12 machine that has none and can pull no image: for deploy/compose-test.sh.
#
#   engine.sh setup                          packages: engine, compose, buildx (idempotent; nothing is started)
#   engine.sh start build|run                build: in this machine's network, for pip and apt in RUN, without a bridge
#                                            run: in a network namespace of its own, with bridges and DNS, no way out
#   engine.sh base                           python:3.11-slim from debootstrap, tagged locally
#   engine.sh standin IMAGE PACKAGE WORD...  an image of a Debian package under the name that a compose file uses
#   engine.sh docker WORD...                 the client against this engine
#   engine.sh inside WORD...                 a command in the run namespace, whose 127.0.0.1 has the published ports
#   engine.sh stop | clean                   stop the engine | and remove its data
#
# Needs root. Everything lives below $ENGINE_DIR; only packages that apt installs stay behind.
set -euo pipefail
W=${ENGINE_DIR:-${TMPDIR:-/tmp}/sluice-engine}
X=$W/unpacked
PIDFILE=$W/dockerd.pid
NAMESPACE=sluice-test
export DOCKER_HOST=unix://$W/docker.sock DOCKER_CONFIG=$W/config DOCKER_BUILDKIT=1 DOCKER_CLI_HINTS=false
export COMPOSE_ANSI=never BUILDKIT_PROGRESS=plain DEBIAN_FRONTEND=noninteractive
export PATH=$X/usr/bin:$X/usr/sbin:$PATH

log() { printf '== %s\n' "$*" >&2; }
have() { for program; do command -v "$program" >/dev/null || return 1; done; }
mirror() { apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -m1 -E '/debian/?$'; }

setup() {
  mkdir -p "$W"/{lists/partial,cache/archives/partial,debs,config/cli-plugins} "$X"
  if ! have containerd runc iptables ip debootstrap tini; then
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends containerd runc iptables iproute2 debootstrap tini >/dev/null
  fi
  if [ ! -x "$X/usr/sbin/dockerd" ]; then
    # Debian 13's engine and plugins, unpacked aside: they run on Debian 12's libc, and compose there is still version 1
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $(mirror) trixie main" >"$W/sources.list"
    local aside=(-oDir::State::Lists="$W/lists" -oDir::Etc::SourceList="$W/sources.list" -oDir::Etc::SourceParts=/dev/null
                 -oDir::Cache="$W/cache" -oAPT::Sandbox::User=root)
    apt-get -qq "${aside[@]}" update
    (cd "$W/debs" && apt-get -qq "${aside[@]}" download docker.io docker-cli docker-compose docker-buildx)
    for package in "$W"/debs/*.deb; do dpkg -x "$package" "$X"; done
    rm -rf "$W/lists" "$W/cache" "$W/debs"
  fi
  ln -sf "$X"/usr/libexec/docker/cli-plugins/* "$W/config/cli-plugins/"
  [ -e "$X/usr/sbin/docker-init" ] || ln -s "$(command -v tini-static || command -v tini)" "$X/usr/sbin/docker-init"
}

start() {
  stop
  mkdir -p "$W"
  local prefix=() options=()
  if [ "$1" = run ]; then
    ip netns list | grep -qw "$NAMESPACE" || ip netns add "$NAMESPACE"
    # not `ip netns exec`: that one mounts /sys anew and hides the control groups
    prefix=(nsenter --net=/run/netns/$NAMESPACE)
    "${prefix[@]}" ip link set lo up
  else
    options=(--bridge=none --iptables=false --ip6tables=false)
  fi
  setsid "${prefix[@]}" dockerd "${options[@]}" --data-root "$W/data" --exec-root "$W/exec" --pidfile "$PIDFILE" \
    -H "$DOCKER_HOST" --storage-driver=overlay2 >"$W/dockerd-$1.log" 2>&1 </dev/null &
  for _ in $(seq 60); do docker info >/dev/null 2>&1 && { log "engine up ($1)"; return; }; sleep 0.5; done
  tail -5 "$W/dockerd-$1.log" >&2
  return 1
}

stop() {
  [ -s "$PIDFILE" ] || return 0
  # an engine that was killed has left its number behind
  kill "$(cat "$PIDFILE")" 2>/dev/null || { rm -f "$PIDFILE"; return 0; }
  for _ in $(seq 60); do [ -e "$PIDFILE" ] || return 0; sleep 0.5; done
  log "expected dockerd to stop within 30 s; it has not"
  return 1
}

base() {
  docker image inspect python:3.11-slim >/dev/null 2>&1 && return
  local root=$W/rootfs
  [ -x "$root/usr/bin/python3" ] || debootstrap --variant=minbase \
    --include=ca-certificates,python3,python3-pip,python3-venv bookworm "$root" "$(mirror)" >"$W/debootstrap.log"
  # as the official image: pip may install, and what only people read is left out
  rm -f "$root/usr/lib/python3.11/EXTERNALLY-MANAGED"
  ln -sf python3 "$root/usr/bin/python"
  rm -rf "$root"/usr/share/{doc,man,locale,info,bash-completion} "$root"/var/lib/apt/lists/* "$root"/var/cache/*
  mkdir -p "$root/var/cache/apt/archives/partial"
  # pip in a build trusts whom this machine trusts
  cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
  tar -C "$root" -c . | docker import --change 'CMD ["python3"]' \
    --change 'ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt' - python:3.11-slim >/dev/null
}

standin() {
  local image=$1 package=$2 words
  shift 2
  docker image inspect "$image" >/dev/null 2>&1 && return
  words=$(printf '"%s",' "$@")
  docker build --network host -q -t "$image" - >/dev/null <<EOF
FROM python:3.11-slim
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends $package && rm -rf /var/lib/apt/lists/* \
 && mkdir -p /data /prometheus && chown 65534:65534 /prometheus && chown 999:1000 /data
ENTRYPOINT [${words%,}]
EOF
}

inside() { nsenter --net=/run/netns/$NAMESPACE "$@"; }

clean() {
  stop || true
  # what an engine that was killed still has mounted
  umount --lazy "$W"/exec/netns/* "$W"/data/overlay2/*/merged "$W"/exec/containerd/*/*/rootfs 2>/dev/null || true
  ip netns del "$NAMESPACE" 2>/dev/null || true
  rm -rf "$W/data" "$W/exec"
}

verb=${1:-}
case $verb in
  setup | start | stop | base | standin | docker | inside | clean) shift; "$verb" "$@" ;;
  *) sed -n '2,14s/^# \?//p' "$0" >&2; exit 2 ;;
esac
