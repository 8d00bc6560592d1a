"""What the adapters of JAX's own kernels share."""
