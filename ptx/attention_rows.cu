// Attention with heads of width 64 on the ordinary cores: a few queries over many keys, or any type where speed is no matter.
//
// computes   as attention.cu and attention_bwd.cu, of queries that need not be as many as the keys
// pointers   q, dq (B, Q, ..), k, v, dk, dv (B, S, ..) of T: rows of which the first H 64 values from the pointer on are
//            meant, q_row values apart for q and dq, kv_row apart for the others; y, dy (B, Q, H, 64) of T; lse (B, H, Q)
//            of f32. All 16-byte aligned, q_row and kv_row multiples of 8. Any B, Q, S and H.
// arithmetic f32 throughout; y, dq, dk and dv rounded once
// owners     fwd: a block a query of an image and head. bwd: a block an image and head. Eight lanes share a row of 64
//            values; such a group takes every 16th key, and the groups' sums are added in one order: same input, same bits.
// outputs    what is written is set
// launch     fwd: B H Q blocks of 128 threads in x. bwd: B H blocks of 128 threads in x. No dynamic shared memory.
// resources  static shared memory of about 1 KiB; registers in RESOURCES.md
// cost       4 B Q S H 64 FLOPs forward, reading k and v once a query; backward 10 B Q S H 64, or for Q > 1 another
//            8 B Q S H 64, as dk and dv then take a walk of their own. With one query k and v are read once.
#include "common.cuh"

