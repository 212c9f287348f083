#include "worker/executor/queues.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "common/buffer.h"
#include "common/clock.h"
#include "common/error.h"
#include "common/hash.h"
#include "worker/executor/gate.h"

#define SWEEP_AT 1024 /* gates, above which idle ones are looked for when one is added */

/* Those that take turns: a ring of them is known by the last. */
struct turn {
    struct turn *next;
};

/* A trigger or a host, by its name. */
struct party {
    struct turn turn; /* of a host: among hosts, while something waits for it */
    struct gate gate;
    struct turn *last; /* of a host: ring of its queues in which something waits */
    size_t n;          /* of those */
    size_t users;      /* queues that have a pointer to it */
    struct hash_table *table;
    size_t len;
    char name[];
};

struct queue {
    struct turn turn; /* among those of its host, while something waits */
    struct party *trigger;
    struct party *host;
    struct queues_ticket *first;
    struct queues_ticket **end;
    unsigned inside;
    size_t users; /* tickets */
    size_t len;
    char name[];
};

struct queues {
    struct gate worker;
    struct hash_table triggers; /* name -> struct party */
    struct hash_table hosts;
    struct hash_table queues; /* trigger and host -> struct queue */
    struct turn *last;        /* ring of hosts for which something waits */
    size_t n;                 /* of those */
};

/* --- turns --- */

static void turns_add(struct turn **last, size_t *n, struct turn *turn)
{
    turn->next = *last ? (*last)->next : turn;
    if (*last)
        (*last)->next = turn;
    *last = turn;
    ++*n;
}

/* Takes the first. There must be one. */
static struct turn *turns_take(struct turn **last, size_t *n)
{
    struct turn *first = (*last)->next;
    if (!--*n)
        *last = NULL;
    else
        (*last)->next = first->next;
    return first;
}

/* --- parties and queues --- */

static void sweep(struct hash_table *table, uint64_t now)
{
    struct party *idle[64];
    size_t n = 0;
    size_t cursor = 0;
    for (struct hash_entry *e; n < 64 && (e = hash_next(table, &cursor));) {
        struct party *p = e->value;
        if (!p->users && gate_idle(&p->gate, now))
            idle[n++] = p;
    }
    for (size_t i = 0; i < n; i++) {
        hash_remove(table, idle[i]->name, idle[i]->len);
        free(idle[i]);
    }
}

static struct party *party_ref(struct hash_table *table, const struct queues_name *name)
{
    struct party *p = hash_get(table, name->text, name->len);
    if (p) {
        p->users++;
        return p;
    }
    if (table->count >= SWEEP_AT)
        sweep(table, clock_now_ns());
    if (!(p = calloc(1, sizeof *p + name->len + 1)))
        return NULL;
    memcpy(p->name, name->text, name->len);
    p->len = name->len;
    p->table = table;
    p->users = 1;
    if (hash_put(table, p->name, p->len, p, NULL) < 0) {
        free(p);
        return NULL;
    }
    return p;
}

/* One without a rate holds nothing to remember. */
static void party_unref(struct party *p)
{
    if (!p || --p->users || p->gate.period_ns)
        return;
    hash_remove(p->table, p->name, p->len);
    free(p);
}

static void queue_unref(struct queues *all, struct queue *q)
{
    if (--q->users)
        return;
    hash_remove(&all->queues, q->name, q->len);
    party_unref(q->trigger);
    party_unref(q->host);
    free(q);
}

static struct queue *queue_new(struct queues *all, const struct queues_name *trigger,
                               const struct queues_name *host, const struct buffer *name)
{
    struct queue *q = calloc(1, sizeof *q + name->len + 1);
    if (!q)
        return NULL;
    memcpy(q->name, name->data, name->len);
    q->len = name->len;
    q->end = &q->first;
    q->trigger = party_ref(&all->triggers, trigger);
    q->host = party_ref(&all->hosts, host);
    if (q->trigger && q->host && hash_put(&all->queues, q->name, q->len, q, NULL) == 0)
        return q;
    party_unref(q->trigger);
    party_unref(q->host);
    free(q);
    return NULL;
}

static struct queue *queue_ref(struct queues *all, const struct queues_name *trigger,
                               const struct queues_name *host)
{
    BUFFER_AUTO name = BUFFER_INIT;
    buffer_append_u64(&name, trigger->len);
    buffer_append_char(&name, ' ');
    buffer_append(&name, trigger->text, trigger->len);
    buffer_append(&name, host->text, host->len);
    if (name.failed)
        return NULL;
    struct queue *q = hash_get(&all->queues, name.data, name.len);
    if (!q)
        q = queue_new(all, trigger, host, &name);
    if (q)
        q->users++;
    return q;
}

