"""The incremental build: what there is to make, what is out of date and why, making it."""
