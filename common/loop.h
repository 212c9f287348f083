/* A small epoll loop with one-shot timers on the monotonic clock. Thread: the one that runs it, but for
 * loop_wake(). */
#pragma once

#include <pthread.h>
#include <stdint.h>

struct error;
struct loop;

typedef void (*loop_io)(void *data, uint32_t events); /* events: EPOLLIN, EPOLLOUT, EPOLLHUP, EPOLLERR */
typedef void (*loop_timer)(void *data);

struct loop *loop_new(struct error *err);
void loop_free(struct loop *loop); /* NULL is fine; closes none of the descriptors */

/* Watches fd (level-triggered). One watch per fd. loop_remove may be called from any callback, also for
 * another fd; no callback for a removed fd follows. */
int loop_add(struct loop *loop, int fd, uint32_t events, loop_io callback, void *data, struct error *err);
int loop_modify(struct loop *loop, int fd, uint32_t events, struct error *err);
void loop_remove(struct loop *loop, int fd);

/* Calls callback once, at or after at_ns (clock_now_ns). A timer is named by (callback, data): setting it
 * again moves it. Fails only when memory runs out. */
int loop_timer_set(struct loop *loop, uint64_t at_ns, loop_timer callback, void *data, struct error *err);
void loop_timer_cancel(struct loop *loop, loop_timer callback, void *data);

/* Waits for events or the next timer, at most timeout_ns (UINT64_MAX: without limit), and calls the
 * callbacks. */
int loop_run_once(struct loop *loop, uint64_t timeout_ns, struct error *err);

/* Lets other threads use the loop while it waits: loop_run_once must be called with the lock held, gives it
 * up while it waits, and holds it again for the callbacks; all other calls on the loop then need the lock,
 * too. So that they get it, no callback of a descriptor is called later than LOOP_SLICE (ns) after the first
 * in a round: the others are in the next. Borrows the lock. */
#define LOOP_SLICE 500000u
void loop_share(struct loop *loop, pthread_mutex_t *lock);

/* Makes loop_run_once return. Thread: any; safe in signal handlers. */
void loop_wake(struct loop *loop);
