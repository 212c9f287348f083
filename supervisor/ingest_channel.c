/* Channels and the requests in them. See ingest.h. */
#include "supervisor/ingest_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/log.h"

/* ---- Items ---- */

void item_wait(struct ingest *ingest, struct item *item, enum wait wait)
{
    item->wait = wait;
    item->since_ns = clock_coarse_ns();
    TAILQ_INSERT_TAIL(&ingest->by_age[wait], item, by_age);
}

/* Takes the item out of all lists, into that of the decided ones. */
void item_decide(struct item *item, unsigned status, struct items *done)
{
    struct channel *channel = item->channel;
    struct ingest *ingest = channel->ingest;
    TAILQ_REMOVE(&ingest->by_age[item->wait], item, by_age);
    if (item->wait == WAIT_ANSWER) {
        TAILQ_REMOVE(&channel->pending, item, link);
    } else {
        TAILQ_REMOVE(&channel->waiting, item, link);
        ingest->n_waiting--;
        ingest->waiting_bytes -= item->n_bytes;
    }
    item->status = status;
    TAILQ_INSERT_TAIL(done, item, link);
}

void item_decide_all(struct items *items, unsigned status, struct items *done)
{
    struct item *item;
    while ((item = TAILQ_FIRST(items)) != NULL)
        item_decide(item, status, done);
}

/* ---- The ring ---- */

static void break_channel(struct channel *channel, struct items *done)
{
    log_error("ingest_ring_invalid", LOG_STR("workspace", channel->name));
    channel->broken = true;
    item_decide_all(&channel->pending, 503, done);
}

/* Takes the answer out of a record that the worker has released. */
static unsigned read_answer(struct item *item)
{
    /* relaxed: the acquire of the tail brought it. */
    uint32_t status = atomic_load_explicit(&item->record->answer, memory_order_relaxed);
    uint32_t duplicates = *(const volatile uint32_t *)&item->record->duplicates;
    item->duplicates = duplicates < item->n_events ? duplicates : item->n_events;
    switch (status) {
    case 202:
    case 400:
    case 409:
    case 413:
    case 429:
    case 503:
    case 507:
        return status;
    default:
        if (!item->channel->answer_invalid)
            log_warn("ingest_answer_invalid", LOG_STR("workspace", item->channel->name),
                     LOG_UINT("answer", status));
        item->channel->answer_invalid = true;
        return 503;
    }
}

void channel_harvest(struct channel *channel, struct items *done)
{
    if (!channel->arena || channel->broken)
        return;
    /* acquire: the answers were written before the tail was moved. */
    uint64_t tail = atomic_load_explicit(&channel->ring.shared->tail, memory_order_acquire);
    if (tail - channel->harvested > channel->ring.head - channel->harvested) {
        break_channel(channel, done);
        return;
    }
    struct item *item;
    while ((item = TAILQ_FIRST(&channel->pending)) != NULL &&
           item->end - channel->harvested <= tail - channel->harvested) {
        channel->harvested = item->end;
        item_decide(item, read_answer(item), done);
    }
    channel->ring.tail_seen = channel->harvested;
}

/* Whether the ring has room in front of what was not harvested; ring_reserve() then does not look at the
 * worker's tail, behind which there may be answers. */
static bool fits(const struct channel *channel, size_t n_bytes)
{
    const struct ring_producer *ring = &channel->ring;
    uint64_t need = (n_bytes + 15) & ~7ull; /* with the ring's header */
    uint64_t to_end = ring->bytes - (ring->head & (ring->bytes - 1));
    uint64_t wanted = need + (to_end < need ? to_end : 0) + RING_RESERVE;
    return ring->head + wanted - channel->harvested <= ring->bytes;
}

/* Puts a record into the ring. false: it is full. */
bool channel_put(struct channel *channel, struct item *item, const void *record, size_t n_bytes)
{
    if (!fits(channel, n_bytes))
        return false;
    void *to = ring_reserve(&channel->ring, (uint32_t)n_bytes, 0, false);
    if (!to)
        return false;
    memcpy(to, record, n_bytes);
    ring_publish(&channel->ring);
    item->record = to;
    item->end = channel->ring.head;
    return true;
}

void channel_tell(const struct channel *channel)
{
    uint64_t one = 1;
    while (write(channel->ingest_fd, &one, sizeof one) < 0 && errno == EINTR)
        ;
}

enum arena_ingest_state channel_state(const struct channel *channel)
{
    if (!channel->arena || channel->broken)
        return ARENA_INGEST_CLOSED;
    /* acquire: what the source has done before it opened. */
    uint32_t state = atomic_load_explicit(&channel->arena->worker.ingest, memory_order_acquire);
    return state == ARENA_INGEST_OPEN || state == ARENA_INGEST_NO_SPACE ? (enum arena_ingest_state)state
                                                                        : ARENA_INGEST_CLOSED;
}

