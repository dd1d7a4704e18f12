"""A weight file with the head that PyTorch would begin with, so that dynavit and PyTorch start from the same weights.

usage: timm_head.py WEIGHTS MODEL CLASSES SEED OUTPUT
The head is what `timm.create_model(MODEL, num_classes=CLASSES)` draws after `torch.manual_seed(SEED)`.
"""

import random
import sys

import timm
import torch
from safetensors.torch import load_file, save_file

weights, model, classes, seed, output = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
random.seed(seed)
torch.manual_seed(seed)
head = timm.create_model(model, num_classes=classes).head
tensors = load_file(weights)
tensors["head.weight"], tensors["head.bias"] = head.weight.data.clone(), head.bias.data.clone()
save_file(tensors, output)
