"""Stage and pipeline declarations of the FLUX family; nothing here imports torch."""
