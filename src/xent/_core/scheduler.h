/* For threads without the GIL: atomic integers, clocks and ways to wait. */
#ifndef XENT_SHARED_H
#define XENT_SHARED_H

#include <stdint.h>
#include <time.h>

typedef volatile int64_t xent_shared;

#if defined(_WIN32)
#  define WIN32_LEAN_AND_MEAN
#  define NOMINMAX
#  include <windows.h>
#else
#  include <sched.h>
#endif

#if defined(_MSC_VER)
#  include <intrin.h>
static __inline int64_t xent_load(xent_shared *x) { return _InterlockedOr64(x, 0); }
static __inline int64_t xent_add(xent_shared *x, int64_t more) { return _InterlockedExchangeAdd64(x, more) + more; }
static __inline int xent_replace(xent_shared *x, int64_t old, int64_t now) {
    return _InterlockedCompareExchange64(x, now, old) == old;
}
#else
static inline int64_t xent_load(xent_shared *x) { return __atomic_load_n(x, __ATOMIC_SEQ_CST); }
static inline int64_t xent_add(xent_shared *x, int64_t more) { return __atomic_add_fetch(x, more, __ATOMIC_SEQ_CST); }
static inline int xent_replace(xent_shared *x, int64_t old, int64_t now) {
    return __atomic_compare_exchange_n(x, &old, now, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}
#endif

/* Pause in a spin loop, which leaves the core to its other hardware thread. */
static inline void xent_relax(void) {
#if defined(_MSC_VER)
    YieldProcessor();
#elif defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb");
#endif
}

/* Let another thread that waits for this CPU run. */
static inline void xent_yield(void) {
#if defined(_WIN32)
    SwitchToThread();
#else
    sched_yield();
#endif
}

/* Sleep for about 50 microseconds. */
static inline void xent_sleep_briefly(void) {
#if defined(_WIN32)
    Sleep(0);       /* 1 would be up to 16 milliseconds */
#else
    struct timespec pause = {0, 50000};
    nanosleep(&pause, NULL);
#endif
}

/* Wall time, and CPU time of this thread (on Windows wall time, since its CPU times are too coarse), in seconds. */
static inline double xent_seconds(void) {
#if defined(_WIN32)
    LARGE_INTEGER ticks, per_second;
    QueryPerformanceCounter(&ticks);
    QueryPerformanceFrequency(&per_second);
    return (double)ticks.QuadPart / (double)per_second.QuadPart;
#else
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
#endif
}
static inline double xent_busy_seconds(void) {
#if defined(_WIN32)
    return xent_seconds();
#else
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
#endif
}

#endif
