/* See ingest.h. */
#include "supervisor/ingest.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/queue.h>
#include <unistd.h>

#include "common/arena.h"
#include "common/clock.h"
#include "common/error.h"
#include "common/hash.h"
#include "common/log.h"
#include "common/ring.h"
#include "supervisor/command.h"
#include "supervisor/http.h"
#include "supervisor/status.h"

#define EVENTS_MAX 64
#define GRACE_NS CLOCK_S /* an event source that was just added may be about to open */

/* What an item waits for, each kind in a list of its own, so that the oldest ends first. */
enum wait { WAIT_START, WAIT_SOURCE, WAIT_ANSWER, WAITS };
static const uint64_t patience_ns[WAITS] = {INGEST_START_NS, GRACE_NS, INGEST_ANSWER_NS};

/* A request that waits. Requires: the lock. */
struct item {
    TAILQ_ENTRY(item) link; /* in its channel's list, or among those to be answered */
    TAILQ_ENTRY(item) by_age;
    struct channel *channel;
    struct http_request *request; /* NULL: was answered for lack of an answer */
    enum wait wait;
    uint64_t since_ns;
    uint64_t end; /* WAIT_ANSWER: the ring's index behind it */
    const struct arena_ingest_record *record;
    unsigned status; /* once decided */
    uint32_t n_events;
    uint32_t duplicates;
    size_t n_bytes; /* else: of the record */
    _Alignas(8) unsigned char copy[];
};

TAILQ_HEAD(items, item);

/* Requires: the lock. */
struct channel {
    struct ingest *ingest;
    char *name;
    struct items waiting; /* not in the ring yet */
    struct items pending; /* in the ring, in its order */
    struct command wake;
    bool wake_posted; /* the main thread will look at it */
    struct channel *next_garbage;
    /* one life of a worker */
    struct arena *arena; /* NULL: none */
    struct ring_producer ring;
    uint64_t harvested; /* the ring's index up to which answers were taken */
    int ingest_fd;
    int durable_fd;
    bool broken;         /* the worker has written nonsense into the ring */
    bool answer_invalid; /* one was, and was logged */
    bool settled;        /* it has said what sources it has */
    bool has_source;
};

struct ingest {
    struct ingest_options options;
    int epoll_fd;
    int stop_fd; /* eventfd: readable to wake or end the thread */
    bool started;
    pthread_t thread;
    pthread_mutex_t lock;
    bool stopping;              /* Requires: lock */
    bool aborted;               /* Requires: lock */
    struct hash_table channels; /* Requires: lock */
    struct channel *garbage; /* freed by the thread, which epoll may just have told of them. Requires: lock */
    struct items by_age[WAITS]; /* Requires: lock */
    size_t n_waiting;           /* Requires: lock */
    size_t waiting_bytes;       /* Requires: lock */
    _Atomic uint64_t accepted;  /* relaxed, as all counts: only sums */
    _Atomic uint64_t duplicates;
    _Atomic uint64_t under_way;
    _Atomic uint64_t refused[10];
};

static const unsigned refusals[] = {400, 404, 409, 413, 415, 429, 500, 503, 507};

/* ---- Answers. Without the lock. ---- */

static void add(_Atomic uint64_t *count, uint64_t n)
{
    atomic_fetch_add_explicit(count, n, memory_order_relaxed);
}

void ingest_refuse(struct ingest *ingest, struct http_request *request, unsigned status, long index,
                   const char *text)
{
    for (size_t i = 0; i < sizeof refusals / sizeof refusals[0]; i++)
        if (refusals[i] == status)
            add(&ingest->refused[i], 1);
    buffer_reset(&request->answer, SIZE_MAX);
    buffer_append_text(&request->answer, "{\"error\":");
    status_append_text(&request->answer, text);
    if (index >= 0) {
        buffer_append_text(&request->answer, ",\"index\":");
        buffer_append_u64(&request->answer, (uint64_t)index);
    }
    buffer_append_char(&request->answer, '}');
    if (status == 429 || status == 503)
        request->retry_after = INGEST_RETRY_SECONDS;
    http_answer(request, status);
}

static void accept_events(struct ingest *ingest, struct http_request *request, uint32_t n,
                          uint32_t duplicates)
{
    add(&ingest->accepted, n);
    add(&ingest->duplicates, duplicates);
    buffer_reset(&request->answer, SIZE_MAX);
    buffer_append_text(&request->answer, "{\"accepted\":");
    buffer_append_u64(&request->answer, n);
    buffer_append_text(&request->answer, ",\"duplicates\":");
    buffer_append_u64(&request->answer, duplicates);
    buffer_append_char(&request->answer, '}');
    http_answer(request, 202);
}

