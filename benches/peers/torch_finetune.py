"""PyTorch fine-tunes a timm ViT behind the paper's pruning, with the recipe of
`dynavit train DATASET K --split lists --model vit_small_patch16_224 --batch-size 32 --epochs 9 --lr 1e-5`.

    torch_finetune.py voc|cifar100|tiny-imagenet K --data DIR --weights FILE [--model NAME] [--epochs N]
        [--batch-size N] [--lr F] [--warmup-epochs F] [--schedule step|cosine] [--precision f32|bf16] [--seed N]
        [--crop-scale LEAST,MOST] [--img-size N] [--output FILE]

The data sets are read as dynavit reads them: VOC's train.txt and val.txt with the images that show exactly one of the
five classes; the training and test records of cifar-100-binary; train and val of tiny-imagenet-200. A line an epoch,
all of them as CSV with --output, and the best epoch at the end. Needs what requirements.txt names.
"""
import argparse
import csv
import math
import random
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from timm.models.vision_transformer import checkpoint_filter_fn
from torchvision import transforms

from torch_vit import forward

VOC = ["bicycle", "car", "cat", "dog", "person"]
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CIFAR = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)


def voc(root):
    """Training and validation images, as lists of (file, class), and the number of classes."""
    years = [root / year for year in ("VOC2012", "VOC2007")]
    root = next(path for path in [*years, root] if (path / "JPEGImages").is_dir())

    def part(name):
        for image in (root / f"ImageSets/Main/{name}.txt").read_text().split():
            objects = ET.parse(root / f"Annotations/{image}.xml").iter("object")
            shown = {VOC.index(o.findtext("name")) for o in objects if o.findtext("name") in VOC}
            if len(shown) == 1:
                yield root / f"JPEGImages/{image}.jpg", shown.pop()

    return list(part("train")), list(part("val")), len(VOC)


