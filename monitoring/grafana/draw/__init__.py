"""Pictures of the dashboards: Grafana's own components in Chromium, fed with a real database's answers."""
