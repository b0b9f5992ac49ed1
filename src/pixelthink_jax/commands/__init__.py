"""One module a command: flags in `Args`, work in `main(args)`; `pixelthink_jax.cli` dispatches to them."""