def cifar100(root):
    """As `voc`, the images already decoded."""
    def part(name):
        records = numpy.fromfile(root / f"{name}.bin", numpy.uint8).reshape(-1, 2 + 3 * 32 * 32)
        pixels = records[:, 2:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        return [(Image.fromarray(image.copy()), int(fine)) for image, fine in zip(pixels, records[:, 1])]

    return part("train"), part("test"), 100


def tiny_imagenet(root):
    """As `voc`; the classes are those that have a folder."""
    classes = sorted(path.name for path in (root / "train").iterdir())
    folders = [(root / "train" / name / "images", i) for i, name in enumerate(classes)]
    train = [(image, i) for folder, i in folders for image in sorted(folder.iterdir())]
    rows = [line.split("\t") for line in (root / "val/val_annotations.txt").read_text().splitlines()]
    return train, [(root / "val/images" / row[0], classes.index(row[1])) for row in rows], len(classes)


def tensors(examples, transform):
    def image(source):
        return source if isinstance(source, Image.Image) else Image.open(source).convert("RGB")

    labels = torch.tensor([label for _, label in examples])
    return torch.stack([transform(image(source)) for source, _ in examples]), labels


def rate(args, update, updates_per_epoch):
    """The learning rate of an update, counted from 0: dynavit's step and cosine schedules with a linear warm-up."""
    warmup = math.floor(args.warmup_epochs * updates_per_epoch + 0.5)
    if args.schedule == "cosine":
        factor = (1 + math.cos(math.pi * update / (args.epochs * updates_per_epoch))) / 2
    else:
        factor = 0.1 ** (update // updates_per_epoch // 3)
    return args.lr * factor * (min((update + 1) / warmup, 1) if warmup else 1)


def main():
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("dataset", choices=["voc", "cifar100", "tiny-imagenet"])
    flags.add_argument("keep", type=float)
    flags.add_argument("--data", type=Path, required=True)
    flags.add_argument("--weights", required=True)
    flags.add_argument("--model", default="vit_small_patch16_224")
    flags.add_argument("--epochs", type=int, default=9)
    flags.add_argument("--batch-size", type=int, default=32)
    flags.add_argument("--lr", type=float, default=1e-5)
    flags.add_argument("--warmup-epochs", type=float, default=0)
    flags.add_argument("--schedule", choices=["step", "cosine"], default="step")
    flags.add_argument("--crop-scale", default="0.08,1", help="share of the image that training crops cover")
    flags.add_argument("--img-size", type=int, default=224, help="pixels a side; positions are resampled to it")
    flags.add_argument("--precision", choices=["f32", "bf16"], default="f32", help="bf16: under autocast")
    flags.add_argument("--seed", type=int, default=42)
    flags.add_argument("--threads", type=int, default=torch.get_num_threads())
    flags.add_argument("--output", type=Path)
    args = flags.parse_args()
    torch.set_num_threads(args.threads)

    train, val, classes = {"voc": voc, "cifar100": cifar100, "tiny-imagenet": tiny_imagenet}[args.dataset](args.data)
    norm = transforms.Normalize(*(CIFAR if args.dataset == "cifar100" else IMAGENET))
    scale = tuple(float(share) for share in args.crop_scale.split(","))
    size = args.img_size
    crop = [transforms.RandomResizedCrop(size, scale), transforms.RandomHorizontalFlip(), transforms.ToTensor(), norm]
    whole = [transforms.Resize((size, size)), transforms.ToTensor(), norm]
    crop, whole = transforms.Compose(crop), transforms.Compose(whole)
    print(f"{len(train)} training and {len(val)} validation images, {classes} classes", flush=True)

    random.seed(args.seed)
    torch.manual_seed(args.seed)
    vit = timm.create_model(args.model, num_classes=classes, img_size=size)
    weights = {name: value.float() for name, value in load_file(args.weights).items()}
    if weights.get("head.weight", vit.head.weight).shape != vit.head.weight.shape:
        weights = {name: value for name, value in weights.items() if not name.startswith("head.")}
    patch = vit.patch_embed.patch_size[0]
    if size % patch or weights["patch_embed.proj.weight"].shape != vit.patch_embed.proj.weight.shape:
        raise SystemExit(f"error: {args.weights} in patches of {patch} does not fit {args.model} at {size} pixels")
    if weights["pos_embed"].shape != vit.pos_embed.shape:
        print(f"positions resampled: {weights['pos_embed'].shape[1]} to {vit.pos_embed.shape[1]} tokens", flush=True)
    weights = checkpoint_filter_fn(weights, vit)
    loaded = vit.load_state_dict(weights, strict=False)
    if loaded.unexpected_keys or any(not name.startswith("head.") for name in loaded.missing_keys):
        raise SystemExit(f"error: {args.weights} does not fit {args.model}: {loaded}")
    print("drawn:", ", ".join(loaded.missing_keys) or "nothing", flush=True)
    optim = torch.optim.AdamW(vit.parameters(), lr=args.lr, weight_decay=0.05)

    autocast = torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.precision == "bf16")
    rows, update = [], 0
    for epoch in range(1, args.epochs + 1):
        began, total = time.time(), 0.0
        random.shuffle(train)
        vit.train()
        batches = [train[i : i + args.batch_size] for i in range(0, len(train), args.batch_size)]
        for batch in batches:
            images, labels = tensors(batch, crop)
            for group in optim.param_groups:
                group["lr"] = rate(args, update, len(batches))
            with autocast:
                logits = forward(vit, images, args.keep)
            loss = F.cross_entropy(logits.float(), labels)
            optim.zero_grad()
            loss.backward()
            optim.step()
            total += loss.item() * len(batch)
            update += 1
        seconds = time.time() - began
        vit.eval()
        right = 0
        with torch.inference_mode(), autocast:
            for i in range(0, len(val), args.batch_size):
                images, labels = tensors(val[i : i + args.batch_size], whole)
                right += (forward(vit, images, args.keep).argmax(1) == labels).sum().item()
        rows.append([epoch, f"{total / len(train):.4f}", f"{100 * right / len(val):.2f}", f"{seconds:.1f}"])
        print("epoch {}: loss {}, validation {} %, {} s".format(*rows[-1]), flush=True)
        if args.output:
            header = ["epoch", "train_loss", "val_percent", "seconds"]
            with args.output.open("w", newline="") as file:
                csv.writer(file, lineterminator="\n").writerows([header, *rows])
    print(f"best {max(float(row[2]) for row in rows)} %, torch {torch.__version__}, timm {timm.__version__}")


if __name__ == "__main__":
    main()
