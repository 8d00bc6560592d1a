// CUDA kernels on a plain CPU, for people who have no GPU at hand: the same .cu source, one fiber a thread.
//
// A .cu file includes this header before anything else. NVRTC and nvcc see the macros of the first branch. A host
// compiler gets the CUDA built-ins that our kernels use, and an extern "C" interface that launches exported kernels by
// name; a kernel takes one struct. A shared library is one translation unit.
//
// Blocks run one after another, and the threads of a block one at a time: each runs until it waits at a barrier. What a
// kernel forgot to synchronise therefore depends on the schedule alone: forward (always the lowest thread that can run;
// warp 0 gets as far ahead as the barriers let it), reversed (always the highest) or shuffled; blocks follow the same
// order. By default launches take the three in turn. Before each block, shared memory is filled with 0xFF bytes, a NaN
// in every floating-point format.
//
// A barrier that cannot open is an error that says where every thread waits. Threads that have returned do not count,
// as on compute capability 7.0 and later.
//
// Built with -fsanitize=address, the first access outside device or shared memory ends the process; with
// -fsanitize=thread the first data race between two threads of a block does, whatever the schedule: each fiber is a
// thread to ThreadSanitizer. Both name the kernel's line. Memory is ordered by __syncthreads and __syncwarp; a shuffle
// waits for its lanes and orders nothing, as CUDA has it. Of a race between two blocks nothing is seen.
//
// Not modelled: lockstep within a warp, the memory model (each write is visible at once), atomics, tensor cores,
// asynchronous copies, streams, clocks. A kernel that spins on memory never ends.
#pragma once

#ifdef __CUDACC__

#define CUDA_EXPORT(kernel)
#define CUDA_DYNAMIC_SHARED(type, name) extern __shared__ type name[]
#define CUDA_ROLLED _Pragma("unroll 1")

#else

#undef _FORTIFY_SOURCE  // its longjmp refuses to change stacks

#include <math.h>
#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

// ---- what kernels see: types, variables, qualifiers -----------------------------------------------------------------

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x, y, z;
};

// Internal linkage throughout: two libraries with this header in one process share nothing.
namespace {
uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;
constexpr int warpSize = 32;

inline float __uint_as_float(unsigned bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}
inline unsigned __float_as_uint(float value) {
    unsigned bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}
}  // namespace

#include "cuda_on_cpu_sanitizers.h"

#define __global__
#define __device__

// One block runs at a time, so its shared variables can be static. In a section of their own they are found and filled
// before each block; `used` keeps the compiler from believing that nobody else writes them. AddressSanitizer puts
// redzones only around variables that the compiler places: its build leaves them to it, unfilled.
#if defined(__ELF__) && !defined(__SANITIZE_ADDRESS__)
#define __shared__ static __attribute__((section("cuda_shared"), used))
extern "C" unsigned char __start_cuda_shared[] __attribute__((weak, visibility("hidden")));
extern "C" unsigned char __stop_cuda_shared[] __attribute__((weak, visibility("hidden")));
#else
#define __shared__ static
#endif
#define CUDA_DYNAMIC_SHARED(type, name) type* const name = reinterpret_cast<type*>(cuda_on_cpu::engine.dynamic_shared)
#define CUDA_ROLLED

#define CUDA_ON_CPU_PLACE(operation) (cuda_on_cpu::Place{operation, __FILE__, __LINE__})
#define __syncthreads() cuda_on_cpu::engine.block_barrier(CUDA_ON_CPU_PLACE("__syncthreads"))
#define __syncwarp(...) cuda_on_cpu::SyncWarp{CUDA_ON_CPU_PLACE("__syncwarp")}(__VA_ARGS__)
#define __shfl_sync(...) cuda_on_cpu::shuffle_from(CUDA_ON_CPU_PLACE("__shfl_sync"), __VA_ARGS__)
#define __shfl_xor_sync(...) cuda_on_cpu::shuffle_xor(CUDA_ON_CPU_PLACE("__shfl_xor_sync"), __VA_ARGS__)
#define __shfl_down_sync(...) cuda_on_cpu::shuffle_down(CUDA_ON_CPU_PLACE("__shfl_down_sync"), __VA_ARGS__)

// Makes a kernel known to cuda_on_cpu_launch by its name.
#define CUDA_EXPORT(kernel) [[maybe_unused]] static const bool exported_##kernel = cuda_on_cpu::add(#kernel, kernel)