static const char *reason_of(unsigned status)
{
    switch (status) {
    case 400:
        return "the worker refuses the events";
    case 409:
        return "the workspace has no HTTPEventSource";
    case 413:
        return "the events are too large";
    case 429:
        return "too many events wait";
    case 507:
        return "the storage is full";
    default:
        return "the worker died or could not log the events: whether they were taken is not known";
    }
}

/* text: NULL for the usual one. */
static void deliver(struct ingest *ingest, struct items *done, const char *text)
{
    struct item *item;
    while ((item = TAILQ_FIRST(done)) != NULL) {
        TAILQ_REMOVE(done, item, link);
        if (item->request) {
            atomic_fetch_sub_explicit(&ingest->under_way, 1, memory_order_relaxed);
            if (item->status == 202)
                accept_events(ingest, item->request, item->n_events, item->duplicates);
            else
                ingest_refuse(ingest, item->request, item->status, -1, text ? text : reason_of(item->status));
        }
        free(item);
    }
}

/* ---- Items. Requires: the lock, as all down to the thread. ---- */

static void set_wait(struct ingest *ingest, struct item *item, enum wait wait)
{
    item->wait = wait;
    item->since_ns = clock_coarse_ns();
    TAILQ_INSERT_TAIL(&ingest->by_age[wait], item, by_age);
}

/* Takes the item out of all lists, into that of the decided ones. */
static void decide(struct item *item, unsigned status, struct items *done)
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

static void decide_all(struct items *items, unsigned status, struct items *done)
{
    struct item *item;
    while ((item = TAILQ_FIRST(items)) != NULL)
        decide(item, status, done);
}

/* ---- The ring ---- */