int queues_join(struct queues *queues, struct queues_ticket *ticket, const struct queues_name *trigger,
                const struct queues_limit *trigger_limit, const struct queues_name *host,
                const struct queues_limit *host_limit, struct error *err)
{
    struct queue *q = queue_ref(queues, trigger, host);
    if (!q)
        return error_set(err, ERROR_MEMORY, "out of memory");
    gate_limit(&q->trigger->gate, trigger_limit->max_inside, trigger_limit->rate);
    gate_limit(&q->host->gate, host_limit->max_inside, host_limit->rate);
    if (!q->first && !q->host->n)
        turns_add(&queues->last, &queues->n, &q->host->turn);
    if (!q->first)
        turns_add(&q->host->last, &q->host->n, &q->turn);
    ticket->queue = q;
    ticket->next = NULL;
    *q->end = ticket;
    q->end = &ticket->next;
    return 0;
}

bool queues_waiting(const struct queues *queues)
{
    return queues->n;
}

/* --- whose turn it is --- */

static bool admits(const struct gate *gate, uint64_t now, uint64_t *due)
{
    if (!gate_free(gate))
        return false;
    uint64_t at = gate_due(gate);
    if (at > now && at < *due)
        *due = at;
    return at <= now;
}

/* Whether one who has so many places gets one more of those that are free. */
static bool is_below_share(unsigned inside, unsigned free_places)
{
    return inside / QUEUES_SHARE < free_places;
}

/* How many more a host may have, for as long as it is alone. */
static unsigned room_of_host(const struct gate *host, const struct gate *worker)
{
    uint64_t of_host = gate_free(host);
    uint64_t of_worker = gate_free(worker);
    if (of_worker == UINT_MAX)
        return (unsigned)of_host;
    if (!is_below_share(host->inside, (unsigned)of_worker))
        return 0;
    of_worker = (QUEUES_SHARE * of_worker - host->inside + QUEUES_SHARE) / (QUEUES_SHARE + 1);
    return (unsigned)(of_host < of_worker ? of_host : of_worker);
}

static struct queues_ticket *begin_first(struct queues *all, struct queue *q, uint64_t now)
{
    struct queues_ticket *ticket = q->first;
    q->first = ticket->next;
    if (!q->first)
        q->end = &q->first;
    q->inside++;
    gate_enter(&q->trigger->gate, now);
    gate_enter(&q->host->gate, now);
    gate_enter(&all->worker, now);
    return ticket;
}

static struct queues_ticket *next_of_host(struct queues *all, struct party *host, uint64_t now, uint64_t *due)
{
    struct queues_ticket *ticket = NULL;
    unsigned room = room_of_host(&host->gate, &all->worker);
    if (!room || !admits(&host->gate, now, due))
        return NULL;
    for (size_t n = host->n; n && !ticket; n--) {
        struct queue *q = (struct queue *)(void *)turns_take(&host->last, &host->n); /* its first member */
        if (admits(&q->trigger->gate, now, due) && is_below_share(q->inside, room))
            ticket = begin_first(all, q, now);
        if (q->first)
            turns_add(&host->last, &host->n, &q->turn);
    }
    return ticket;
}

struct queues_ticket *queues_next(struct queues *queues, uint64_t now_ns, uint64_t *ret_due_ns)
{
    struct queues_ticket *ticket = NULL;
    if (!queues->n || !admits(&queues->worker, now_ns, ret_due_ns))
        return NULL;
    for (size_t n = queues->n; n && !ticket; n--) {
        struct party *host = (struct party *)(void *)turns_take(&queues->last, &queues->n);
        ticket = next_of_host(queues, host, now_ns, ret_due_ns);
        if (host->n)
            turns_add(&queues->last, &queues->n, &host->turn);
    }
    return ticket;
}

void queues_leave(struct queues *queues, struct queues_ticket *ticket)
{
    struct queue *q = ticket->queue;
    q->inside--;
    gate_leave(&q->trigger->gate);
    gate_leave(&q->host->gate);
    gate_leave(&queues->worker);
    ticket->queue = NULL;
    queue_unref(queues, q);
}

/* --- life --- */

struct queues *queues_new(const struct queues_limit *worker)
{
    struct queues *all = calloc(1, sizeof *all);
    if (!all)
        return NULL;
    gate_limit(&all->worker, worker->max_inside, worker->rate);
    hash_init(&all->triggers);
    hash_init(&all->hosts);
    hash_init(&all->queues);
    return all;
}

static void free_values(struct hash_table *table)
{
    size_t cursor = 0;
    for (struct hash_entry *e; (e = hash_next(table, &cursor));)
        free(e->value);
    hash_done(table);
}

void queues_free(struct queues *queues)
{
    if (!queues)
        return;
    free_values(&queues->queues);
    free_values(&queues->hosts);
    free_values(&queues->triggers);
    free(queues);
}
