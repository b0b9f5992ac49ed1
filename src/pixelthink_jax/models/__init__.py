"""Neural networks as pure functions of parameter trees: `qwen_vl` (the policy), `sam2` (the segmenter).

Nothing here knows of text, data, reinforcement learning or meshes. `weights` reads and writes the
Hugging Face folders the parameters live in.
"""
