// Scores every keyframe of the bank against one new frame and leaves the best k, in one launch.
//
// A warp takes a keyframe at a time: its lanes share the product of the descriptors, and each
// looks at one of the 32 points by which the overlap of the views is told. A block keeps the best
// of its keyframes in shared memory; the block that finishes last merges what all have left and
// writes the answer. Nothing is read back but that answer, and nothing needs clearing between
// launches: the last block leaves the state as it found it.
//
// The sizes are given by kernel_retrieval.py as macros, so that both sides agree:
//   RECORD_SIZE, VIEW_SIZE, MERIT, NOTED, BIAS   columns of a keyframe's record
//   HEADER_SIZE                                  floats of the query before its descriptor
//   MERIT_HALF_LIFE, NEAREST, FARTHEST, NEAR_POINTS, FAR_POINTS, STEP_ACROSS, ...
//   KEEP                                         the greatest k, and threads of a block
//   BLOCKS_PER_PROCESSOR                         blocks that a multiprocessor runs at once

#define WARP 32  // and the points of a view
#define WARPS (KEEP / WARP)
#define POOL (2 * KEEP)
#define ALL_LANES 0xffffffffu
#define MINUS_INFINITY __uint_as_float(0xff800000u)

typedef unsigned int uint32;
typedef unsigned long long uint64;