static void break_channel(struct channel *channel, struct items *done)
{
    log_error("ingest_ring_invalid", LOG_STR("workspace", channel->name));
    channel->broken = true;
    decide_all(&channel->pending, 503, done);
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

static void harvest(struct channel *channel, struct items *done)
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
        decide(item, read_answer(item), done);
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
static bool put(struct channel *channel, struct item *item, const void *record, size_t n_bytes)
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

static void tell_worker(const struct channel *channel)
{
    uint64_t one = 1;
    while (write(channel->ingest_fd, &one, sizeof one) < 0 && errno == EINTR)
        ;
}

static enum arena_ingest_state state_of(const struct channel *channel)
{
    if (!channel->arena || channel->broken)
        return ARENA_INGEST_CLOSED;
    /* acquire: what the source has done before it opened. */
    uint32_t state = atomic_load_explicit(&channel->arena->worker.ingest, memory_order_acquire);
    return state == ARENA_INGEST_OPEN || state == ARENA_INGEST_NO_SPACE ? (enum arena_ingest_state)state
                                                                        : ARENA_INGEST_CLOSED;
}

/* What waits goes into the ring, as far as it may. */
static void flush(struct channel *channel, struct items *done)
{
    struct ingest *ingest = channel->ingest;
    struct item *item;
    bool any = false;
    if (state_of(channel) == ARENA_INGEST_CLOSED)
        return;
    while ((item = TAILQ_FIRST(&channel->waiting)) != NULL) {
        if (item->n_events == 0) {
            decide(item, 202, done);
            continue;
        }
        if (!put(channel, item, item->copy, item->n_bytes))
            break;
        any = true;
        TAILQ_REMOVE(&channel->waiting, item, link);
        TAILQ_REMOVE(&ingest->by_age[item->wait], item, by_age);
        ingest->n_waiting--;
        ingest->waiting_bytes -= item->n_bytes;
        TAILQ_INSERT_TAIL(&channel->pending, item, link);
        set_wait(ingest, item, WAIT_ANSWER);
    }
    if (any)
        tell_worker(channel);
}

/* ---- Channels ---- */

static void release(struct channel *channel);

static void run_wake(struct command *command)
{
    struct channel *channel = (struct channel *)(void *)((char *)command - offsetof(struct channel, wake));
    struct ingest *ingest = channel->ingest;
    pthread_mutex_lock(&ingest->lock);
    channel->wake_posted = false;
    bool wanted = !TAILQ_EMPTY(&channel->waiting) && !ingest->aborted;
    char *name = wanted ? strdup(channel->name) : NULL;
    release(channel);
    pthread_mutex_unlock(&ingest->lock);
    if (name)
        ingest->options.wake(ingest->options.data, name);
    free(name);
}

static void wake(struct channel *channel)
{
    if (channel->wake_posted || TAILQ_EMPTY(&channel->waiting) || channel->ingest->aborted)
        return;
    channel->wake_posted = true;
    command_post(channel->ingest->options.queue, &channel->wake);
}

/* Frees a channel that nobody needs any more. */
static void release(struct channel *channel)
{
    struct ingest *ingest = channel->ingest;
    if (channel->arena || channel->wake_posted || !TAILQ_EMPTY(&channel->waiting) ||
        !TAILQ_EMPTY(&channel->pending))
        return;
    hash_remove(&ingest->channels, channel->name, strlen(channel->name));
    channel->next_garbage = ingest->garbage;
    ingest->garbage = channel;
}

static struct channel *find(struct ingest *ingest, const char *name)
{
    return hash_get(&ingest->channels, name, strlen(name));
}

static struct channel *find_or_make(struct ingest *ingest, const char *name)
{
    struct channel *channel = find(ingest, name);
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
static void end_life(struct channel *channel, struct items *done)
{
    if (!channel->arena)
        return;
    harvest(channel, done);
    decide_all(&channel->pending, 503, done);
    close(channel->ingest_fd);
    close(channel->durable_fd);
    channel->ingest_fd = channel->durable_fd = -1;
    channel->arena = NULL;
    channel->broken = channel->answer_invalid = channel->settled = channel->has_source = false;
}

static int begin_life(struct channel *channel, struct arena *arena, struct error *err)
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

int ingest_open(struct ingest *ingest, const char *workspace, struct arena *arena, int *ret_ingest_fd,
                int *ret_durable_fd, struct error *err)
{
    struct items done = TAILQ_HEAD_INITIALIZER(done);
    int r = -1;
    pthread_mutex_lock(&ingest->lock);
    struct channel *channel = find_or_make(ingest, workspace);
    if (!channel) {
        error_set(err, ERROR_MEMORY, "workspace %s: out of memory", workspace);
    } else {
        end_life(channel, &done);
        r = begin_life(channel, arena, err);
        *ret_ingest_fd = channel->ingest_fd;
        *ret_durable_fd = channel->durable_fd;
        release(channel);
    }
    pthread_mutex_unlock(&ingest->lock);
    deliver(ingest, &done, NULL);
    return r;
}

void ingest_close(struct ingest *ingest, const char *workspace)
{
    struct items done = TAILQ_HEAD_INITIALIZER(done);
    pthread_mutex_lock(&ingest->lock);
    struct channel *channel = find(ingest, workspace);
    if (channel) {
        end_life(channel, &done);
        wake(channel);
        release(channel);
    }
    pthread_mutex_unlock(&ingest->lock);
    deliver(ingest, &done, NULL);
}

void ingest_settle(struct ingest *ingest, const char *workspace, bool has_source)
{
    struct items done = TAILQ_HEAD_INITIALIZER(done);
    pthread_mutex_lock(&ingest->lock);
    struct channel *channel = find(ingest, workspace);
    if (channel && channel->arena) {
        bool first = !channel->settled;
        channel->settled = true;
        channel->has_source = has_source;
        flush(channel, &done);
        if (first && !has_source && state_of(channel) == ARENA_INGEST_CLOSED)
            decide_all(&channel->waiting, 409, &done);
    }
    pthread_mutex_unlock(&ingest->lock);
    deliver(ingest, &done, NULL);
}

void ingest_fail(struct ingest *ingest, const char *workspace, unsigned status, const char *text)
{
    struct items done = TAILQ_HEAD_INITIALIZER(done);
    pthread_mutex_lock(&ingest->lock);
    struct channel *channel = find(ingest, workspace);
    if (channel) {
        decide_all(&channel->waiting, status, &done);
        release(channel);
    }
    pthread_mutex_unlock(&ingest->lock);
    deliver(ingest, &done, text);
}

/* ---- Submitting ---- */

static struct item *item_new(struct channel *channel, struct http_request *request, uint32_t n_events,
                             size_t n_bytes)
{
    struct item *item = malloc(sizeof *item + n_bytes);
    if (!item)
        return NULL;
    *item = (struct item){.channel = channel, .request = request, .n_events = n_events, .n_bytes = n_bytes};
    return item;
}

/* Into the ring: 0, or a status. */
static unsigned submit_open(struct channel *channel, struct http_request *request, const void *record,
                            size_t n_bytes, uint32_t n_events, struct items *done)
{
    harvest(channel, done);
    if (channel->broken)
        return 503;
    if (state_of(channel) == ARENA_INGEST_NO_SPACE && !TAILQ_EMPTY(&channel->pending))
        return 507; /* the pending one finds out whether there is room again */
    struct item *item = item_new(channel, request, n_events, 0);
    if (!item)
        return 500;
    if (!put(channel, item, record, n_bytes)) {
        free(item);
        return 429;
    }
    TAILQ_INSERT_TAIL(&channel->pending, item, link);
    set_wait(channel->ingest, item, WAIT_ANSWER);
    add(&channel->ingest->under_way, 1);
    tell_worker(channel);
    return 0;
}

static unsigned submit_waiting(struct channel *channel, struct http_request *request, const void *record,
                               size_t n_bytes, uint32_t n_events)
{
    struct ingest *ingest = channel->ingest;
    if (ingest->n_waiting >= INGEST_WAITING_MAX || ingest->waiting_bytes + n_bytes > INGEST_WAITING_BYTES)
        return 429;
    struct item *item = item_new(channel, request, n_events, n_bytes);
    if (!item)
        return 500;
    memcpy(item->copy, record, n_bytes);
    ingest->n_waiting++;
    ingest->waiting_bytes += n_bytes;
    TAILQ_INSERT_TAIL(&channel->waiting, item, link);
    add(&ingest->under_way, 1);
    set_wait(ingest, item, channel->settled && !channel->has_source ? WAIT_SOURCE : WAIT_START);
    wake(channel);
    return 0;
}

void ingest_submit(struct ingest *ingest, struct http_request *request, const char *workspace,
                   const void *record, size_t n_bytes, uint32_t n_events)
{
    struct items done = TAILQ_HEAD_INITIALIZER(done);
    unsigned status = 503;
    pthread_mutex_lock(&ingest->lock);
    struct channel *channel = ingest->aborted ? NULL : find_or_make(ingest, workspace);
    if (channel) {
        if (state_of(channel) == ARENA_INGEST_CLOSED)
            status = submit_waiting(channel, request, record, n_bytes, n_events);
        else if (n_events == 0)
            status = 202;
        else
            status = submit_open(channel, request, record, n_bytes, n_events, &done);
        release(channel);
    }
    pthread_mutex_unlock(&ingest->lock);
    if (status == 202)
        accept_events(ingest, request, 0, 0);
    else if (status != 0)
        ingest_refuse(ingest, request, status, -1, status == 500 ? "out of memory" : reason_of(status));
    deliver(ingest, &done, NULL);
}

/* ---- The thread ---- */

static void collect_garbage(struct ingest *ingest)
{
    while (ingest->garbage) {
        struct channel *channel = ingest->garbage;
        ingest->garbage = channel->next_garbage;
        free(channel->name);
        free(channel);
    }
}

static void on_durable(struct ingest *ingest, struct channel *channel)
{
    struct items done = TAILQ_HEAD_INITIALIZER(done);
    uint64_t count;
    pthread_mutex_lock(&ingest->lock);
    if (channel->arena && (read(channel->durable_fd, &count, sizeof count) > 0 || errno == EAGAIN)) {
        harvest(channel, &done);
        flush(channel, &done);
    }
    pthread_mutex_unlock(&ingest->lock);
    deliver(ingest, &done, NULL);
}

/* Answers those that have waited too long. A record stays in the ring: its item stays, too, without its
 * request. Returns when to look again. */
static uint64_t expire(struct ingest *ingest, uint64_t now_ns)
{
    struct items done[WAITS];
    struct item *item;
    uint64_t next = now_ns + CLOCK_S;
    pthread_mutex_lock(&ingest->lock);
    for (unsigned i = 0; i < WAITS; i++) {
        TAILQ_INIT(&done[i]);
        while ((item = TAILQ_FIRST(&ingest->by_age[i])) != NULL &&
               item->since_ns + patience_ns[i] <= now_ns) {
            struct channel *channel = item->channel;
            if (i != WAIT_ANSWER) {
                decide(item, i == WAIT_SOURCE ? 409 : 503, &done[i]);
                release(channel);
                continue;
            }
            struct item *told = item->request ? item_new(channel, item->request, item->n_events, 0) : NULL;
            if (told) {
                told->status = 503;
                TAILQ_INSERT_TAIL(&done[i], told, link);
                item->request = NULL;
            }
            TAILQ_REMOVE(&ingest->by_age[i], item, by_age);
            set_wait(ingest, item, WAIT_ANSWER);
        }
    }
    pthread_mutex_unlock(&ingest->lock);
    deliver(ingest, &done[WAIT_START], "the workflow did not start in time");
    deliver(ingest, &done[WAIT_SOURCE], NULL);
    deliver(ingest, &done[WAIT_ANSWER], NULL);
    return next;
}

static void *run(void *data)
{
    struct ingest *ingest = data;
    struct epoll_event events[EVENTS_MAX];
    uint64_t look_ns = 0;
    for (;;) {
        uint64_t now = clock_coarse_ns();
        if (now >= look_ns)
            look_ns = expire(ingest, now);
        pthread_mutex_lock(&ingest->lock);
        collect_garbage(ingest);
        bool stopping = ingest->stopping;
        pthread_mutex_unlock(&ingest->lock);
        if (stopping)
            return NULL;
        int n = epoll_wait(ingest->epoll_fd, events, EVENTS_MAX, 1000);
        for (int i = 0; i < n; i++)
            if (events[i].data.ptr)
                on_durable(ingest, events[i].data.ptr);
    }
}

static int start(struct ingest *ingest, struct error *err)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    ingest->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    ingest->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (ingest->epoll_fd < 0 || ingest->stop_fd < 0 ||
        epoll_ctl(ingest->epoll_fd, EPOLL_CTL_ADD, ingest->stop_fd, &event) < 0)
        return error_set_errno(err, errno, "ingest: epoll");
    int e = pthread_create(&ingest->thread, NULL, run, ingest);
    if (e != 0)
        return error_set_errno(err, e, "ingest: thread");
    pthread_setname_np(ingest->thread, "ingest");
    ingest->started = true;
    return 0;
}

int ingest_new(const struct ingest_options *options, struct ingest **ret_ingest, struct error *err)
{
    struct ingest *ingest = calloc(1, sizeof *ingest);
    if (!ingest)
        return error_set(err, ERROR_MEMORY, "ingest: out of memory");
    ingest->options = *options;
    ingest->epoll_fd = ingest->stop_fd = -1;
    pthread_mutex_init(&ingest->lock, NULL);
    hash_init(&ingest->channels);
    for (unsigned i = 0; i < WAITS; i++)
        TAILQ_INIT(&ingest->by_age[i]);
    if (start(ingest, err) < 0) {
        ingest_free(ingest);
        return -1;
    }
    *ret_ingest = ingest;
    return 0;
}

void ingest_abort(struct ingest *ingest)
{
    struct items done = TAILQ_HEAD_INITIALIZER(done);
    if (!ingest)
        return;
    pthread_mutex_lock(&ingest->lock);
    ingest->aborted = true;
    size_t cursor = 0;
    struct hash_entry *entry;
    while ((entry = hash_next(&ingest->channels, &cursor)) != NULL) {
        struct channel *channel = entry->value;
        harvest(channel, &done);
        decide_all(&channel->pending, 503, &done);
        decide_all(&channel->waiting, 503, &done);
    }
    pthread_mutex_unlock(&ingest->lock);
    deliver(ingest, &done, "the supervisor is stopping");
}

void ingest_free(struct ingest *ingest)
{
    if (!ingest)
        return;
    if (ingest->started) {
        uint64_t one = 1;
        pthread_mutex_lock(&ingest->lock);
        ingest->stopping = true;
        pthread_mutex_unlock(&ingest->lock);
        while (write(ingest->stop_fd, &one, sizeof one) < 0 && errno == EINTR)
            ;
        pthread_join(ingest->thread, NULL);
    }
    struct hash_entry *entry;
    size_t cursor = 0;
    while ((entry = hash_next(&ingest->channels, &cursor)) != NULL) {
        struct channel *channel = entry->value;
        channel->next_garbage = ingest->garbage;
        ingest->garbage = channel;
    }
    collect_garbage(ingest);
    hash_done(&ingest->channels);
    if (ingest->epoll_fd >= 0)
        close(ingest->epoll_fd);
    if (ingest->stop_fd >= 0)
        close(ingest->stop_fd);
    pthread_mutex_destroy(&ingest->lock);
    free(ingest);
}

void ingest_count(struct ingest *ingest, struct ingest_counts *ret_counts)
{
    *ret_counts =
        (struct ingest_counts){.accepted = atomic_load_explicit(&ingest->accepted, memory_order_relaxed),
                               .duplicates = atomic_load_explicit(&ingest->duplicates, memory_order_relaxed),
                               .waiting = atomic_load_explicit(&ingest->under_way, memory_order_relaxed)};
    for (size_t i = 0; i < sizeof refusals / sizeof refusals[0]; i++) {
        ret_counts->refused[i].status = refusals[i];
        ret_counts->refused[i].requests = atomic_load_explicit(&ingest->refused[i], memory_order_relaxed);
    }
}
