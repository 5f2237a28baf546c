#!/usr/bin/env bash
# docker-compose.yml on a real Docker engine, end to end: `deploy/compose-test.sh [--keep] [--plots DIR]`.
#
# Starts an engine of its own (deploy/check/engine.sh; needs root on Debian, says so and does nothing elsewhere), builds
# the images, puts Debian packages in the place of images that cannot be pulled, and then holds the platform to what
# docs/operations.md says of it. The last line is the verdict; what it printed last is kept in that page.
#   --keep        leave the engine and its data for the next run
#   --plots DIR   draw the dashboards from this run's Prometheus into DIR
set -euo pipefail
cd "$(dirname "$0")/.."
ENGINE=deploy/check/engine.sh
PYTHON=${PYTHON:-.venv/bin/python}
TRAFFIC_SECONDS=${TRAFFIC_SECONDS:-90}
keep='' plots='' passed=0 failed=0
while [ $# -gt 0 ]; do
  case $1 in
    --keep) keep=1; shift ;;
    --plots) plots=$2; shift 2 ;;
    *) echo "compose-test: expected --keep or --plots DIR, got $1" >&2; exit 2 ;;
  esac
done

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null || ! command -v nsenter >/dev/null; then
  echo "compose-test: skipped: an engine of its own needs root on a Debian machine"
  exit 0
fi

scratch=$(mktemp -d)
compose() { "$ENGINE" docker compose "$@"; }
inside() { "$ENGINE" inside "$@"; }
say() { printf '\n== %s\n' "$*"; }

# check NAME COMMAND...: one line and one point
check() {
  local name=$1 start
  shift
  start=$SECONDS
  if "$@" >"$scratch/out" 2>&1; then
    passed=$((passed + 1))
    printf 'ok      %s (%s s)\n' "$name" "$((SECONDS - start))"
  else
    failed=$((failed + 1))
    printf 'FAILED  %s\n' "$name"
  fi
  sed 's/^/          /' "$scratch/out"
}

finish() {
  compose --profile traffic down --volumes --timeout 60 >/dev/null 2>&1 || true
  if [ -n "$keep" ]; then "$ENGINE" stop; else "$ENGINE" clean; fi
  rm -rf "$scratch"
}

image_of() { compose config --format json | "$PYTHON" -c "import json,sys; print(json.load(sys.stdin)['services']['$1']['image'])"; }
exit_codes() { compose ps --all --format '{{.Service}} {{.ExitCode}}' | sort; }
container() { compose ps --quiet "$1" | head -1; }

valid_files() {
  for override in '' gpu secure; do
    compose --file docker-compose.yml ${override:+--file docker-compose.$override.yml} config --quiet || return 1
  done
}

up() { compose --progress quiet up --detach --no-build --pull never --wait --wait-timeout 120 "$@"; }

predict() {
  inside "$PYTHON" -m server predict churn --geography Spain --credit-score 500 --gender Female --age 40 --tenure 3 \
    --balance 50000 --products 2 --has-card --active --salary 40000 "$@"
}

both_predict() { predict --server 127.0.0.1:8001 && predict --server 127.0.0.1:8011; }

# both frontends, as a client outside would name them
traffic() { inside "$PYTHON" -m deploy.traffic --server ipv4:127.0.0.1:8001,127.0.0.1:8011 --seconds "$@"; }

# about three times what two cores can do in time
overload() {
  local code=0
  traffic 10 --rate 200 --rows 200 --deadline 0.1 --accept RESOURCE_EXHAUSTED,DEADLINE_EXCEEDED >"$scratch/overload" || code=1
  cat "$scratch/overload"
  grep -q RESOURCE_EXHAUSTED "$scratch/overload" && return $code
}

jobs() {
  customers 200 >"$scratch/few.csv"
  inside "$PYTHON" -m server jobs submit churn --csv "$scratch/few.csv" 2>&1 | tr '\r' '\n' | tail -1
  [ "$(tail -n +2 "$scratch/few.results.csv" | wc -l)" = 200 ]
}

# kill -9 from outside, as the kernel would: unlike `docker kill` it leaves the restart policy in force
crash() {
  local pid
  pid=$("$ENGINE" docker inspect --format '{{.State.Pid}}' "$(container "$1")")
  [ "$pid" -gt 1 ] && kill -9 "$pid"   # 0 while it is being restarted
}

# crash SERVICE under traffic: what a retry absorbs is not seen by callers, the rest is refused or late, and none hangs
crash_under_traffic() {
  local client
  traffic 15 --accept UNAVAILABLE,DEADLINE_EXCEEDED &
  client=$!
  sleep 5
  crash "$1"
  wait "$client" || return 1
  healthy && traffic 5
}

