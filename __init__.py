"""kvconform: property-based conformance tests for KV-cache layouts and decode-attention kernels."""

__version__ = "0.1.0"