namespace {
namespace cuda_on_cpu {

constexpr unsigned WARP = warpSize, MAX_THREADS = 1024;
constexpr unsigned char POISON = 0xFF;

// ---- fibers ---------------------------------------------------------------------------------------------------------

// Where a thread waits.
struct Place {
    const char* operation;
    const char* file;
    int line;

    bool operator!=(const Place& other) const {
        return line != other.line || std::strcmp(file, other.file) || std::strcmp(operation, other.operation);
    }
    std::string text() const {
        const char* slash = std::strrchr(file, '/');
        return std::string(operation) + " at " + (slash ? slash + 1 : file) + ":" + std::to_string(line);
    }
};

enum class State { ready, at_block_barrier, at_warp_barrier, at_shuffle, returned };

using Register = unsigned char[8];

struct Fiber {
    ucontext_t entry;
    jmp_buf paused;
    char* stack = nullptr;
    bool entered = false;
    Watched watched;

    uint3 index{};
    unsigned lane = 0, warp = 0;
    State state = State::returned;
    Place place{};                    // of the barrier it waits at, and for a warp barrier or a shuffle:
    unsigned mask = 0, source = 0;    // the lanes it waits for, and the one whose offer it wants
    Register offered{}, received{};
};

// ucontext enters a fiber once; from then on _setjmp and _longjmp change stacks, which needs no system call.
Fiber* current = nullptr;
jmp_buf scheduler;
Watched scheduler_watched;
std::function<void()> thread_body;

// Back to the scheduler, until it resumes this fiber.
__attribute__((noinline)) void pause() {
    if (_setjmp(current->paused) == 0) {
        current->watched.leave_for(scheduler_watched);
        _longjmp(scheduler, 1);
    }
    current->watched.come_from(scheduler_watched);
}

// A fiber is one thread of one block after another.
void run_fiber() {
    current->watched.come_from(scheduler_watched);
    for (;;) {
        thread_body();
        current->state = State::returned;
        pause();
    }
}

__attribute__((noinline)) void resume(Fiber& fiber) {
    current = &fiber;
    threadIdx = fiber.index;
    if (_setjmp(scheduler) == 0) {
        scheduler_watched.leave_for(fiber.watched);
        if (current->entered) _longjmp(current->paused, 1);
        current->entered = true;
        setcontext(&current->entry);
    }
    scheduler_watched.come_from(fiber.watched);
}

// A stack above a page that must not be touched, and a context that begins on it.
inline void create(Fiber& fiber) {
    if (!fiber.stack) {
        const std::size_t guard = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
        void* memory = mmap(nullptr, guard + STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED || mprotect(memory, guard, PROT_NONE)) std::abort();
        fiber.stack = static_cast<char*>(memory) + guard;
    }
    fiber.watched.begin(fiber.stack);
    getcontext(&fiber.entry);
    fiber.entry.uc_stack.ss_sp = fiber.stack;
    fiber.entry.uc_stack.ss_size = STACK_BYTES;
    fiber.entry.uc_link = nullptr;
    makecontext(&fiber.entry, run_fiber, 0);
    fiber.entered = false;
}

// ---- blocks ---------------------------------------------------------------------------------------------------------

constexpr const char* SCHEDULES[] = {"forward", "reversed", "shuffled"};
enum Schedule : unsigned { FORWARD, REVERSED, SHUFFLED, IN_TURN };

struct Warp {
    unsigned live = 0, waiting = 0;  // lanes
};

// Runs one launch at a time, and keeps its fibers for the next.
class Engine {
   public:
    unsigned char* dynamic_shared = nullptr;
    std::uint64_t launches = 0;  // that began to run
    Schedule schedule = IN_TURN;

