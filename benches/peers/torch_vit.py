"""PyTorch as a rival: timm's ViT behind the paper's pruning, inference or a training step with AdamW.

    torch_vit.py f32|bf16 infer|train MODEL K BATCH THREADS
"""
import timm
import torch
import torch.nn.functional as F

from worker import arguments, kept_count, serve


def forward(vit, images, keep):
    """Logits of the pruned ViT: all patches embedded, the top K percent by L2 norm gathered, as the paper does."""
    tokens = vit.patch_embed(images)
    batch, patches, width = tokens.shape
    k = kept_count(patches, keep)
    positions = vit.pos_embed[:, 1:].expand(batch, -1, -1)
    if k < patches:
        side = vit.patch_embed.patch_size[0]
        grid = images.shape[-1] // side
        cut = images.reshape(batch, 3, grid, side, grid, side).float()
        score = cut.square().sum(dim=(1, 3, 5)).sqrt().reshape(batch, patches)
        kept = score.topk(k, dim=1).indices.sort(dim=1).values.unsqueeze(-1).expand(-1, -1, width)
        tokens, positions = tokens.gather(1, kept), positions.gather(1, kept)
    cls = (vit.cls_token + vit.pos_embed[:, :1]).expand(batch, -1, -1).to(tokens.dtype)
    return vit.head(vit.norm(vit.blocks(torch.cat([cls, tokens + positions], 1)))[:, 0])


def main():
    precision, mode, model, keep, batch, threads = arguments()
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    vit = timm.create_model(model, num_classes=5).train(mode == "train")
    optim = torch.optim.AdamW(vit.parameters(), lr=3e-5, weight_decay=0.05)
    images, labels = torch.randn(batch, 3, 224, 224), torch.randint(0, 5, (batch,))
    autocast = torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16")

    def infer():
        with torch.inference_mode(), autocast:
            forward(vit, images, keep)

    def train():
        with autocast:
            loss = F.cross_entropy(forward(vit, images, keep).float(), labels)
        optim.zero_grad(set_to_none=True)
        loss.backward()
        optim.step()

    serve(f"torch {torch.__version__} {precision}", train if mode == "train" else infer)


if __name__ == "__main__":
    main()
