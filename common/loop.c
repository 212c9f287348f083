#include "common/loop.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/error.h"

#define BATCH 64

/* A descriptor's watch. A reported event carries the serial it was added under, so that events of a watch
 * removed (or replaced) earlier in the same batch are recognised. */
struct watch {
    loop_io callback; /* NULL: none */
    void *data;
    uint32_t serial;
};

struct timer {
    uint64_t at_ns;
    uint64_t order; /* of the set: timers of the same time run first set, first called */
    loop_timer callback;
    void *data;
};

struct loop {
    int epoll_fd;
    int wake_fd;
    bool coarse; /* the kernel has no epoll_pwait2 (before 5.11): time-outs are whole milliseconds */
    struct watch *watches; /* by descriptor */
    size_t n_watches;
    uint32_t next_serial;
    struct timer *timers; /* a binary heap, the earliest in front */
    size_t n_timers;
    size_t cap_timers;
    uint64_t next_order;
    pthread_mutex_t *lock; /* NULL: one thread only */
    bool waiting;          /* with the lock given up. Requires: lock */
    unsigned next_event;   /* counts those that were dealt with */
    uint64_t dispatch_ns;  /* while timers are called: the time they are called for; else 0 */
};

static uint64_t pack(int fd, uint32_t serial)
{
    return (uint64_t)serial << 32 | (uint32_t)fd;
}

struct loop *loop_new(struct error *err)
{
    struct loop *loop = calloc(1, sizeof *loop);
    if (!loop) {
        error_set(err, ERROR_MEMORY, "out of memory");
        return NULL;
    }
    loop->epoll_fd = loop->wake_fd = -1;
    loop->next_serial = 1; /* 0 is the wake descriptor's */
    loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (loop->epoll_fd < 0) {
        error_set_errno(err, errno, "epoll_create1");
        goto fail;
    }
    loop->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (loop->wake_fd < 0) {
        error_set_errno(err, errno, "eventfd");
        goto fail;
    }
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = pack(loop->wake_fd, 0)};
    if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, loop->wake_fd, &event) < 0) {
        error_set_errno(err, errno, "epoll_ctl");
        goto fail;
    }
    return loop;
fail:
    loop_free(loop);
    return NULL;
}

void loop_free(struct loop *loop)
{
    if (!loop)
        return;
    if (loop->epoll_fd >= 0)
        close(loop->epoll_fd);
    if (loop->wake_fd >= 0)
        close(loop->wake_fd);
    free(loop->watches);
    free(loop->timers);
    free(loop);
}

static struct watch *find_watch(struct loop *loop, int fd)
{
    if (fd < 0 || (size_t)fd >= loop->n_watches || !loop->watches[fd].callback)
        return NULL;
    return &loop->watches[fd];
}

int loop_add(struct loop *loop, int fd, uint32_t events, loop_io callback, void *data, struct error *err)
{
    assert(callback);
    if (fd >= 0 && (size_t)fd >= loop->n_watches) {
        size_t n = (size_t)fd + 64;
        struct watch *watches = realloc(loop->watches, n * sizeof *watches);
        if (!watches)
            return error_set(err, ERROR_MEMORY, "out of memory");
        memset(watches + loop->n_watches, 0, (n - loop->n_watches) * sizeof *watches);
        loop->watches = watches;
        loop->n_watches = n;
    }
    uint32_t serial = loop->next_serial;
    struct epoll_event event = {.events = events, .data.u64 = pack(fd, serial)};
    if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0)
        return errno == EEXIST ? error_set(err, ERROR_EXISTS, "descriptor %d is watched already", fd)
                               : error_set_errno(err, errno, "watching descriptor %d", fd);
    loop->next_serial = serial + 1 ? serial + 1 : 1;
    loop->watches[fd] = (struct watch){callback, data, serial};
    return 0;
}

int loop_modify(struct loop *loop, int fd, uint32_t events, struct error *err)
{
    struct watch *watch = find_watch(loop, fd);
    if (!watch)
        return error_set(err, ERROR_NOT_FOUND, "descriptor %d is not watched", fd);
    struct epoll_event event = {.events = events, .data.u64 = pack(fd, watch->serial)};
    if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_MOD, fd, &event) < 0)
        return error_set_errno(err, errno, "watching descriptor %d", fd);
    return 0;
}

void loop_remove(struct loop *loop, int fd)
{
    struct watch *watch = find_watch(loop, fd);
    if (!watch)
        return;
    *watch = (struct watch){0};
    epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, fd,
              NULL); /* fails when fd is closed already, which is as good */
}

static bool earlier(const struct timer *a, const struct timer *b)
{
    return a->at_ns != b->at_ns ? a->at_ns < b->at_ns : a->order < b->order;
}

/* Puts timer at or above the hole i. */
static void sift_up(struct loop *loop, size_t i, struct timer timer)
{
    for (; i > 0 && earlier(&timer, &loop->timers[(i - 1) / 2]); i = (i - 1) / 2)
        loop->timers[i] = loop->timers[(i - 1) / 2];
    loop->timers[i] = timer;
}

