#!/bin/bash
# Of the official image's interface what the image of pgidle leaves to it: the server's program that is no server.
set -Eeuo pipefail

if [ "$(id -u)" = 0 ] && [[ " $* " != *" --version "* ]]; then
    exec gosu postgres "$@"
fi
exec "$@"
