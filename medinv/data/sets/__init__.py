"""Named data sets: their manifests, their files, and serving them to training."""
