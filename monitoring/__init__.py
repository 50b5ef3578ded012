"""What watches the gateway: Telegraf, InfluxDB, Grafana, and a sidecar for graphics cards."""
