/* What Linux is told about memory. Other systems are told nothing. */
#ifndef XENT_MEMORY_H
#define XENT_MEMORY_H

#include <stddef.h>

#if defined(__linux__)
#  include <sys/mman.h>
#endif

/* Ask for huge pages: the system maps and clears them at half the cost of small ones. */
static inline void xent_ask_for_huge_pages(void *start, size_t size) {
#if defined(MADV_HUGEPAGE)
    madvise(start, size, MADV_HUGEPAGE);
#else
    (void)start, (void)size;
#endif
}

/* Let the system take these pages, whose content is of no use, if it runs short of memory before they are written. */
static inline void xent_lend_to_system(void *start, size_t size) {
#if defined(__linux__) && defined(MADV_FREE)
    madvise(start, size, MADV_FREE);
#else
    (void)start, (void)size;
#endif
}

#endif
