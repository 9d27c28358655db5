"""Data manifests: YAML files, one per data set."""
