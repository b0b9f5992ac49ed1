"""Makes transformers importable beside a CPU torch, and keeps torch to one thread."""

import torch

# transformers imports torchvision, which looks for two operators that only its own build declares. They last
# as long as the library that declares them.
DECLARED = torch.library.Library("torchvision", "FRAGMENT")
for name in ("nms", "qnms"):
    if not hasattr(torch.ops.torchvision, name):
        DECLARED.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

torch.set_num_threads(1)
