#!/bin/sh
# Installs what the tests drive: a real redis-server, and h2load for real load. Debian and Ubuntu.
set -eu
if ! command -v apt-get >/dev/null; then
    echo "install-test-tools: expected apt-get; please install redis-server (>= 7.0) and h2load by hand" >&2
    exit 2
fi
run=""
[ "$(id -u)" = 0 ] || run="sudo"
export DEBIAN_FRONTEND=noninteractive
$run apt-get update -qq
# policy-rc.d: the tests start their own redis-server on free ports, so the system's need not run
$run apt-get install -y -qq --no-install-recommends redis-server nghttp2-client >/dev/null
