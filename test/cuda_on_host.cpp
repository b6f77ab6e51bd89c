// Runs a CUDA kernel on the host, one fibre per thread, to test its logic without a device.
//
// Blocks run one after the other. A fibre runs until it comes to a barrier (of its block, or of
// its warp for votes and shuffles); a barrier at which some threads never arrive ends the run with
// an error. Shows wrong indices, sums and barriers; races between barriers only by luck, and
// nothing of speed. KERNEL_FILE is the source, KERNEL its kernel.
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <tuple>
#include <vector>

#define __global__
#define __device__
#define __shared__
#define __launch_bounds__(...)
#define __noinline__ __attribute__((noinline))

struct float4 {
    float x, y, z, w;
};
struct uint4 {
    unsigned x, y, z, w;
};
struct Index {
    unsigned x;
};

namespace {
constexpr int kWarp = 32, kStackBytes = 64 << 10;
enum class Waiting { nothing, warp, block, done };

struct Fibre {
    ucontext_t context;
    std::unique_ptr<char[]> stack{new char[kStackBytes]};
    Waiting waiting = Waiting::nothing;
    int round = 0;
};

std::vector<Fibre> fibres;
std::vector<uint64_t> exchanged;  // (2, threads): what lanes show each other, in turns
ucontext_t scheduler;
void (*body)();
int block_vote[2];
}  // namespace

Index threadIdx, blockIdx, gridDim, blockDim;

static void wait(Waiting what) {
    const unsigned self = threadIdx.x;
    fibres[self].waiting = what;
    swapcontext(&fibres[self].context, &scheduler);
    threadIdx.x = self;
}

static void __syncthreads() { wait(Waiting::block); }

static int __syncthreads_or(int value) {
    if (value) block_vote[0] = 1;
    __syncthreads();
    const int result = block_vote[0];
    __syncthreads();
    block_vote[0] = 0;
    __syncthreads();
    return result;
}

template <class T>
static T shown(T value, unsigned lane) {
    static_assert(sizeof(T) <= sizeof(uint64_t), "");
    const unsigned self = threadIdx.x;
    uint64_t *turn = exchanged.data() + (fibres[self].round++ % 2) * blockDim.x;
    turn[self] = 0;
    std::memcpy(&turn[self], &value, sizeof value);
    wait(Waiting::warp);
    T other;
    std::memcpy(&other, &turn[self / kWarp * kWarp + lane], sizeof other);
    return other;
}

template <class T>
static T __shfl_sync(unsigned, T value, int lane) {
    return shown(value, lane);
}

template <class T>
static T __shfl_xor_sync(unsigned, T value, int mask) {
    return shown(value, (threadIdx.x % kWarp) ^ mask);
}

static unsigned __ballot_sync(unsigned, bool vote) {
    const unsigned self = threadIdx.x;
    const int turn = fibres[self].round % 2;
    shown<int>(vote, 0);
    unsigned votes = 0;
    for (int lane = 0; lane < kWarp; ++lane)
        votes |= unsigned(exchanged[turn * blockDim.x + self / kWarp * kWarp + lane] & 1) << lane;
    return votes;
}

template <class T>
static T atomicAdd(T *address, T value) {
    const T old = *address;
    *address += value;
    return old;
}

template <class T>
static T atomicMax(T *address, T value) {
    const T old = *address;
    *address = std::max(old, value);
    return old;
}

template <class To, class From>
static To as(From value) {
    To to;
    std::memcpy(&to, &value, sizeof to);
    return to;
}

static unsigned __float_as_uint(float value) { return as<unsigned>(value); }
static int __float_as_int(float value) { return as<int>(value); }
static float __uint_as_float(unsigned value) { return as<float>(value); }
static float half_as_float(unsigned bits) { return float(as<_Float16>(uint16_t(bits))); }
static float rsqrtf(float value) { return 1.0f / std::sqrt(value); }
static int __ffs(unsigned value) { return __builtin_ffs(value); }
static void __threadfence() {}
template <class T>
static T __ldcg(const T *address) {
    return *address;
}
using std::max;
using std::min;

float4 arena[16384];

#include KERNEL_FILE

namespace {
template <class T>
struct Launcher;

template <class... Arguments>
struct Launcher<void (*)(Arguments...)> {
    static std::tuple<Arguments...> arguments;
    static void run() { std::apply(KERNEL, arguments); }
};
template <class... Arguments>
std::tuple<Arguments...> Launcher<void (*)(Arguments...)>::arguments;

void start() {
    body();
    fibres[threadIdx.x].waiting = Waiting::done;
    setcontext(&scheduler);
}

bool release(size_t begin, size_t end, Waiting what) {
    bool any = false;
    for (size_t i = begin; i < end; ++i) {
        if (fibres[i].waiting != what && fibres[i].waiting != Waiting::done) return false;
        any |= fibres[i].waiting == what;
    }
    for (size_t i = begin; any && i < end; ++i)
        if (fibres[i].waiting == what) fibres[i].waiting = Waiting::nothing;
    return any;
}

bool run_block() {
    const unsigned threads = blockDim.x;
    for (auto &fibre : fibres) {
        getcontext(&fibre.context);
        fibre.context.uc_stack = {fibre.stack.get(), 0, kStackBytes};
        fibre.context.uc_link = nullptr;
        fibre.waiting = Waiting::nothing;
        makecontext(&fibre.context, start, 0);
    }
    for (;;) {
        bool all_done = true;
        for (unsigned i = 0; i < threads; ++i) {
            if (fibres[i].waiting != Waiting::nothing) continue;
            threadIdx.x = i;
            swapcontext(&scheduler, &fibres[i].context);
        }
        for (auto &fibre : fibres) all_done &= fibre.waiting == Waiting::done;
        if (all_done) return true;
        bool moved = release(0, threads, Waiting::block);
        for (unsigned warp = 0; warp < threads; warp += kWarp)
            moved |= release(warp, warp + kWarp, Waiting::warp);
        if (!moved) return false;
    }
}
}  // namespace

template <class... Arguments>
static int launch_all(void (*)(Arguments...), unsigned blocks, unsigned threads,
                      std::tuple<Arguments...> arguments) {
    using Bound = Launcher<void (*)(Arguments...)>;
    Bound::arguments = arguments;
    body = Bound::run;
    blockDim.x = threads;
    gridDim.x = blocks;
    fibres = std::vector<Fibre>(threads);
    exchanged.assign(2 * threads, 0);
    for (unsigned block = 0; block < blocks; ++block) {
        blockIdx.x = block;
        std::memset(arena, 0xa5, sizeof arena);
        if (!run_block()) return 1;
    }
    return 0;
}

// Returns 0, or 1 if threads waited for one another for ever.
extern "C" int launch_retrieve(unsigned blocks, unsigned threads, const void *descriptors,
                               const void *records, int rows, int vectors, const void *query,
                               void *partial, void *state, void *answer) {
    return launch_all(&KERNEL, blocks, threads,
                      std::make_tuple((const uint4 *)descriptors, (const float *)records, rows,
                                      vectors, (const float *)query, (uint64 *)partial,
                                      (uint32 *)state, (int *)answer));
}
