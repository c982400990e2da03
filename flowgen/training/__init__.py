"""Training with DeepSpeed, from one process to many nodes."""
