"""The model families; see `builder.family`."""
