#!/usr/bin/env bash
# A Ray cluster of one machine for `ray job submit` and `ivr-dist submit`; its Jobs API listens on loopback.
#
#   launch/local_cluster.sh up [--token]   start it; --token: clients then need a token
#   launch/local_cluster.sh status         is it up, and where
#   launch/local_cluster.sh down           end it, and nothing else
#
# Environment: RAY_PORT (6379; the next port is used too), DASHBOARD_PORT (8265), NUM_CPUS (cores, at least 2), CLUSTER_DIR (a folder of /tmp),
# VENV (.venv of the project).
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
ray_port=${RAY_PORT:-6379}
dashboard_port=${DASHBOARD_PORT:-8265}
cores=$(nproc)
num_cpus=${NUM_CPUS:-$((cores > 2 ? cores : 2))}
# Short on purpose: Ray puts unix sockets below it, whose paths may have 107 characters.
state=${CLUSTER_DIR:-/tmp/ivr-ray-$(id -u)-$ray_port}
venv=${VENV:-$root/.venv}
url=http://127.0.0.1:$dashboard_port

fail() { echo "error: $*" >&2; exit 1; }

head_pid() {  # the pid of the running head, if it is still the process that `up` started
    local pid started
    [ -r "$state/pid" ] || return 1
    read -r pid started <"$state/pid"
    [ -n "$started" ] && [ "$(process_start "$pid")" = "$started" ] && echo "$pid"
}

process_start() {  # tells a process from a later one with the same pid
    sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20
}

descendants() {
    local child
    for child in $(ps -o pid= --ppid "$1"); do
        echo "$child"
        descendants "$child"
    done
}

answers() {  # a demand for a token is an answer too
    "$venv/bin/python" -c "
import urllib.request as u, urllib.error as e
try: u.urlopen('$url/api/version', timeout=2)
except e.HTTPError: pass" 2>/dev/null
}

up() {
    local auth=disabled pid
    case "${1:-}" in
        "") ;;
        --token) auth=token ;;
        *) fail "unknown option $1; usage: $0 up [--token]" ;;
    esac
    [ -x "$venv/bin/ray" ] || fail "no ray in $venv; run: make install"
    if pid=$(head_pid); then fail "a cluster is up already (pid $pid, $url); end it with: $0 down"; fi
    if answers; then fail "something else listens at $url; set DASHBOARD_PORT and RAY_PORT to free ports"; fi
    mkdir -p -m 700 "$state"
    [ -O "$state" ] || fail "$state belongs to another user; set CLUSTER_DIR"

    # Said on both sides: without it Ray decides by whether a token file happens to lie in the home directory.
    export RAY_AUTH_MODE=$auth
    unset RAY_ADDRESS
    if [ "$auth" = token ]; then
        export RAY_AUTH_TOKEN_PATH=$state/token
        (umask 077; "$venv/bin/python" -c "import secrets; print(secrets.token_hex(32), end='')" >"$state/token")
    fi
    # A dead node is noticed within 2 s and a lost one within 7 s, instead of 13 s and 60 s.
    export RAY_health_check_initial_delay_ms=1000 RAY_health_check_period_ms=500
    export RAY_health_check_timeout_ms=1500 RAY_health_check_failure_threshold=3
    export RAY_TRAIN_HEALTH_CHECK_INTERVAL_S=0.5
    # Ray's agents log the environment of every job, credentials included, at level info.
    export RAY_LOGGER_LEVEL=warning
    # `ray job stop` gives a run time to write a checkpoint, instead of 3 s.
    export RAY_JOB_STOP_WAIT_TIME_S=60
    # Jobs inherit both: `python` is the project's, and relative paths are the project's unless a job brings a folder.
    export PATH="$venv/bin:$PATH"
    cd "$root"
    setsid ray start --head --block --node-ip-address=127.0.0.1 --port="$ray_port" \
        --dashboard-host=127.0.0.1 --dashboard-port="$dashboard_port" --dashboard-agent-listen-port=0 \
        --ray-client-server-port=$((ray_port + 1)) --num-cpus="$num_cpus" --temp-dir="$state/ray" \
        --object-store-memory=268435456 --disable-usage-stats >"$state/head.log" 2>&1 </dev/null &
    pid=$!
    echo "$pid $(process_start "$pid")" >"$state/pid"
    for _ in $(seq 120); do
        kill -0 "$pid" 2>/dev/null || { tail -n 20 "$state/head.log" >&2; fail "Ray did not start; log: $state/head.log"; }
        if answers; then announce "$auth"; return; fi
        sleep 0.5
    done
    fail "the dashboard did not answer at $url within 60 s; log: $state/head.log, end it with: $0 down"
}

announce() {
    echo "Ray is up: $url ($num_cpus CPUs, authentication: $1, log: $state/head.log)"
    if [ "$1" = token ]; then
        echo "Before submitting, in this shell:"
        echo "  export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$state/token"
    else
        echo "Ray's own ports ($ray_port and others) listen on every interface, and anybody who can reach them can run code:"
        echo "on an untrusted network use: $0 up --token"
    fi
    echo "Submit: ray job submit --address $url -- python -m ivr_dist train configs/quickstart.yaml"
    echo "End:    $0 down"
}

down() {
    local pid family
    if ! pid=$(head_pid); then
        rm -f "$state/pid"
        echo "no cluster of this script is up"
        return
    fi
    family=$(descendants "$pid")
    kill -TERM "$pid"
    for _ in $(seq 100); do
        alive "$pid $family" || break
        sleep 0.1
    done
    for pid in $pid $family; do kill -KILL "$pid" 2>/dev/null || true; done
    rm -f "$state/pid" "$state/token"
    rm -rf "$state/ray"
    echo "Ray is down"
}

alive() {
    local pid
    for pid in $1; do [ -e "/proc/$pid" ] && return 0; done
    return 1
}

status() {
    local pid
    pid=$(head_pid) || { echo "down"; exit 1; }
    answers || fail "pid $pid runs, but $url does not answer; log: $state/head.log"
    echo "up: pid $pid, $url"
}

case "${1:-}" in
    up) up "${2:-}" ;;
    down) down ;;
    status) status ;;
    *) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