    // Runs body once for each thread of each block. Returns what went wrong; empty: nothing.
    std::string run(dim3 grid, dim3 block, std::size_t shared_bytes, std::function<void()> body) {
        const Unwatched own;
        scheduler_watched.adopt();
        order_ = schedule == IN_TURN ? static_cast<Schedule>(launches % IN_TURN) : schedule;
        ++launches;
        random_ = 1;
        error_.clear();
        gridDim = grid;
        blockDim = block;
        num_threads_ = block.x * block.y * block.z;
        thread_body = std::move(body);
        prepare_fibers();
        // Exactly the bytes asked for, so that the sanitizer sees the first one beyond.
        const std::unique_ptr<unsigned char[]> shared(new unsigned char[shared_bytes]);
        dynamic_shared = shared.get();
        for (const unsigned number : arranged(grid.x * grid.y * grid.z)) {
            blockIdx = {number % grid.x, number / grid.x % grid.y, number / grid.x / grid.y};
            std::fill_n(dynamic_shared, shared_bytes, POISON);
#if defined(__ELF__) && !defined(__SANITIZE_ADDRESS__)
            if (__start_cuda_shared) std::fill(__start_cuda_shared, __stop_cuda_shared, POISON);
#endif
            run_block();
            for (unsigned i = 0; i < num_threads_; ++i) fibers_[i].watched.precedes(scheduler_watched);
            if (!error_.empty()) break;
        }
        thread_body = nullptr;
        return error_;
    }

    void block_barrier(const Place& place) {
        const Unwatched own;
        ++waiting_at_block_;
        wait(State::at_block_barrier, place);
    }

    void warp_barrier(unsigned mask, const Place& place) {
        const Unwatched own;
        wait_for_lanes(State::at_warp_barrier, mask, current->lane, place);
    }

    void shuffle(void* value, std::size_t bytes, unsigned mask, unsigned source, const Place& place) {
        const Unwatched own;
        std::memcpy(current->offered, value, bytes);
        wait_for_lanes(State::at_shuffle, mask, source, place);
        std::memcpy(value, current->received, bytes);
    }

   private:
    std::vector<Fiber> fibers_{MAX_THREADS};
    Warp warps_[MAX_THREADS / WARP];
    unsigned num_threads_ = 0, live_ = 0, waiting_at_block_ = 0;
    Schedule order_ = FORWARD;
    std::uint32_t random_ = 1;
    std::string error_;

    void mix(std::vector<unsigned>& order) {
        for (unsigned left = static_cast<unsigned>(order.size()); left > 1; --left) {
            random_ = random_ * 1664525u + 1013904223u;
            std::swap(order[left - 1], order[(random_ >> 8) % left]);
        }
    }

    // The numbers below `count` in the order of the schedule.
    std::vector<unsigned> arranged(unsigned count) {
        std::vector<unsigned> order(count);
        std::iota(order.begin(), order.end(), 0u);
        if (order_ == REVERSED) std::reverse(order.begin(), order.end());
        if (order_ == SHUFFLED) mix(order);
        return order;
    }

    void prepare_fibers() {
        for (unsigned i = 0; i < num_threads_; ++i) {
            Fiber& fiber = fibers_[i];
            fiber.index = {i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y};
            fiber.lane = i % WARP;
            fiber.warp = i / WARP;
            const bool abandoned = fiber.state != State::returned;  // by a launch that failed
            if (!fiber.stack || abandoned) create(fiber);
        }
    }

    void run_block() {
        std::fill(std::begin(warps_), std::end(warps_), Warp{});
        for (unsigned i = 0; i < num_threads_; ++i) {
            fibers_[i].state = State::ready;
            fibers_[i].watched.call(blockIdx, fibers_[i].index);
            scheduler_watched.precedes(fibers_[i].watched);
            warps_[fibers_[i].warp].live |= 1u << fibers_[i].lane;
        }
        live_ = num_threads_;
        waiting_at_block_ = 0;
        std::vector<unsigned> order = arranged(num_threads_);
        for (unsigned next = 0; next < num_threads_;) {
            Fiber& fiber = fibers_[order[next++]];
            if (fiber.state != State::ready) continue;
            resume(fiber);
            const bool opened = open_barriers(fiber);
            if (!error_.empty()) return;
            if (!opened) continue;
            next = 0;
            if (order_ == SHUFFLED) mix(order);
        }
        if (live_ > 0) fail("a barrier waits for threads that do not reach it");
    }

    void wait(State state, const Place& place) {
        current->state = state;
        current->place = place;
        pause();
    }

    void wait_for_lanes(State state, unsigned mask, unsigned source, const Place& place) {
        current->mask = mask;
        current->source = source;
        warps_[current->warp].waiting |= 1u << current->lane;
        wait(state, place);
    }

    // Whether any thread can go on because this one now waits or has returned.
    bool open_barriers(const Fiber& fiber) {
        if (fiber.state == State::at_block_barrier) return open_block_barrier();
        if (fiber.state != State::returned) return open_warp_barrier(fiber.warp, fiber.mask);
        --live_;
        warps_[fiber.warp].live &= ~(1u << fiber.lane);
        bool opened = open_block_barrier();
        for (unsigned lane = 0; lane < WARP; ++lane)
            if (warps_[fiber.warp].waiting >> lane & 1)
                opened |= open_warp_barrier(fiber.warp, fibers_[fiber.warp * WARP + lane].mask);
        return opened;
    }

