"""Engines: a batch of ragged pairs in, float32 logits out.

`bert` is the family's network. `torch` runs it anywhere; `openvino` and `onnx` run graphs of it on CPU,
converted and quantised once (`quantize`, `calibration`) and kept on disk (`artifacts`). `transformers`
runs any other one-logit classifier. `choice` says which one, and why.
"""
