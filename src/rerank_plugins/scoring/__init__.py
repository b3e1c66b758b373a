"""Text pairs in, logits out: models, tokenising, packing, the worker, and engines."""
