"""The Scal3R network: torch (and safetensors) only."""