// A float as an integer of the same order; 0 is below every float.
__device__ inline uint32 ordered(float value) {
    uint32 bits = __float_as_uint(value);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

__device__ inline float unordered(uint32 key) {
    return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

// Two float16 of one word. Inline, since the compiler at run time has no headers.
__device__ inline void halves(uint32 word, float &low, float &high) {
#ifdef __CUDACC_RTC__
    asm("{.reg .f16 l, h;\n mov.b32 {l, h}, %2;\n cvt.f32.f16 %0, l;\n cvt.f32.f16 %1, h;}"
        : "=f"(low), "=f"(high)
        : "r"(word));
#else
    low = half_as_float(word & 0xffffu);
    high = half_as_float(word >> 16);
#endif
}

__device__ inline float warp_sum(float value) {
    for (int step = WARP / 2; step; step /= 2) value += __shfl_xor_sync(ALL_LANES, value, step);
    return value;
}

// What a block shares. The query's descriptor and its bonuses follow.
struct Shared {
    uint64 pool[POOL];  // candidates: order of the score, then the slot, lower ones first
    uint64 threshold;   // what a candidate must exceed
    uint32 count;       // candidates in the pool
    uint32 likest;      // greatest cosine, ordered
    int is_last;
};

__device__ inline void offer(Shared &shared, uint64 key) {
    if (key > shared.threshold) shared.pool[atomicAdd(&shared.count, 1u)] = key;
}

// Sort the pool, greatest first, and cut it to k. All threads of the block call it.
__device__ __noinline__ void settle(Shared &shared, uint32 k) {
    __syncthreads();
    uint32 count = shared.count;
    for (uint32 i = threadIdx.x; i < POOL; i += KEEP)
        if (i >= count) shared.pool[i] = 0;
#pragma unroll 1
    for (uint32 size = 2; size <= POOL; size *= 2)
#pragma unroll 1
        for (uint32 stride = size / 2; stride; stride /= 2) {
            __syncthreads();
            uint32 i = 2 * threadIdx.x - (threadIdx.x & (stride - 1));
            uint64 a = shared.pool[i], b = shared.pool[i + stride];
            bool descending = (i & size) == 0;
            if ((a < b) == descending) {
                shared.pool[i] = b;
                shared.pool[i + stride] = a;
            }
        }
    __syncthreads();
    if (threadIdx.x == 0) {
        shared.count = min(count, k);
        shared.threshold = count >= k ? shared.pool[k - 1] : 0;
    }
    __syncthreads();
}

// Make room for one more candidate of each thread. All threads of the block call it.
__device__ inline void make_room(Shared &shared, uint32 k) {
    __syncthreads();
    bool full = shared.count > POOL - KEEP;
    __syncthreads();
    if (full) settle(shared, k);
}

// One of the 32 points of a view, in the world, seen from its camera.
struct Ray {
    float x, y, z, squared;
};

__device__ inline Ray ray_of(const float *view, int lane) {
    float across = 0.5f + lane * STEP_ACROSS, down = 0.5f + lane * STEP_DOWN;
    float in_depth = 0.5f + lane * STEP_IN_DEPTH;
    across -= floorf(across);
    down -= floorf(down);
    in_depth -= floorf(in_depth);
    float z = view[16] * (NEAR_POINTS + (FAR_POINTS - NEAR_POINTS) * in_depth);
    float x = (view[12] + (view[13] - view[12]) * across) * z;
    float y = (view[14] + (view[15] - view[14]) * down) * z;
    Ray ray;
    ray.x = view[0] * x + view[1] * y + view[2] * z;
    ray.y = view[3] * x + view[4] * y + view[5] * z;
    ray.z = view[6] * x + view[7] * y + view[8] * z;
    ray.squared = ray.x * ray.x + ray.y * ray.y + ray.z * ray.z;
    return ray;
}

// How far an observer sees a point of an owner's, and from a like direction: 0 to 1.
__device__ inline float seen(const Ray &ray, const float *owner, const float *observer) {
    float ax = ray.x + (owner[9] - observer[9]);
    float ay = ray.y + (owner[10] - observer[10]);
    float az = ray.z + (owner[11] - observer[11]);
    float x = observer[0] * ax + observer[3] * ay + observer[6] * az;
    float y = observer[1] * ax + observer[4] * ay + observer[7] * az;
    float z = observer[2] * ax + observer[5] * ay + observer[8] * az;
    bool inside = z > NEAREST * observer[16] && z < FARTHEST * observer[16] &&
                  x >= observer[12] * z && x <= observer[13] * z && y >= observer[14] * z &&
                  y <= observer[15] * z;
    float along = ray.x * ax + ray.y * ay + ray.z * az;
    float lengths = fmaxf(ray.squared * (ax * ax + ay * ay + az * az), 1e-20f);
    return inside ? fmaxf(along, 0.0f) * rsqrtf(lengths) : 0.0f;
}

extern __shared__ float4 arena[];

// descriptors: (capacity, vectors) of 8 float16, padded with zeros.
// query: header, then 8 * vectors floats, then the bonuses' slots, then the bonuses.
// partial: (k, blocks), the best of each block. state: blocks done, greatest cosine; zeros.
// answer: greatest cosine, count, k slots, k scores.
extern "C" __global__ void __launch_bounds__(KEEP, BLOCKS_PER_PROCESSOR)
    retrieve(const uint4 *descriptors, const float *records, int rows, int vectors,
             const float *query, uint64 *partial, uint32 *state, int *answer) {
    Shared &shared = *(Shared *)arena;
    float4 *low = arena + (sizeof(Shared) + 15) / 16;
    float4 *high = low + vectors;
    int *bonus_slots = (int *)(high + vectors);
    const float w_similarity = query[0], usual = query[1], w_overlap = query[2];
    const float w_merit = query[3], now = query[4];
    const int bonuses = __float_as_int(query[5]);
    const uint32 k = __float_as_int(query[6]);
    const float *view = query + 8;
    const float *tail = query + HEADER_SIZE + 8 * vectors;
    float *bonus = (float *)(bonus_slots + bonuses);
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;

    if (threadIdx.x == 0) {
        shared.threshold = 0;
        shared.count = shared.likest = 0;
    }
    for (int i = threadIdx.x; i < vectors; i += KEEP) {
        // Apart, so that lanes which follow one another read words that do.
        const float4 *from = (const float4 *)(query + HEADER_SIZE) + 2 * i;
        low[i] = from[0];
        high[i] = from[1];
    }
    for (int i = threadIdx.x; i < bonuses; i += KEEP) {
        bonus_slots[i] = __float_as_int(tail[i]);
        bonus[i] = tail[bonuses + i];
    }
    const Ray ray = ray_of(view, lane);
    __syncthreads();

    // Neighbouring slots go to different blocks: keyframes of one place were made one after the
    // other, and blocks with a fair share of the best are merged sooner.
    const int blocks = gridDim.x;
    const int turns = (rows + blocks * WARPS - 1) / (blocks * WARPS);
    uint32 likest = 0;
    for (int turn = 0; turn < turns; ++turn) {
        if (turn % WARP == 0) make_room(shared, k);
        const int row = (turn * WARPS + warp) * blocks + blockIdx.x;
        if (row >= rows) continue;
        const float *record = records + (long long)row * RECORD_SIZE;
        if (record[BIAS] < 0.0f) continue;
        const uint4 *descriptor = descriptors + (long long)row * vectors;
        float product = 0.0f;
        for (int i = lane; i < vectors; i += WARP) {
            const uint4 eight = descriptor[i];
            const float4 l = low[i], h = high[i];
            float a, b;
            halves(eight.x, a, b);
            product += a * l.x + b * l.y;
            halves(eight.y, a, b);
            product += a * l.z + b * l.w;
            halves(eight.z, a, b);
            product += a * h.x + b * h.y;
            halves(eight.w, a, b);
            product += a * h.z + b * h.w;
        }
        product = warp_sum(product);
        const float half_lives = fmaxf(now - record[NOTED], 0.0f) / MERIT_HALF_LIFE;
        float score = w_similarity * (product - usual) + w_merit * record[MERIT] * exp2f(-half_lives);
        if (w_overlap != 0.0f && record[16] > 0.0f) {
            const float theirs = warp_sum(seen(ray, view, record));
            const float ours = warp_sum(seen(ray_of(record, lane), record, view));
            score += w_overlap * sqrtf(theirs * ours) / WARP;
        }
        float extra = 0.0f;
        bool special = false;
        for (int i = lane; i < bonuses; i += WARP)
            if (bonus_slots[i] == row) {
                extra = bonus[i];
                special = true;
            }
        const uint32 where = __ballot_sync(ALL_LANES, special);
        if (where) score += __shfl_sync(ALL_LANES, extra, __ffs(where) - 1);
        likest = max(likest, ordered(product));
        if (lane == 0 && score > MINUS_INFINITY)
            offer(shared, (uint64)ordered(score) << 32 | ~(uint32)row);
    }
    if (lane == 0) atomicMax(&shared.likest, likest);
    settle(shared, k);
    for (uint32 i = threadIdx.x; i < k; i += KEEP)
        partial[i * blocks + blockIdx.x] = shared.pool[i];
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        atomicMax(&state[1], shared.likest);
        __threadfence();
        shared.is_last = atomicAdd(&state[0], 1u) == (uint32)blocks - 1;
    }
    __syncthreads();
    if (!shared.is_last) return;

    // The lists are sorted: by rank, until no list has anything left that is good enough.
    __threadfence();
    if (threadIdx.x == 0) {
        shared.threshold = 0;
        shared.count = 0;
    }
    for (uint32 rank = 0; rank < k; ++rank) {
        int more = 0;
        for (int start = 0; start < blocks; start += KEEP) {
            make_room(shared, k);
            const int list = start + threadIdx.x;
            const uint64 key = list < blocks ? __ldcg(partial + rank * blocks + list) : 0;
            more |= key > shared.threshold;
            offer(shared, key);
        }
        if (!__syncthreads_or(more)) break;
        if (rank == 0) settle(shared, k);
    }
    settle(shared, k);
    for (uint32 i = threadIdx.x; i < shared.count; i += KEEP) {
        answer[2 + i] = (int)~(uint32)shared.pool[i];
        answer[2 + k + i] = __float_as_int(unordered((uint32)(shared.pool[i] >> 32)));
    }
    if (threadIdx.x == 0) {
        const uint32 greatest = __ldcg(state + 1);
        answer[0] = __float_as_int(greatest ? unordered(greatest) : MINUS_INFINITY);
        answer[1] = shared.count;
        state[0] = state[1] = 0;
    }
}