/* What waits goes into the ring, as far as it may. */
void channel_flush(struct channel *channel, struct items *done)
{
    struct ingest *ingest = channel->ingest;
    struct item *item;
    bool any = false;
    if (channel_state(channel) == ARENA_INGEST_CLOSED)
        return;
    while ((item = TAILQ_FIRST(&channel->waiting)) != NULL) {
        if (item->n_events == 0) {
            item_decide(item, 202, done);
            continue;
        }
        if (!channel_put(channel, item, item->copy, item->n_bytes))
            break;
        any = true;
        TAILQ_REMOVE(&channel->waiting, item, link);
        TAILQ_REMOVE(&ingest->by_age[item->wait], item, by_age);
        ingest->n_waiting--;
        ingest->waiting_bytes -= item->n_bytes;
        TAILQ_INSERT_TAIL(&channel->pending, item, link);
        item_wait(ingest, item, WAIT_ANSWER);
    }
    if (any)
        channel_tell(channel);
}

/* ---- Channels ---- */

static void run_wake(struct command *command)
{
    struct channel *channel = (struct channel *)(void *)((char *)command - offsetof(struct channel, wake));
    struct ingest *ingest = channel->ingest;
    pthread_mutex_lock(&ingest->lock);
    channel->wake_posted = false;
    bool wanted = !TAILQ_EMPTY(&channel->waiting) && !ingest->aborted;
    char *name = wanted ? strdup(channel->name) : NULL;
    channel_release(channel);
    pthread_mutex_unlock(&ingest->lock);
    if (name)
        ingest->options.wake(ingest->options.data, name);
    free(name);
}

void channel_wake(struct channel *channel)
{
    if (channel->wake_posted || TAILQ_EMPTY(&channel->waiting) || channel->ingest->aborted)
        return;
    channel->wake_posted = true;
    command_post(channel->ingest->options.queue, &channel->wake);
}

/* Frees a channel that nobody needs any more. */
void channel_release(struct channel *channel)
{
    struct ingest *ingest = channel->ingest;
    if (channel->arena || channel->wake_posted || !TAILQ_EMPTY(&channel->waiting) ||
        !TAILQ_EMPTY(&channel->pending))
        return;
    hash_remove(&ingest->channels, channel->name, strlen(channel->name));
    channel->next_garbage = ingest->garbage;
    ingest->garbage = channel;
}

struct channel *channel_find(struct ingest *ingest, const char *name)
{
    return hash_get(&ingest->channels, name, strlen(name));
}

struct channel *channel_get(struct ingest *ingest, const char *name)
{
    struct channel *channel = channel_find(ingest, name);
    if (channel)
        return channel;
    channel = calloc(1, sizeof *channel);
    char *copy = strdup(name);
    if (!channel || !copy || hash_put(&ingest->channels, copy, strlen(copy), channel, NULL) < 0) {
        free(channel);
        free(copy);
        return NULL;
    }
    channel->ingest = ingest;
    channel->name = copy;
    channel->ingest_fd = channel->durable_fd = -1;
    channel->wake.run = run_wake;
    TAILQ_INIT(&channel->waiting);
    TAILQ_INIT(&channel->pending);
    return channel;
}

/* The end of a life: answers that stand are taken, the rest is unknown. */
void channel_end(struct channel *channel, struct items *done)
{
    if (!channel->arena)
        return;
    channel_harvest(channel, done);
    item_decide_all(&channel->pending, 503, done);
    close(channel->ingest_fd);
    close(channel->durable_fd);
    channel->ingest_fd = channel->durable_fd = -1;
    channel->arena = NULL;
    channel->broken = channel->answer_invalid = channel->settled = channel->has_source = false;
}

int channel_begin(struct channel *channel, struct arena *arena, struct error *err)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = channel};
    channel->ingest_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    channel->durable_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (channel->ingest_fd < 0 || channel->durable_fd < 0 ||
        epoll_ctl(channel->ingest->epoll_fd, EPOLL_CTL_ADD, channel->durable_fd, &event) < 0) {
        error_set_errno(err, errno, "eventfd");
        if (channel->ingest_fd >= 0)
            close(channel->ingest_fd);
        if (channel->durable_fd >= 0)
            close(channel->durable_fd);
        channel->ingest_fd = channel->durable_fd = -1;
        return -1;
    }
    channel->arena = arena;
    ring_attach_producer(&channel->ring, arena_ingest_ring(arena), ARENA_INGEST_BYTES);
    channel->harvested = channel->ring.head;
    return 0;
}