    bool open_block_barrier() {
        if (waiting_at_block_ == 0 || waiting_at_block_ < live_) return false;
        const Fiber* first = nullptr;
        for (unsigned i = 0; i < num_threads_; ++i) {
            if (fibers_[i].state != State::at_block_barrier) continue;
            if (!first) first = &fibers_[i];
            if (first->place != fibers_[i].place) return fail("threads of one block reach different barriers");
            fibers_[i].watched.precedes(first->watched);
        }
        for (unsigned i = 0; i < num_threads_; ++i) {
            if (fibers_[i].state != State::at_block_barrier) continue;
            first->watched.precedes(fibers_[i].watched);
            fibers_[i].state = State::ready;
        }
        waiting_at_block_ = 0;
        return true;
    }

    bool open_warp_barrier(unsigned number, unsigned mask) {
        Warp& warp = warps_[number];
        const unsigned members = mask & warp.live;
        if (members & ~warp.waiting) return false;
        Fiber* const lanes = &fibers_[number * WARP];
        const Fiber* first = nullptr;
        for (unsigned lane = 0; lane < WARP; ++lane) {
            if (!(members >> lane & 1)) continue;
            if (!first) first = &lanes[lane];
            if (lanes[lane].mask != mask) return fail("lanes of one warp name each other in different masks");
            if (std::strcmp(lanes[lane].place.operation, first->place.operation))
                return fail("lanes of one mask reach different operations");
            if (lanes[lane].state == State::at_warp_barrier) lanes[lane].watched.precedes(first->watched);
        }
        for (unsigned lane = 0; lane < WARP; ++lane) {
            if (!(members >> lane & 1)) continue;
            // What a lane offers that is not in the mask, or has returned, is undefined.
            if (members >> lanes[lane].source & 1)
                std::memcpy(lanes[lane].received, lanes[lanes[lane].source].offered, sizeof(Register));
            else
                std::memset(lanes[lane].received, POISON, sizeof(Register));
            if (lanes[lane].state == State::at_warp_barrier) first->watched.precedes(lanes[lane].watched);
            lanes[lane].state = State::ready;
        }
        warp.waiting &= ~members;
        return members != 0;
    }

    static std::string text(const char* what, uint3 at) {
        return what + (" (" + std::to_string(at.x)) + "," + std::to_string(at.y) + "," + std::to_string(at.z) + ")";
    }