static void remove_timer(struct loop *loop, size_t i)
{
    struct timer last = loop->timers[--loop->n_timers];
    if (i == loop->n_timers)
        return;
    for (size_t child = 2 * i + 1; child < loop->n_timers; child = 2 * i + 1) {
        if (child + 1 < loop->n_timers && earlier(&loop->timers[child + 1], &loop->timers[child]))
            child++;
        loop->timers[i] = loop->timers[child];
        i = child;
    }
    sift_up(loop, i, last);
}

void loop_timer_cancel(struct loop *loop, loop_timer callback, void *data)
{
    for (size_t i = 0; i < loop->n_timers; i++)
        if (loop->timers[i].callback == callback && loop->timers[i].data == data) {
            remove_timer(loop, i);
            return;
        }
}

int loop_timer_set(struct loop *loop, uint64_t at_ns, loop_timer callback, void *data, struct error *err)
{
    assert(callback);
    loop_timer_cancel(loop, callback, data);
    if (loop->n_timers == loop->cap_timers) {
        size_t cap = loop->cap_timers ? loop->cap_timers * 2 : 16;
        struct timer *timers = realloc(loop->timers, cap * sizeof *timers);
        if (!timers)
            return error_set(err, ERROR_MEMORY, "out of memory");
        loop->timers = timers;
        loop->cap_timers = cap;
    }
    /* A timer set by a timer, for a time past, comes behind those that are due. */
    if (at_ns < loop->dispatch_ns)
        at_ns = loop->dispatch_ns;
    sift_up(loop, loop->n_timers++, (struct timer){at_ns, loop->next_order++, callback, data});
    if (loop->waiting) /* its time-out was worked out without this one */
        loop_wake(loop);
    return 0;
}

static void run_timers(struct loop *loop)
{
    uint64_t now = clock_now_ns();
    uint64_t limit =
        loop->next_order; /* what the callbacks set is for the next round, so that this one ends */
    loop->dispatch_ns = now;
    while (loop->n_timers && loop->timers[0].at_ns <= now && loop->timers[0].order < limit) {
        struct timer timer = loop->timers[0];
        remove_timer(loop, 0);
        timer.callback(timer.data);
    }
    loop->dispatch_ns = 0;
}

static int wait_events(struct loop *loop, struct epoll_event events[BATCH], uint64_t timeout_ns)
{
    if (!loop->coarse) {
        struct timespec t = {.tv_sec = (time_t)(timeout_ns / CLOCK_S),
                             .tv_nsec = (long)(timeout_ns % CLOCK_S)};
        int n = epoll_pwait2(loop->epoll_fd, events, BATCH, timeout_ns == UINT64_MAX ? NULL : &t, NULL);
        if (n >= 0 || errno != ENOSYS)
            return n;
        loop->coarse = true;
    }
    uint64_t ms = timeout_ns / CLOCK_MS + (timeout_ns % CLOCK_MS != 0);
    int limit = ms > 3600 * 1000 ? 3600 * 1000 : (int)ms; /* waking once an hour for nothing is allowed */
    return epoll_wait(loop->epoll_fd, events, BATCH, timeout_ns == UINT64_MAX ? -1 : limit);
}

static void call_watch(struct loop *loop, const struct epoll_event *event)
{
    int fd = (int)(uint32_t)event->data.u64;
    uint32_t serial = (uint32_t)(event->data.u64 >> 32);
    if (serial == 0) {
        uint64_t count;
        (void)!read(loop->wake_fd, &count, sizeof count); /* it may have been read by an earlier round */
        return;
    }
    struct watch *watch = find_watch(loop, fd);
    if (watch && watch->serial == serial)
        watch->callback(watch->data, event->events);
}

/* A shared loop has a slice of time. Those that are ready all the time come in the same order each time, so
 * each round begins behind the last one of the round before. */
static void call_watches(struct loop *loop, const struct epoll_event *events, int n)
{
    uint64_t until = loop->lock ? clock_now_ns() + LOOP_SLICE : UINT64_MAX;
    unsigned first = loop->next_event;
    for (int i = 0; i < n && (!i || !loop->lock || clock_now_ns() < until); i++, loop->next_event++)
        call_watch(loop, &events[(first + (unsigned)i) % (unsigned)n]);
}

int loop_run_once(struct loop *loop, uint64_t timeout_ns, struct error *err)
{
    if (loop->n_timers) {
        uint64_t now = clock_now_ns();
        uint64_t left = loop->timers[0].at_ns > now ? loop->timers[0].at_ns - now : 0;
        timeout_ns = left < timeout_ns ? left : timeout_ns;
    }
    struct epoll_event events[BATCH];
    if (loop->lock) {
        loop->waiting = true;
        pthread_mutex_unlock(loop->lock);
    }
    int n = wait_events(loop, events, timeout_ns);
    int failed = errno;
    if (loop->lock) {
        pthread_mutex_lock(loop->lock);
        loop->waiting = false;
    }
    errno = failed;
    if (n < 0 && errno != EINTR)
        return error_set_errno(err, errno, "epoll_wait");
    call_watches(loop, events, n);
    run_timers(loop);
    return 0;
}

void loop_share(struct loop *loop, pthread_mutex_t *lock)
{
    loop->lock = lock;
}

void loop_wake(struct loop *loop)
{
    int saved = errno;
    uint64_t one = 1;
    (void)!write(loop->wake_fd, &one, sizeof one); /* fails only when it is set already */
    errno = saved;
}
