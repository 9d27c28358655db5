"""One module per projection engine; each gives a `medinv.operators.ct.Projector`."""