healthy() {
  local until=$((SECONDS + 60))
  until [ "$(compose ps --format '{{.Health}}' frontend-1 frontend-2 worker redis | sort -u)" = healthy ]; do
    [ "$SECONDS" -lt "$until" ] || { compose ps; return 1; }
    sleep 0.5
  done
}

# customers NUMBER: a file of made-up ones
customers() {
  echo CreditScore,Geography,Gender,Age,Tenure,Balance,NumOfProducts,HasCrCard,IsActiveMember,EstimatedSalary
  awk -v rows="$1" 'BEGIN {for (n = 1; n <= rows; n++)
    printf "%d,Spain,Female,%d,3,%d,2,1,1,40000\n", 400 + n % 400, 20 + n % 60, n}'
}

# thousands of jobs of 64 rows, while Redis, a worker and a frontend are killed; the command resumes what it began
jobs_survive() {
  local rows=100000 kills=0 client
  customers $rows >"$scratch/customers.csv"
  for _ in $(seq 30); do
    inside "$PYTHON" -m server jobs submit churn --csv "$scratch/customers.csv" && break
    sleep 1
  done >"$scratch/jobs" 2>&1 &
  client=$!
  for service in redis worker frontend-1 redis worker; do
    sleep 1.5
    kill -0 $client 2>/dev/null && crash $service && kills=$((kills + 1))
  done
  wait "$client"
  echo "$kills kills while it ran; rows with one result: $(tail -n +2 "$scratch/customers.results.csv" | sort -u -t, -k1,1 | wc -l) of $rows"
  "$ENGINE" docker compose exec -T redis redis-cli --raw xlen 'tq:{churn}:dlq' | sed 's/^/dead letters: /'
  [ $kills -ge 3 ] && [ "$(tail -n +2 "$scratch/customers.results.csv" | wc -l)" = $rows ] && healthy
}

restarts() { ask 'sum(sluice_session_restarts_total)'; }
ask() {
  inside "$PYTHON" -c 'import sys; from deploy.grafana.queries import Prometheus
print(*(one["value"][1] for one in Prometheus("http://127.0.0.1:9090").now(sys.argv[1])))' "$1"
}

# no call may notice that a session child dies; by name, for the newest process may be a health check
child_dies_unnoticed() {
  local client before
  before=$(restarts)
  traffic 15 &
  client=$!
  sleep 4
  kill -9 "$("$ENGINE" docker top "$(container worker)" -eo pid,comm | awk '$2 == "sluice-session" {pid = $1} END {print pid}')"
  wait "$client" || return 1
  sleep 6   # a scrape
  echo "sluice_session_restarts_total: $before before, $(restarts) after"
  compose logs --no-log-prefix worker | grep -oE '"session_process_(died|replaced)".*' | tail -2
  [ "$(restarts)" -gt "$before" ]
}

no_secret_no_compiler() {
  "$ENGINE" docker run --rm --network none --entrypoint sh "$(image_of worker)" -c '
    wrong=0
    for name in gcc cc g++ make; do command -v $name && wrong=1; done
    for path in torch pip setuptools; do ls -d /opt/sluice/lib/python3*/site-packages/$path 2>/dev/null && wrong=1; done
    find / -xdev \( -path "*/.cache/pip" -o -name "*.whl" -path "/opt/*" -o -name "*.key" -o -name ".env" \) 2>/dev/null | grep . && wrong=1
    env | grep -iE "key|secret|token|passw" && wrong=1
    touch /opt/sluice/x 2>/dev/null && wrong=1
    [ "$(id -u)" = 65532 ] || wrong=1
    exit $wrong'
}

own_size() {   # bytes on top of the base image; the official python:3.11-slim brings about 125 MB more
  local image base
  image=$("$ENGINE" docker image inspect --format '{{.Size}}' "$(image_of worker)")
  base=$("$ENGINE" docker image inspect --format '{{.Size}}' python:3.11-slim)
  echo "$(((image - base) / 1000000)) MB of our own on a base of $((base / 1000000)) MB"
  [ $((image - base)) -lt 175000000 ]
}

# the client of `--profile traffic`, balancing over the service's name from inside the network
client_in_container() {
  compose --profile traffic --progress quiet up --detach --no-build --pull never --no-deps traffic
  sleep 8
  compose --profile traffic --progress quiet stop traffic
  compose --profile traffic logs --no-log-prefix traffic | grep -o '{.*}'
  compose --profile traffic ps --all --format '{{.ExitCode}}' traffic | grep -qx 0
  compose --profile traffic --progress quiet rm --force traffic
}

