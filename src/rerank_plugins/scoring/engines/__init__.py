"""Engines: a batch of ragged pairs in, float32 logits out.

`bert` is ours and reads the family's weights; `transformers` runs any other one-logit classifier.
"""
