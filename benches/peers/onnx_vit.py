"""OpenVINO and ONNX Runtime as rivals: the same pruned ViT, exported once, inference only.

    onnx_vit.py openvino-f32|openvino-bf16|onnxruntime-f32 infer MODEL K BATCH THREADS
"""
import logging
import sys
import tempfile
import warnings
from pathlib import Path

import timm
import torch

from worker import arguments, kept_count, serve

warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)


class Pruned(torch.nn.Module):
    """timm's ViT on the top k patches by L2 norm."""

    def __init__(self, vit, keep):
        super().__init__()
        self.vit = vit
        self.keep = keep

    def forward(self, images):
        vit = self.vit
        tokens = vit.patch_embed(images)
        batch, patches, width = tokens.shape
        k = kept_count(patches, self.keep)
        tokens = tokens + vit.pos_embed[:, 1:]
        if k < patches:
            side = vit.patch_embed.patch_size[0]
            grid = images.shape[-1] // side
            score = images.reshape(batch, 3, grid, side, grid, side).square().sum(dim=(1, 3, 5)).reshape(batch, patches)
            kept = score.topk(k, dim=1).indices.sort(dim=1).values
            tokens = tokens.gather(1, kept.unsqueeze(-1).expand(-1, -1, width))
        cls = (vit.cls_token + vit.pos_embed[:, :1]).expand(batch, -1, -1)
        return vit.head(vit.norm(vit.blocks(torch.cat([cls, tokens], 1)))[:, 0])


def exported(model, keep, batch, images):
    """The ONNX file of this case, written when it is not there yet."""
    path = Path(tempfile.gettempdir()) / f"dynavit-peer-{model}-{keep:g}-{batch}.onnx"
    if not path.exists():
        vit = timm.create_model(model, num_classes=5).eval()
        program = Pruned(vit, keep)
        # The exporter reports its progress on stdout, which belongs to the answers.
        stdout, sys.stdout = sys.stdout, sys.stderr
        torch.onnx.export(program, (images,), str(path), opset_version=18, dynamo=True, verbose=False)
        sys.stdout = stdout
    return str(path)


def main():
    engine, mode, model, keep, batch, threads = arguments()
    if mode != "infer":
        raise SystemExit(f"{engine} does not train")
    torch.manual_seed(0)
    images = torch.randn(batch, 3, 224, 224)
    path = exported(model, keep, batch, images)
    if engine.startswith("openvino"):
        import openvino

        hints = {
            "INFERENCE_PRECISION_HINT": engine.split("-")[1],
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
        }
        compiled = openvino.Core().compile_model(path, "CPU", hints)
        pixels = images.numpy()
        serve(f"OpenVINO {openvino.__version__.split('-')[0]} {engine.split('-')[1]}", lambda: compiled(pixels))
    else:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        feed = {session.get_inputs()[0].name: images.numpy()}
        serve(f"ONNX Runtime {onnxruntime.__version__} f32", lambda: session.run(None, feed))


main()
