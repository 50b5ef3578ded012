#!/bin/sh
# Starts the database, and gives it the statements of /docker-entrypoint-initdb.d once it answers.
set -eu
influxd &
server=$!
trap 'kill -TERM $server' TERM INT
until influx -execute 'SHOW DATABASES' >/dev/null 2>&1; do sleep 0.2; done
# As in the official image.
for file in /docker-entrypoint-initdb.d/*.sh; do . "$file"; done
wait $server
