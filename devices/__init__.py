"""Bundle + target → report: memory, latency, real-time factor."""
