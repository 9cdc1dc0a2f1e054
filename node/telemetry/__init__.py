"""OpenTelemetry traces, metrics, structured logs."""