# the override: refused without a key, answered with one over TLS, and the key is nowhere to be seen
secured() {
  local key=compose-test-0123456789abcdef files='--file docker-compose.yml --file docker-compose.secure.yml'
  export SLUICE_SECRETS=$scratch/secrets
  mkdir "$SLUICE_SECRETS"
  openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=sluice -addext subjectAltName=IP:127.0.0.1 \
    -keyout "$SLUICE_SECRETS/tls.key" -out "$SLUICE_SECRETS/tls.crt" 2>/dev/null
  echo "test:infer:$key" >"$SLUICE_SECRETS/api_keys"
  echo "$key" >"$scratch/key"
  echo "$key" >"$SLUICE_SECRETS/redis_password"
  chown -R 65532:1000 "$SLUICE_SECRETS"
  chmod 440 "$SLUICE_SECRETS"/*
  # shellcheck disable=SC2086 - words on purpose
  compose $files --progress quiet up --detach --no-build --pull never --wait --wait-timeout 120 \
    redis worker frontend-1 frontend-2
  { predict --tls-ca "$SLUICE_SECRETS/tls.crt" 2>&1 || true; } | grep UNAUTHENTICATED || return 1
  predict --tls-ca "$SLUICE_SECRETS/tls.crt" --api-key-file "$scratch/key" || return 1
  compose exec -T redis redis-cli ping 2>&1 | grep NOAUTH || return 1
  ! { "$ENGINE" docker inspect $(compose ps --quiet); compose logs; } | grep -q "$key"
}

stops_cleanly() {
  local client start codes code=0
  # CANCELLED: a server on gRPC's core (--transport aio) answers so to a call that crosses its GOAWAY (docs/transport.md)
  traffic 15 --rate 40 --accept UNAVAILABLE,DEADLINE_EXCEEDED,CANCELLED >"$scratch/stop-traffic" 2>&1 &
  client=$!
  sleep 3
  start=$SECONDS
  compose --progress quiet stop frontend-2 worker frontend-1
  echo "docker compose stop: $((SECONDS - start)) s of 60 s grace"
  wait "$client" || code=1
  cat "$scratch/stop-traffic"
  compose --progress quiet stop
  codes=$(exit_codes)
  echo "exit codes: $(tr '\n' ' ' <<<"$codes")"
  compose logs --no-log-prefix worker frontend-1 | grep -oE '"(draining|stopped)".*' | sort | uniq -c
  ! grep -vE ' (0|)$' <<<"$codes" && return $code
}

# a function, so that the whole script is read before any of it runs
main() {
  trap finish EXIT

  say "engine and images"
  "$ENGINE" setup
  "$ENGINE" start build
  "$ENGINE" base
  "$ENGINE" docker build --quiet --network host --file deploy/Dockerfile --target server --tag "$(image_of worker)" . >/dev/null
  "$ENGINE" standin "$(image_of prometheus)" prometheus prometheus
  "$ENGINE" standin "$(image_of redis)" redis-server env
  check "image: no torch, no compiler, no pip, no secret, not root" no_secret_no_compiler
  check "image: its own layers are below 175 MB" own_size

  say "docker compose up"
  "$ENGINE" start run
  check "every combination of files is valid" valid_files
  check "up, healthy in order" up redis worker frontend-1 frontend-2 prometheus
  compose ps --format 'table {{.Service}}\t{{.Status}}\t{{.Ports}}'
  check "a prediction through the published port of each frontend" both_predict

  say "traffic, and what Prometheus says of it"
  check "every call ends as it should" traffic "$TRAFFIC_SECONDS"
  check "an overload is refused at the entrance, and nothing breaks" overload
  check "kill -9 of a session child under traffic: no call fails" child_dies_unnoticed
  check "jobs through redis" jobs
  check "targets up, rules evaluate, dashboards and alerts have data" inside "$PYTHON" -m deploy.check.live http://127.0.0.1:9090
  check "the client of --profile traffic" client_in_container

  say "crashes"
  check "kill -9 of a frontend under traffic" crash_under_traffic frontend-2
  check "kill -9 of a worker under traffic" crash_under_traffic worker
  check "kill -9 of redis under traffic" crash_under_traffic redis
  check "no job is lost" jobs_survive
  if [ -n "$plots" ]; then
    check "dashboards drawn" inside "$PYTHON" -m deploy.render_dashboards http://127.0.0.1:9090 --out "$plots" \
      --minutes "$((TRAFFIC_SECONDS / 60 + 4))"
  fi

  say "docker compose stop"
  check "everything ends with 0 inside its grace" stops_cleanly

  say "docker-compose.secure.yml"
  check "TLS and API keys from files" secured

  say "verdict"
  echo "compose-test: $passed passed, $failed failed"
  [ "$failed" = 0 ]
}

main; exit
