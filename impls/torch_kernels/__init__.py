"""What the adapters of torch and Triton share."""
