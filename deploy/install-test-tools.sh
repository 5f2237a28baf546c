#!/bin/sh
# Installs what the tests drive: a real redis-server, h2load for real load, promtool for the alert rules.
# Debian and Ubuntu; elsewhere install redis-server (>= 7.0), h2load (nghttp2) and promtool by hand.
set -eu
if ! command -v apt-get >/dev/null; then
    echo "install-test-tools: expected apt-get; please install redis-server (>= 7.0), h2load and promtool by hand" >&2
    exit 2
fi
run=""
[ "$(id -u)" = 0 ] || run="sudo"
# the tests start their own servers on free ports, so the packages must not start theirs
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | $run tee "$policy" >/dev/null
    $run chmod +x "$policy"
    trap '$run rm -f "$policy"' EXIT
fi
export DEBIAN_FRONTEND=noninteractive
$run apt-get update -qq
$run apt-get install -y -qq --no-install-recommends redis-server nghttp2-client prometheus >/dev/null