namespace attention {

constexpr unsigned WIDTH = 64;
constexpr unsigned WARPS = 4;
// Lanes of a row, and values of it that each holds.
constexpr unsigned LANES = 8;
constexpr unsigned VALUES = WIDTH / LANES;
constexpr unsigned GROUPS = WARPS * WARP / LANES;
constexpr float LOG2_E = 1.4426950408889634f;
constexpr float LN_2 = 0.69314718055994531f;
constexpr float SCALE = LOG2_E / 8.0f;

// A lane's share of a row: for T of 16 bits eight neighbours, for f32 twice four. All accesses are of whole sectors.
template <typename T> struct Share {
    float v[VALUES];

    static DEVICE Share zero() { return Share{}; }
    static DEVICE Share load(const T *row) {
        const uint4 words = *reinterpret_cast<const uint4 *>(row + threadIdx.x % LANES * VALUES);
        const uint32_t word[4] = {words.x, words.y, words.z, words.w};
        Share share;
#pragma unroll
        for (unsigned i = 0; i < 4; ++i) {
            const float2 pair = widen2<T>(word[i]);
            share.v[2 * i] = pair.x;
            share.v[2 * i + 1] = pair.y;
        }
        return share;
    }
    DEVICE void store(T *row) const {
        st_global_v4(row + threadIdx.x % LANES * VALUES,
                     make_uint4(narrow2<T>(v[0], v[1]), narrow2<T>(v[2], v[3]), narrow2<T>(v[4], v[5]),
                                narrow2<T>(v[6], v[7])));
    }
    // The product with another row, in each of the row's lanes.
    DEVICE float dot(const Share &other) const {
        float sum = 0.0f;
#pragma unroll
        for (unsigned i = 0; i < VALUES; ++i) {
            sum += v[i] * other.v[i];
        }
#pragma unroll
        for (unsigned distance = LANES / 2; distance > 0; distance /= 2) {
            sum += __shfl_xor_sync(ALL_LANES, sum, distance);
        }
        return sum;
    }
    DEVICE void add(const Share &other, float factor) {
#pragma unroll
        for (unsigned i = 0; i < VALUES; ++i) {
            v[i] += other.v[i] * factor;
        }
    }
    DEVICE void scale(float factor) {
#pragma unroll
        for (unsigned i = 0; i < VALUES; ++i) {
            v[i] *= factor;
        }
    }
    // Adds the share of the same columns that the lane `distance` away holds.
    DEVICE void add_lane(unsigned distance) {
#pragma unroll
        for (unsigned i = 0; i < VALUES; ++i) {
            v[i] += __shfl_xor_sync(ALL_LANES, v[i], distance);
        }
    }
};

template <> DEVICE Share<float> Share<float>::load(const float *row) {
    const float4 *from = reinterpret_cast<const float4 *>(row) + threadIdx.x % LANES;
    const float4 a = from[0], b = from[LANES];
    return Share{{a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}};
}

template <> DEVICE void Share<float>::store(float *row) const {
    const unsigned column = threadIdx.x % LANES * 4;
    st_global_v4(row + column, make_uint4(__float_as_uint(v[0]), __float_as_uint(v[1]), __float_as_uint(v[2]),
                                          __float_as_uint(v[3])));
    st_global_v4(row + column + WIDTH / 2, make_uint4(__float_as_uint(v[4]), __float_as_uint(v[5]),
                                                      __float_as_uint(v[6]), __float_as_uint(v[7])));
}

// What a warp leaves for the first one to add up: shares by lanes, and two numbers of a softmax.
struct Left {
    float4 shares[WARPS][2][LANES];
    float largest[WARPS], total[WARPS];
};

template <typename T> DEVICE void leave(Left &left, const Share<T> &share) {
    if (threadIdx.x % WARP < LANES) {
        float4(&to)[2][LANES] = left.shares[threadIdx.x / WARP];
        to[0][threadIdx.x % LANES] = make_float4(share.v[0], share.v[1], share.v[2], share.v[3]);
        to[1][threadIdx.x % LANES] = make_float4(share.v[4], share.v[5], share.v[6], share.v[7]);
    }
}

template <typename T> DEVICE Share<T> left_by(const Left &left, unsigned warp) {
    const float4 a = left.shares[warp][0][threadIdx.x % LANES], b = left.shares[warp][1][threadIdx.x % LANES];
    return Share<T>{{a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}};
}

// The rows of a head of an image: values from the first one's beginning on, and the distance of two.
template <typename T> struct Rows {
    T *start;
    unsigned stride;
    DEVICE Rows(T *array, unsigned image, unsigned head, unsigned rows, unsigned row)
        : start(array + size_t(image) * rows * row + head * WIDTH), stride(row) {}
    DEVICE T *operator[](unsigned row) const { return start + size_t(row) * stride; }
};

// The loops over keys go on for whole warps, so that shuffles meet all lanes: keys from S on count for nothing.
DEVICE unsigned first_key_of_warp() { return threadIdx.x / WARP * (WARP / LANES); }
DEVICE unsigned key_in_warp() { return threadIdx.x % WARP / LANES; }

// Each group keeps the softmax of its own keys, by the largest score it saw; at the end they are brought to one scale.
template <typename T>
DEVICE void forward(const T *q, const T *k, const T *v, T *y, float *lse, unsigned queries, unsigned keys,
                    unsigned heads, unsigned q_row, unsigned kv_row) {
    __shared__ Left left;
    const unsigned image_and_head = blockIdx.x / queries, query = blockIdx.x % queries;
    const unsigned image = image_and_head / heads, head = image_and_head % heads;
    const Rows<const T> q_rows(q, image, head, queries, q_row), k_rows(k, image, head, keys, kv_row),
        v_rows(v, image, head, keys, kv_row);
    const Rows<T> y_rows(y, image, head, queries, heads * WIDTH);
    const Share<T> q_share = Share<T>::load(q_rows[query]);

    Share<T> sums = Share<T>::zero();
    float largest = -INFINITY, total = 0.0f;
#pragma unroll 1
    for (unsigned base = first_key_of_warp(); base < keys; base += GROUPS) {
        const unsigned key = base + key_in_warp();
        const bool real = key < keys;
        const Share<T> k_share = real ? Share<T>::load(k_rows[key]) : Share<T>::zero();
        const Share<T> v_share = real ? Share<T>::load(v_rows[key]) : Share<T>::zero();
        const float score = q_share.dot(k_share) * SCALE;
        if (real) {
            const float grown = fmaxf(largest, score), shrink = ex2_approx(largest - grown);
            const float p = ex2_approx(score - grown);
            largest = grown;
            total = total * shrink + p;
            sums.scale(shrink);
            sums.add(v_share, p);
        }
    }
    // A group without a key has a factor of 0, and a warp without one has no number to subtract.
#pragma unroll
    for (unsigned distance = LANES; distance < WARP; distance *= 2) {
        const float other = __shfl_xor_sync(ALL_LANES, largest, distance), grown = fmaxf(largest, other);
        const float factor = largest == -INFINITY ? 0.0f : ex2_approx(largest - grown);
        largest = grown;
        total *= factor;
        sums.scale(factor);
        total += __shfl_xor_sync(ALL_LANES, total, distance);
        sums.add_lane(distance);
    }
    leave(left, sums);
    if (threadIdx.x % WARP == 0) {
        left.largest[threadIdx.x / WARP] = largest;
        left.total[threadIdx.x / WARP] = total;
    }
    __syncthreads();
    if (threadIdx.x < LANES) {
        // The first warp has the first key.
        for (unsigned warp = 1; warp < WARPS; ++warp) {
            const float grown = fmaxf(largest, left.largest[warp]);
            const float mine = ex2_approx(largest - grown), theirs = ex2_approx(left.largest[warp] - grown);
            largest = grown;
            total = total * mine + left.total[warp] * theirs;
            sums.scale(mine);
            sums.add(left_by<T>(left, warp), theirs);
        }
        sums.scale(1.0f / total);
        sums.store(y_rows[query]);
        if (threadIdx.x == 0) {
            lse[size_t(image_and_head) * queries + query] = (largest + lg2_approx(total)) * LN_2;
        }
    }
}

// A query with all that its gradients take; lse is of powers of two.
template <typename T> struct Query {
    Share<T> q, dy;
    float lse, delta;

    DEVICE Query(const T *q_row, const T *y_row, const T *dy_row, float row_lse)
        : q(Share<T>::load(q_row)), dy(Share<T>::load(dy_row)), lse(row_lse * LOG2_E),
          delta(Share<T>::load(y_row).dot(dy)) {}
    DEVICE float weight(const Share<T> &k) const { return ex2_approx(q.dot(k) * SCALE - lse); }
    // dS / 8.
    DEVICE float ds(float p, const Share<T> &v) const { return p * (dy.dot(v) - delta) * 0.125f; }
};

template <typename T>
DEVICE void backward(const T *q, const T *k, const T *v, const T *y, const T *dy, const float *lse, T *dq, T *dk, T *dv,
                     unsigned queries, unsigned keys, unsigned heads, unsigned q_row, unsigned kv_row) {
    __shared__ Left left;
    const unsigned image = blockIdx.x / heads, head = blockIdx.x % heads;
    const Rows<const T> q_rows(q, image, head, queries, q_row), k_rows(k, image, head, keys, kv_row),
        v_rows(v, image, head, keys, kv_row), y_rows(y, image, head, queries, heads * WIDTH),
        dy_rows(dy, image, head, queries, heads * WIDTH);
    const Rows<T> dq_rows(dq, image, head, queries, q_row), dk_rows(dk, image, head, keys, kv_row),
        dv_rows(dv, image, head, keys, kv_row);
    const float *head_lse = lse + size_t(blockIdx.x) * queries;

#pragma unroll 1
    for (unsigned i = 0; i < queries; ++i) {
        const Query<T> query(q_rows[i], y_rows[i], dy_rows[i], head_lse[i]);
        Share<T> sums = Share<T>::zero();
#pragma unroll 1
        for (unsigned base = first_key_of_warp(); base < keys; base += GROUPS) {
            const unsigned key = base + key_in_warp();
            const bool real = key < keys;
            const Share<T> k_share = real ? Share<T>::load(k_rows[key]) : Share<T>::zero();
            const Share<T> v_share = real ? Share<T>::load(v_rows[key]) : Share<T>::zero();
            const float p = query.weight(k_share), ds = query.ds(p, v_share);
            if (real) {
                sums.add(k_share, ds);
                if (queries == 1) {
                    Share<T> dk_share = query.q, dv_share = query.dy;
                    dk_share.scale(ds);
                    dv_share.scale(p);
                    dk_share.store(dk_rows[key]);
                    dv_share.store(dv_rows[key]);
                }
            }
        }
        sums.add_lane(LANES);
        sums.add_lane(2 * LANES);
        // The query before has been added up.
        __syncthreads();
        leave(left, sums);
        __syncthreads();
        if (threadIdx.x < LANES) {
            for (unsigned warp = 1; warp < WARPS; ++warp) {
                sums.add(left_by<T>(left, warp), 1.0f);
            }
            sums.store(dq_rows[i]);
        }
    }
    if (queries == 1) {
        return;
    }
#pragma unroll 1
    for (unsigned base = first_key_of_warp(); base < keys; base += GROUPS) {
        const unsigned key = base + key_in_warp();
        const bool real = key < keys;
        const Share<T> k_share = real ? Share<T>::load(k_rows[key]) : Share<T>::zero();
        const Share<T> v_share = real ? Share<T>::load(v_rows[key]) : Share<T>::zero();
        Share<T> dk_sums = Share<T>::zero(), dv_sums = Share<T>::zero();
#pragma unroll 1
        for (unsigned i = 0; i < queries; ++i) {
            const Query<T> query(q_rows[i], y_rows[i], dy_rows[i], head_lse[i]);
            const float p = query.weight(k_share);
            dk_sums.add(query.q, query.ds(p, v_share));
            dv_sums.add(query.dy, p);
        }
        if (real) {
            dk_sums.store(dk_rows[key]);
            dv_sums.store(dv_rows[key]);
        }
    }
}

} // namespace attention

#define ENTRIES(T, NAME)                                                                                               \
    extern "C" __global__ void __launch_bounds__(128, 4)                                                                  \
        attention_fwd_rows_##NAME(const T *q, const T *k, const T *v, T *y, float *lse, uint32_t queries,              \
                                  uint32_t keys, uint32_t heads, uint32_t q_row, uint32_t kv_row) {                    \
        attention::forward(q, k, v, y, lse, queries, keys, heads, q_row, kv_row);                                      \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(128, 4) attention_bwd_rows_##NAME(                                       \
        const T *q, const T *k, const T *v, const T *y, const T *dy, const float *lse, T *dq, T *dk, T *dv,            \
        uint32_t queries, uint32_t keys, uint32_t heads, uint32_t q_row, uint32_t kv_row) {                            \
        attention::backward(q, k, v, y, dy, lse, dq, dk, dv, queries, keys, heads, q_row, kv_row);                     \
    }

ENTRIES(f16, f16)
ENTRIES(float, f32)
#if __CUDA_ARCH__ >= 800
ENTRIES(bf16, bf16)
#endif
