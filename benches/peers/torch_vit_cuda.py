"""PyTorch on the card as a rival: timm's ViT behind the paper's pruning, under autocast as it is trained.

    torch_vit_cuda.py infer|train MODEL K BATCH f16|bf16|f32 eager|compile|max-autotune [STEPS]

Autocast (with a gradient scaler in f16), scaled_dot_product_attention, fused AdamW, TF32 products for what stays f32;
`compile` and `max-autotune` are the modes of torch.compile. Images come from pinned memory as bytes, in a second stream while
the step before computes, and are normalised on the card, as a careful data loader does. Prints one line of JSON: img/s of the median step after three that warm up.
"""
import json
import statistics
import sys
import time

import timm
import torch
import torch.nn.functional as F

from torch_vit import forward


def main():
    mode, model, keep, batch, precision, how = sys.argv[1:7]
    keep, batch, steps = float(keep), int(batch), int(sys.argv[7]) if len(sys.argv) > 7 else 10
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.manual_seed(0)
    vit = timm.create_model(model, num_classes=5).train(mode == "train").cuda()
    optim = torch.optim.AdamW(vit.parameters(), lr=3e-5, weight_decay=0.05, fused=True)
    scaler = torch.amp.GradScaler("cuda", enabled=precision == "f16")
    dtype = {"f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32}[precision]
    pixels = torch.randint(0, 256, (batch, 3, 224, 224), dtype=torch.uint8).pin_memory()
    labels = torch.randint(0, 5, (batch,)).cuda()
    mean = torch.tensor([0.485, 0.456, 0.406], device="cuda").view(1, 3, 1, 1) * 255
    std = torch.tensor([0.229, 0.224, 0.225], device="cuda").view(1, 3, 1, 1) * 255

    side, brought = torch.cuda.Stream(), []

    def bring():
        with torch.cuda.stream(side):
            brought.append(pixels.cuda(non_blocking=True))

    def images():
        torch.cuda.current_stream().wait_stream(side)
        now = brought.pop()
        now.record_stream(torch.cuda.current_stream())
        bring()
        return now

    bring()

    def logits(bytes):
        return forward(vit, (bytes.float() - mean) / std, keep)

    if how != "eager":
        logits = torch.compile(logits, mode="max-autotune" if how == "max-autotune" else "default")
    autocast = torch.autocast("cuda", dtype=dtype, enabled=precision != "f32")

    def infer():
        with torch.inference_mode(), autocast:
            return logits(images()).cpu()

    def train():
        with autocast:
            loss = F.cross_entropy(logits(images()).float(), labels)
        optim.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        scaler.step(optim)
        scaler.update()
        return loss.item()

    step, seconds = (train if mode == "train" else infer), []
    for _ in range(3 + steps):
        torch.cuda.synchronize()
        start = time.perf_counter()
        step()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds[3:])
    print(json.dumps({
        "rival": f"torch {torch.__version__} {how}", "mode": mode, "model": model, "keep": keep, "batch": batch,
        "precision": precision, "images_per_second": batch / median, "milliseconds": median * 1e3,
        "peak_memory_bytes": torch.cuda.max_memory_allocated(),
    }))


main()