    // Says what is wrong and where every thread of the block is.
    bool fail(const char* what) {
        std::map<std::string, std::pair<uint3, unsigned>> waiting;
        for (unsigned i = 0; i < num_threads_; ++i) {
            const Fiber& fiber = fibers_[i];
            if (fiber.state == State::ready || fiber.state == State::returned) continue;
            ++waiting.emplace(fiber.place.text(), std::make_pair(fiber.index, 0u)).first->second.second;
        }
        error_ = text("block", blockIdx) + ": " + what + ": ";
        for (const auto& [place, threads] : waiting) {
            const auto& [first, count] = threads;
            error_ += std::to_string(count) + " wait in " + place + ", " + text("thread", first) + " first; ";
        }
        error_ += std::to_string(num_threads_ - live_) + " of " + std::to_string(num_threads_) + " have returned";
        return false;
    }
};

Engine engine;

// ---- warps ----------------------------------------------------------------------------------------------------------

struct SyncWarp {
    Place place;
    void operator()(unsigned mask = 0xFFFFFFFFu) const { engine.warp_barrier(mask, place); }
};

template <typename T>
T shuffle(const Place& place, unsigned mask, T value, unsigned source) {
    static_assert(sizeof(T) <= sizeof(Register), "a shuffle exchanges at most 8 bytes");
    engine.shuffle(&value, sizeof value, mask, source, place);
    return value;
}
template <typename T>
T shuffle_from(const Place& place, unsigned mask, T value, int source, int width = warpSize) {
    const unsigned section = static_cast<unsigned>(width);
    return shuffle(place, mask, value, current->lane / section * section + static_cast<unsigned>(source) % section);
}
template <typename T>
T shuffle_down(const Place& place, unsigned mask, T value, unsigned delta, int width = warpSize) {
    const unsigned lane = current->lane, section = static_cast<unsigned>(width);
    return shuffle(place, mask, value, lane % section + delta < section ? lane + delta : lane);
}
// Lanes of an earlier section can be read, those of a later one cannot: then a lane gets its own value.
template <typename T>
T shuffle_xor(const Place& place, unsigned mask, T value, int lanes, int width = warpSize) {
    const unsigned lane = current->lane, section = static_cast<unsigned>(width);
    const unsigned source = lane ^ static_cast<unsigned>(lanes);
    return shuffle(place, mask, value, source / section > lane / section ? lane : source);
}

// ---- launches -------------------------------------------------------------------------------------------------------

// An exported kernel takes one struct: its size, and a call with a pointer to one.
struct Kernel {
    std::size_t bytes;
    std::function<void(const void*)> call;
};

inline std::map<std::string, Kernel>& kernels() {
    static std::map<std::string, Kernel> table;
    return table;
}

template <typename Arguments>
bool add(const char* name, void (*kernel)(Arguments)) {
    const auto call = [kernel](const void* arguments) { kernel(*static_cast<const Arguments*>(arguments)); };
    return kernels().emplace(name, Kernel{sizeof(Arguments), call}).second;
}

// Runs a kernel to its end. Returns what went wrong; empty: nothing.
inline std::string launch(const char* name, dim3 grid, dim3 block, std::size_t shared_bytes, const void* arguments,
                          std::size_t bytes) {
    const auto found = kernels().find(name);
    if (found == kernels().end()) return "no kernel of that name is exported";
    const Kernel& kernel = found->second;
    if (kernel.bytes != bytes)
        return "it takes " + std::to_string(kernel.bytes) + " bytes of arguments, not " + std::to_string(bytes);
    const std::uint64_t threads = std::uint64_t{block.x} * block.y * block.z;
    const std::uint64_t blocks = std::uint64_t{grid.x} * grid.y * grid.z;
    if (threads == 0 || threads > MAX_THREADS) return "a block has 1 to 1024 threads, not " + std::to_string(threads);
    if (blocks == 0 || blocks >> 32) return "a grid has 1 to 2**32 - 1 blocks here, not " + std::to_string(blocks);
    return engine.run(grid, block, shared_bytes, [&] { kernel.call(arguments); });
}

}  // namespace cuda_on_cpu
}  // namespace

#define CUDA_ON_CPU_INTERFACE extern "C" __attribute__((visibility("default")))

// Runs an exported kernel to its end. Returns what went wrong, or null.
CUDA_ON_CPU_INTERFACE const char* cuda_on_cpu_launch(const char* name, const unsigned grid[3], const unsigned block[3],
                                                     std::size_t shared_bytes, const void* arguments,
                                                     std::size_t bytes) {
    static std::mutex one_at_a_time;
    static std::string error;
    const std::lock_guard<std::mutex> lock(one_at_a_time);
    error = cuda_on_cpu::launch(name, {grid[0], grid[1], grid[2]}, {block[0], block[1], block[2]}, shared_bytes,
                                arguments, bytes);
    if (error.empty()) return nullptr;
    error = "kernel " + std::string(name) + ": " + error;
    return error.c_str();
}

// How many launches began to run.
CUDA_ON_CPU_INTERFACE unsigned long long cuda_on_cpu_launches() { return cuda_on_cpu::engine.launches; }

// Chooses "forward", "reversed" or "shuffled" for the launches that follow; anything else: the three in turn.
CUDA_ON_CPU_INTERFACE void cuda_on_cpu_schedule(const char* name) {
    unsigned chosen = 0;
    while (chosen < cuda_on_cpu::IN_TURN && std::strcmp(name, cuda_on_cpu::SCHEDULES[chosen])) ++chosen;
    cuda_on_cpu::engine.schedule = static_cast<cuda_on_cpu::Schedule>(chosen);
}

// Device memory: a block of exactly that size, filled with poison, that the sanitizer watches.
CUDA_ON_CPU_INTERFACE void* cuda_on_cpu_allocate(std::size_t bytes) {
    void* memory = std::malloc(bytes);
    if (memory) std::memset(memory, cuda_on_cpu::POISON, bytes);
    return memory;
}
CUDA_ON_CPU_INTERFACE void cuda_on_cpu_free(void* memory) { std::free(memory); }

#endif
