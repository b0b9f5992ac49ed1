"""Data: readers, the shape world, builders, the input pipeline. Rows are `pixelthink_jax.types.Example`."""
