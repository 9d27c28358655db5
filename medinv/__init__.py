"""Medical volumes from raw or undersampled measurements, with diffusion priors."""
