/* allocations.c: see allocations.h. The allocator's functions are replaced by ones that count and call the C library's,
 * so that what the C library and other libraries allocate is counted too. A sanitizer has an allocator of its own, and
 * a hook that says when it is called. Owns a page that the processes share. */
#include "allocations.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

typedef struct counts {
    atomic_bool on;
    atomic_uint here, there;
} counts_t;

static const char variable[] = "ATTN_TEST_ALLOCATIONS";
static _Atomic(counts_t *) counts; /* NULL: nobody asked */
static bool is_there;
static _Thread_local bool is_left_out;

static void count(void)
{
    counts_t *now = atomic_load_explicit(&counts, memory_order_acquire);
    if (now != NULL && !is_left_out && atomic_load_explicit(&now->on, memory_order_relaxed)) {
        atomic_fetch_add_explicit(is_there ? &now->there : &now->here, 1, memory_order_relaxed);
    }
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)

/* The sanitizers' own; not every compiler comes with their header. */
int __sanitizer_install_malloc_and_free_hooks(void (*on_malloc)(const volatile void *memory, size_t bytes),
                                              void (*on_free)(const volatile void *memory));

static void on_malloc(const volatile void *memory, size_t bytes)
{
    (void)memory;
    (void)bytes;
    count();
}

static void on_free(const volatile void *memory)
{
    (void)memory;
}

static void replace(void)
{
    __sanitizer_install_malloc_and_free_hooks(on_malloc, on_free);
}

#else

/* The C library's names for its own. */
extern void *__libc_malloc(size_t bytes);
extern void *__libc_calloc(size_t number, size_t bytes);
extern void *__libc_realloc(void *memory, size_t bytes);
extern void *__libc_memalign(size_t alignment, size_t bytes);

void *malloc(size_t bytes)
{
    count();
    return __libc_malloc(bytes);
}

void *calloc(size_t number, size_t bytes)
{
    count();
    return __libc_calloc(number, bytes);
}

void *realloc(void *memory, size_t bytes)
{
    count();
    return __libc_realloc(memory, bytes);
}

void *aligned_alloc(size_t alignment, size_t bytes)
{
    count();
    return __libc_memalign(alignment, bytes);
}

int posix_memalign(void **ret, size_t alignment, size_t bytes)
{
    count();
    void *memory = __libc_memalign(alignment, bytes);
    if (memory == NULL) {
        return ENOMEM;
    }
    *ret = memory;
    return 0;
}

static void replace(void) {}

#endif

static counts_t *map_of(int fd)
{
    void *map = mmap(NULL, sizeof(counts_t), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    return map != MAP_FAILED ? map : NULL;
}

/* In a program that was started by one that shares. */
__attribute__((constructor)) static void join(void)
{
    replace();
    const char *path = getenv(variable);
    int fd = path != NULL ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd >= 0) {
        is_there = true;
        atomic_store_explicit(&counts, map_of(fd), memory_order_release);
        close(fd);
    }
}

void allocations_share(void)
{
    char path[64];
    int fd = memfd_create("allocations", MFD_CLOEXEC); /* stays open: the path leads to it */
    snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)getpid(), fd);
    if (fd >= 0 && ftruncate(fd, sizeof(counts_t)) == 0 && setenv(variable, path, 1) == 0) {
        atomic_store_explicit(&counts, map_of(fd), memory_order_release);
    }
}

void allocations_leave_out(void)
{
    is_left_out = true;
}

void allocations_count(bool on)
{
    counts_t *now = atomic_load_explicit(&counts, memory_order_acquire);
    if (now != NULL && on) {
        atomic_store(&now->here, 0);
        atomic_store(&now->there, 0);
    }
    if (now != NULL) {
        atomic_store(&now->on, on);
    }
}

uint32_t allocations_here(void)
{
    counts_t *now = atomic_load_explicit(&counts, memory_order_acquire);
    return now != NULL ? atomic_load(&now->here) : 0;
}

uint32_t allocations_there(void)
{
    counts_t *now = atomic_load_explicit(&counts, memory_order_acquire);
    return now != NULL ? atomic_load(&now->there) : 0;
}
