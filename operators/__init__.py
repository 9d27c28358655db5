"""Physics: linear operators between images and measurements, with exact adjoints."""
