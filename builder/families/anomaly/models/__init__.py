"""Stage and pipeline declarations of the anomaly family; nothing here imports torch."""
