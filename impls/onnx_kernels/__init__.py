"""What the adapter of onnxruntime's own kernel needs beside itself."""
