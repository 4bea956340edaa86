"""Searching the settings of stages by measuring them on the real server."""
