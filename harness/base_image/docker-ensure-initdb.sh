#!/bin/bash
# Of the official image's interface what pgidle relies on: a cluster in PGDATA out of POSTGRES_* and
# /docker-entrypoint-initdb.d, where there is none yet. Arguments are those of `postgres`.
set -Eeuo pipefail

if [ -s "$PGDATA/PG_VERSION" ]; then
    exit 0
fi
export POSTGRES_USER=${POSTGRES_USER:-postgres}
export POSTGRES_DB=${POSTGRES_DB:-$POSTGRES_USER}
: "${POSTGRES_PASSWORD:=}" "${POSTGRES_HOST_AUTH_METHOD:=scram-sha-256}"
if [ "${1:-}" = postgres ]; then
    shift
fi

user=$(id -u)
if ! getent passwd "$user" >/dev/null; then
    # initdb wants a name for its user.
    NSS_WRAPPER_PASSWD=$(mktemp) NSS_WRAPPER_GROUP=/etc/group
    echo "postgres:x:$user:$(id -g)::$PGDATA:/bin/false" >"$NSS_WRAPPER_PASSWD"
    export NSS_WRAPPER_PASSWD NSS_WRAPPER_GROUP
    wrapper=$(ls /usr/lib/*/libnss_wrapper.so)
fi
# shellcheck disable=SC2086
LD_PRELOAD=${wrapper:-} initdb --username="$POSTGRES_USER" --pwfile=<(echo "$POSTGRES_PASSWORD") \
    ${POSTGRES_INITDB_ARGS:-}
echo "host all all all $POSTGRES_HOST_AUTH_METHOD" >>"$PGDATA/pg_hba.conf"

sql() { PGHOST='' psql -X -v ON_ERROR_STOP=1 -U "$POSTGRES_USER" -d "$POSTGRES_DB" "$@"; }
pg_ctl -D "$PGDATA" -w start -o "$(printf '%q ' "$@" -c listen_addresses=)"
if [ "$POSTGRES_DB" != postgres ]; then
    POSTGRES_DB=postgres sql -c "CREATE DATABASE \"$POSTGRES_DB\""
fi
shopt -s nullglob
for file in /docker-entrypoint-initdb.d/*; do
    case $file in
        *.sh) if [ -x "$file" ]; then "$file"; else . "$file"; fi ;;
        *.sql) sql -f "$file" ;;
        *.sql.gz) gunzip -c "$file" | sql ;;
    esac
done
pg_ctl -D "$PGDATA" -m fast -w stop
