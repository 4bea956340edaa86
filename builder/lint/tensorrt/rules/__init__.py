"""One rule per module; each defines `RULE`."""
