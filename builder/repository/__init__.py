"""The model repository: configs, ensembles, versions, atomic publishing."""
