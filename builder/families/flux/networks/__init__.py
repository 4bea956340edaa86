"""The networks as they are exported: diffusers and transformers modules behind plain tensors."""
