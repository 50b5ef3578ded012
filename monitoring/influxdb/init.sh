# Run by the InfluxDB image once, on an empty volume; by hand:
#   docker compose -f monitoring/docker-compose.monitor.yml exec influxdb sh /docker-entrypoint-initdb.d/init.sh
# The client takes what it is to execute line by line, and fails at an empty one: so it gets a single line.
influx -execute "$(sed 's/^--.*$//' /etc/influxdb/init.iql | tr '\n' ' ')"
