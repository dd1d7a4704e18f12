// Which patches of an image are worth keeping: the scores of bytes, and the indices of the k best.
//
// computes   l2: score[n] = the sum of squares[c][byte] over the patch, c outermost, then by rows: the squared L2 norm.
//            sobel: the mean length of the 3x3 Sobel gradient of the luma over the patch, in units of full scale.
//            entropy: minus the sum of terms[count of a bin of the luma's histogram], bins ascending.
//            top_k: the k best of n scores of each image, as ascending indices; the lower index wins a tie
// pointers   rgb (B, height, width, 3) bytes; scores (B, N) of f64, N = (height / P) (width / P); squares (3, 256), terms
//            (P P + 1) of f64; kept (B, k) of u32; all 16-byte aligned
// arithmetic f64 sums in the order of the CPU engine, whose bits they have; luma and gradients are exact integers
// owners     a thread a patch; of top_k a block an image
// outputs    scores and kept are set
// launch     ceil(B N / 64) blocks of 64; top_k B blocks of 256 with 12 n bytes of dynamic shared memory. P at most 255.
// resources  entropy: 32 KiB for 64 histograms; registers in RESOURCES.md
// cost       3 bytes a pixel are read from memory, most loads are served by the first cache, where l2 and entropy also
//            look up 8 bytes a byte or a bin; 8 bytes a patch are written; top_k compares n n scores twice an image
#include "common.cuh"

namespace saliency {

constexpr unsigned THREADS = 64, BINS = 256;

// The patch of this thread: the first byte of its image and its first pixel.
struct Patch {
    const uint8_t *image;
    unsigned row, column;
    DEVICE Patch(const uint8_t *rgb, unsigned index, unsigned height, unsigned width, unsigned patch) {
        const unsigned columns = width / patch, patches = columns * (height / patch), n = index % patches;
        image = rgb + size_t(index / patches) * height * width * 3;
        row = n / columns * patch;
        column = n % columns * patch;
    }
};

// 1000 Y of Y = 0.299 R + 0.587 G + 0.114 B.
DEVICE int luma(const uint8_t *pixel) { return 299 * pixel[0] + 587 * pixel[1] + 114 * pixel[2]; }

// What a column of three pixels gives to the gradients: its weighted sum, and the difference of its ends.
struct Column {
    int sum, difference, middle;
    DEVICE Column(const uint8_t *above, const uint8_t *here, const uint8_t *below, unsigned x) {
        const int a = luma(above + 3 * x), b = luma(below + 3 * x);
        middle = luma(here + 3 * x);
        sum = a + 2 * middle + b;
        difference = b - a;
    }
};

} // namespace saliency

using namespace saliency;

extern "C" __global__ void __launch_bounds__(THREADS)
    saliency_l2(const uint8_t *rgb, const double *squares, double *scores, uint32_t patches, uint32_t height,
                uint32_t width, uint32_t patch) {
    const unsigned index = blockIdx.x * THREADS + threadIdx.x;
    if (index >= patches) {
        return;
    }
    const Patch p(rgb, index, height, width, patch);
    double sum = 0;
    for (unsigned c = 0; c < 3; ++c) {
        for (unsigned y = 0; y < patch; ++y) {
            const uint8_t *from = p.image + (size_t(p.row + y) * width + p.column) * 3 + c;
            for (unsigned x = 0; x < patch; ++x) {
                sum += squares[c * 256 + from[3 * x]];
            }
        }
    }
    scores[index] = sum;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    saliency_sobel(const uint8_t *rgb, double *scores, uint32_t patches, uint32_t height, uint32_t width,
                   uint32_t patch) {
    const unsigned index = blockIdx.x * THREADS + threadIdx.x;
    if (index >= patches) {
        return;
    }
    const Patch p(rgb, index, height, width, patch);
    double sum = 0;
    for (unsigned y = p.row; y < p.row + patch; ++y) {
        const uint8_t *here = p.image + size_t(y) * width * 3;
        const uint8_t *above = y > 0 ? here - width * 3 : here, *below = y + 1 < height ? here + width * 3 : here;
        Column left(above, here, below, p.column > 0 ? p.column - 1 : 0), middle(above, here, below, p.column);
        for (unsigned x = p.column; x < p.column + patch; ++x) {
            const Column right(above, here, below, min(x + 1, width - 1));
            // Below 2^21 each, so their squares' sum is exact.
            const double gx = right.sum - left.sum, gy = left.difference + 2 * middle.difference + right.difference;
            sum += sqrt(gx * gx + gy * gy);
            left = middle;
            middle = right;
        }
    }
    scores[index] = sum / (255000.0 * double(patch * patch));
}

extern "C" __global__ void __launch_bounds__(THREADS)
    saliency_entropy(const uint8_t *rgb, const double *terms, double *scores, uint32_t patches, uint32_t height,
                     uint32_t width, uint32_t patch, uint32_t bins) {
    __shared__ uint16_t histograms[BINS * THREADS];
    const unsigned index = blockIdx.x * THREADS + threadIdx.x;
    if (index >= patches) {
        return;
    }
    const Patch p(rgb, index, height, width, patch);
    // Of two threads side by side each may make the other wait for a bank; no more than two share one.
    uint16_t *histogram = histograms + threadIdx.x;
    for (unsigned bin = 0; bin < bins; ++bin) {
        histogram[bin * THREADS] = 0;
    }
    for (unsigned y = 0; y < patch; ++y) {
        const uint8_t *from = p.image + (size_t(p.row + y) * width + p.column) * 3;
        for (unsigned x = 0; x < patch; ++x) {
            const unsigned level = unsigned(luma(from + 3 * x) + 500) / 1000;
            histogram[level * bins / 256 * THREADS] += 1;
        }
    }
    double sum = 0;
    for (unsigned bin = 0; bin < bins; ++bin) {
        sum -= terms[histogram[bin * THREADS]];
    }
    scores[index] = sum;
}

extern "C" __global__ void __launch_bounds__(256)
    saliency_top_k(const double *scores, uint32_t *kept, uint32_t n, uint32_t k) {
    extern __shared__ double values[];
    uint32_t *chosen = reinterpret_cast<uint32_t *>(values + n);
    scores += size_t(blockIdx.x) * n;
    for (unsigned i = threadIdx.x; i < n; i += 256) {
        values[i] = scores[i];
    }
    __syncthreads();
    for (unsigned i = threadIdx.x; i < n; i += 256) {
        const double mine = values[i];
        unsigned better = 0;
        for (unsigned j = 0; j < n; ++j) {
            better += values[j] > mine || (values[j] == mine && j < i);
        }
        chosen[i] = better < k;
    }
    __syncthreads();
    for (unsigned i = threadIdx.x; i < n; i += 256) {
        if (chosen[i]) {
            unsigned place = 0;
            for (unsigned j = 0; j < i; ++j) {
                place += chosen[j];
            }
            // Fewer than k precede it, unless a score is NaN, which no other is better or worse than.
            if (place < k) {
                kept[size_t(blockIdx.x) * k + place] = i;
            }
        }
    }
}
