// What a sanitizer is told about fibers, which it cannot see for itself; without a sanitizer nothing. Part of
// cuda_on_cpu.h.
//
// AddressSanitizer has to know which stack the program runs on. ThreadSanitizer takes each fiber for a thread, and
// knows of no order between two of them but the order it is told. That they take turns on one CPU thread therefore
// hides no race.
#pragma once

#include <cstddef>
#include <cstdio>

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define __SANITIZE_ADDRESS__ 1
#endif
#if __has_feature(thread_sanitizer)
#define __SANITIZE_THREAD__ 1
#endif
#endif

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#elif defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
extern "C" void __tsan_ignore_thread_begin();
extern "C" void __tsan_ignore_thread_end();
#endif

namespace {
namespace cuda_on_cpu {

#if defined(__SANITIZE_ADDRESS__)

constexpr std::size_t STACK_BYTES = 512 << 10;  // redzones enlarge frames

// A fiber, or the CPU thread that runs them.
class Watched {
   public:
    void adopt() {}                  // the thread that calls
    void begin(const void* stack) {  // a fiber, on a stack that nobody uses any more
        stack_ = stack;
        bytes_ = STACK_BYTES;
        frames_ = nullptr;
        ASAN_UNPOISON_MEMORY_REGION(stack, bytes_);
    }
    void call(uint3, uint3) {}
    void leave_for(const Watched& next) { __sanitizer_start_switch_fiber(&frames_, next.stack_, next.bytes_); }
    void come_from(Watched& last) { __sanitizer_finish_switch_fiber(frames_, &last.stack_, &last.bytes_); }
    void precedes(const Watched&) const {}

   private:
    const void* stack_ = nullptr;
    std::size_t bytes_ = 0;
    void* frames_ = nullptr;
};

struct Unwatched {
    Unwatched() {}
};

#elif defined(__SANITIZE_THREAD__)

constexpr std::size_t STACK_BYTES = 512 << 10;  // a report is written on the stack of the fiber that races

// A fiber, or the CPU thread that runs them.
class Watched {
   public:
    void adopt() { thread_ = __tsan_get_current_fiber(); }  // the thread that calls
    void begin(const void*) {                               // a fiber, on a stack that nobody uses any more
        if (thread_) abandon();
        thread_ = __tsan_create_fiber(0);
    }
    // Names the fiber in reports.
    void call(uint3 block, uint3 thread) {
        char name[64];
        std::snprintf(name, sizeof name, "block (%u,%u,%u) thread (%u,%u,%u)", block.x, block.y, block.z, thread.x,
                      thread.y, thread.z);
        __tsan_set_fiber_name(thread_, name);
    }
    void leave_for(const Watched& next) { become(next); }
    void come_from(Watched&) {}
    // What this one did so far happened before anything that the other one will do.
    void precedes(const Watched& other) const {
        Watched here;
        here.adopt();
        become(*this);
        __tsan_switch_to_fiber(other.thread_, 0);
        become(here);
    }

   private:
    void* thread_ = nullptr;

    static void become(const Watched& next) {
        __tsan_switch_to_fiber(next.thread_, __tsan_switch_to_fiber_no_sync);
    }
    // A fiber that never left the barrier it waits at.
    void abandon() {
        Watched here;
        here.adopt();
        become(*this);
        __tsan_ignore_thread_end();
        become(here);
        __tsan_destroy_fiber(thread_);
    }
};

// While one lives, memory is the emulator's own business: no access is a kernel's.
struct Unwatched {
    Unwatched() { __tsan_ignore_thread_begin(); }
    ~Unwatched() { __tsan_ignore_thread_end(); }
    Unwatched(const Unwatched&) = delete;
};

#else

constexpr std::size_t STACK_BYTES = 64 << 10;

struct Watched {
    void adopt() {}
    void begin(const void*) {}
    void call(uint3, uint3) {}
    void leave_for(const Watched&) {}
    void come_from(Watched&) {}
    void precedes(const Watched&) const {}
};

struct Unwatched {
    Unwatched() {}
};

#endif

}  // namespace cuda_on_cpu
}  // namespace
