#!/bin/sh
# In place of systemctl, where the tests run and no systemd does: what the commands of docs/install.md do with the one unit that there is,
# by what the unit says. How systemd itself reads the unit, and how it confines the agent, is in tests/tests/install/unit.rs.
set -eu
unit=/etc/systemd/system/mvp.service
pid=/run/mvp-unit.pid

value() {
    sed -n "s/^$1=//p" "$unit"
}

start() {
    mkdir -p -m 755 "/run/$(value RuntimeDirectory)"
    eval "$(value Environment)"
    file=$(value EnvironmentFile)
    if [ -e "${file#-}" ]; then . "${file#-}"; fi
    umask "$(value UMask)"
    capabilities=$(value CapabilityBoundingSet | tr 'A-Z ' 'a-z,' | sed 's/cap_/+/g')
    # The shell splits $MVP_ARGS into words, as systemd does.
    eval "exec setpriv --no-new-privs --inh-caps=-all --bounding-set=-all,$capabilities $(value ExecStart)" </dev/null >>/srv/journal 2>&1 &
    echo $! >"$pid"
}

stop() {
    agent=$(cat "$pid")
    kill -TERM "$agent"
    tries=$(($(value TimeoutStopSec) * 10))
    # A process that has ended has no program any more.
    while [ -e "/proc/$agent/exe" ]; do
        tries=$((tries - 1))
        if [ "$tries" -eq 0 ]; then exit 1; fi
        sleep 0.1
    done
    rm "$pid"
}

case "$*" in
daemon-reload) ;;
"enable --now mvp") start ;;
"disable --now mvp") stop ;;
*)
    echo "what is systemctl $*?" >&2
    exit 1
    ;;
esac
