/* A checkpoint that only counts what it is told, in place of the real one: included by one file of a test
 * program, it defines the functions of checkpoint/checkpoint.h, so that the real ones are not linked. */
#pragma once

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <time.h>
#include <cmocka.h>

#include "worker/checkpoint/checkpoint.h"
#include "worker/executor/intent.h"

#define FAKE_CHECKPOINT_DEADLINE_S 120

static struct {
    pthread_mutex_t lock;
    pthread_cond_t moved;
    /* Requires: lock */
    uint64_t cuts;
    uint64_t changed;
    uint64_t intents;
    uint64_t reload_waits;
    int reload_result;
} fake_checkpoint = {.lock = PTHREAD_MUTEX_INITIALIZER, .moved = PTHREAD_COND_INITIALIZER};

static void fake_checkpoint_count(uint64_t *counter)
{
    pthread_mutex_lock(&fake_checkpoint.lock);
    (*counter)++;
    pthread_cond_broadcast(&fake_checkpoint.moved);
    pthread_mutex_unlock(&fake_checkpoint.lock);
}

static inline void fake_checkpoint_reset(void)
{
    pthread_mutex_lock(&fake_checkpoint.lock);
    fake_checkpoint.cuts = fake_checkpoint.changed = fake_checkpoint.intents = 0;
    fake_checkpoint.reload_waits = 0;
    fake_checkpoint.reload_result = 0;
    pthread_mutex_unlock(&fake_checkpoint.lock);
}

static inline uint64_t fake_checkpoint_get(const uint64_t *counter)
{
    pthread_mutex_lock(&fake_checkpoint.lock);
    uint64_t value = *counter;
    pthread_mutex_unlock(&fake_checkpoint.lock);
    return value;
}

/* Waits until a counter has reached a value. */
static inline void fake_checkpoint_wait(const uint64_t *counter, uint64_t value)
{
    struct timespec until;
    int r = 0;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += FAKE_CHECKPOINT_DEADLINE_S;
    pthread_mutex_lock(&fake_checkpoint.lock);
    while (*counter < value && !r)
        r = pthread_cond_timedwait(&fake_checkpoint.moved, &fake_checkpoint.lock, &until);
    pthread_mutex_unlock(&fake_checkpoint.lock);
    assert_int_equal(r, 0);
}

int checkpoint_new(struct worker *worker, struct checkpoint **ret_checkpoint, struct error *err)
{
    (void)worker;
    (void)ret_checkpoint;
    (void)err;
    return -1;
}

int checkpoint_start(struct checkpoint *checkpoint, struct error *err)
{
    (void)checkpoint;
    (void)err;
    return -1;
}

void checkpoint_free(struct checkpoint *checkpoint)
{
    (void)checkpoint;
}

void checkpoint_stop(struct checkpoint *checkpoint, uint64_t deadline_ns)
{
    (void)checkpoint;
    (void)deadline_ns;
}

void checkpoint_reload(struct checkpoint *checkpoint)
{
    (void)checkpoint;
}

void checkpoint_storage_changed(struct checkpoint *checkpoint)
{
    (void)checkpoint;
}

void checkpoint_adopt(struct checkpoint *checkpoint, const char *from)
{
    (void)checkpoint;
    (void)from;
}

void checkpoint_request(struct checkpoint *checkpoint, const char *packet, size_t len)
{
    (void)checkpoint;
    (void)packet;
    (void)len;
}

bool checkpoint_ended(const struct checkpoint *checkpoint, int *ret_exit_status)
{
    (void)checkpoint;
    *ret_exit_status = 0;
    return true;
}

void checkpoint_changed(struct checkpoint *checkpoint)
{
    (void)checkpoint;
    fake_checkpoint_count(&fake_checkpoint.changed);
}

uint64_t checkpoint_reloads(struct checkpoint *checkpoint)
{
    (void)checkpoint;
    return 0;
}

bool checkpoint_reloaded(struct checkpoint *checkpoint, uint64_t mark)
{
    (void)checkpoint;
    (void)mark;
    return true;
}

void checkpoint_fenced(struct checkpoint *checkpoint, const struct error *err)
{
    (void)checkpoint;
    fail_msg("%s", err->message);
}

int checkpoint_reload_wait(struct checkpoint *checkpoint, const struct source *source)
{
    (void)checkpoint;
    (void)source;
    fake_checkpoint_count(&fake_checkpoint.reload_waits);
    return fake_checkpoint.reload_result;
}

void checkpoint_interrupt(struct checkpoint *checkpoint)
{
    (void)checkpoint;
}

void checkpoint_intent_waits(struct checkpoint *checkpoint)
{
    (void)checkpoint;
    fake_checkpoint_count(&fake_checkpoint.intents);
}

void checkpoint_urge(struct checkpoint *checkpoint)
{
    (void)checkpoint;
}

void checkpoint_cut_done(struct checkpoint *checkpoint)
{
    (void)checkpoint;
    fake_checkpoint_count(&fake_checkpoint.cuts);
}

void checkpoint_completed(struct checkpoint *checkpoint, struct intent *intent)
{
    (void)checkpoint;
    intent_free(intent);
}
