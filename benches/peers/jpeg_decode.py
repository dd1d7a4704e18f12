"""Times Pillow's JPEG decoder (libjpeg-turbo) on the images of a folder, for comparison with `dynavit data bench`.

    python benches/peers/jpeg_decode.py FOLDER [--images 256] [--turns 5]
"""

import argparse
import io
import pathlib
import time

import PIL
from PIL import Image, features

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("folder", type=pathlib.Path)
parser.add_argument("--images", type=int, default=256)
parser.add_argument("--turns", type=int, default=5)
args = parser.parse_args()

endings = {".jpg", ".jpeg"}
paths = sorted(path for path in args.folder.rglob("*") if path.suffix.lower() in endings)[: args.images]
files = [path.read_bytes() for path in paths]
assert files, f"no JPEG under {args.folder}"

seconds = []
for _ in range(args.turns + 1):
    began = time.perf_counter()
    pixels = 0
    for data in files:
        image = Image.open(io.BytesIO(data)).convert("RGB")
        pixels += image.width * image.height
    seconds.append(time.perf_counter() - began)
# The first turn warms up.
seconds = sorted(seconds[1:])
median = seconds[len(seconds) // 2]
print(
    f"Pillow {PIL.__version__}, libjpeg-turbo {features.version('libjpeg_turbo')}: {len(files)} images, "
    f"{1e3 * median / len(files):.3f} ms an image, {pixels / 1e6 / median:.0f} megapixels/s on one thread"
)
