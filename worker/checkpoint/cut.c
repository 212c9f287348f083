#include "worker/checkpoint/cut.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "worker/checkpoint/recovery.h"
#include "worker/shard/shard.h"
#include "worker/source/source.h"
#include "worker/worker.h"

void cut_done(struct cut *cut)
{
    for (unsigned i = 0; i < ARENA_MAX_SOURCES; i++)
        buffer_done(&cut->position[i]);
    changes_done(&cut->changes);
    buffer_done(&cut->numbers);
    free(cut->ops);
}

static void collect_positions(struct cut *c)
{
    for (unsigned i = 0; i < ARENA_MAX_SOURCES; i++) {
        struct source *s = c->worker->sources[i];
        struct buffer *p = &c->position[i];
        if (!s || !s->consume || !p->len)
            continue;
        if (s->stored_position.len == p->len && !memcmp(s->stored_position.data, p->data, p->len))
            continue;
        BUFFER_AUTO field = BUFFER_INIT;
        recovery_position_field(s, &field);
        changes_put(&c->changes, STORAGE_CHECKPOINT, field.data, field.len, p->data, p->len);
        buffer_reset(&s->stored_position, 4096);
        buffer_append(&s->stored_position, p->data, p->len);
    }
}

static int append_ops(struct cut *c, const struct changes *changes, size_t *n, struct error *err)
{
    if (changes->text.failed)
        return error_set(err, ERROR_MEMORY, "out of memory while collecting a checkpoint");
    if (*n + changes->n > c->ops_cap) {
        size_t cap = (*n + changes->n) * 2;
        struct storage_op *ops = realloc(c->ops, cap * sizeof *ops);
        if (!ops)
            return error_set(err, ERROR_MEMORY, "out of memory for a checkpoint of %zu changes",
                             *n + changes->n);
        c->ops = ops;
        c->ops_cap = cap;
    }
    changes_ops(changes, c->ops + *n);
    *n += changes->n;
    return 0;
}

static uint64_t letter_bytes(const struct changes *changes)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < changes->n; i++)
        if (changes->items[i].set == STORAGE_DEAD_LETTERS && !changes->items[i].key_len)
            bytes += changes->items[i].value_len;
    return bytes;
}

/* Keeps the stored size of all dead letters in step; before the operations are gathered. */
static void count_dead_letters(struct cut *c, uint64_t epoch)
{
    char text[24];
    uint64_t bytes = letter_bytes(&c->changes);
    for (unsigned i = 0; i < c->worker->n_shards; i++)
        bytes += letter_bytes(&shard_cut(c->worker->shards[i], epoch)->changes);
    for (unsigned i = 0; i < ARENA_MAX_SOURCES; i++)
        if (c->worker->sources[i])
            bytes += letter_bytes(&c->worker->sources[i]->changes[c->worker->sources[i]->filling ^ 1]);
    if (!bytes && !c->dead_letters_removed)
        return;
    uint64_t removed = c->dead_letters_removed;
    c->dead_letters_removed = 0;
    c->dead_letter_bytes -= removed < c->dead_letter_bytes ? removed : c->dead_letter_bytes;
    c->dead_letter_bytes += bytes;
    int len = snprintf(text, sizeof text, "%llu", (unsigned long long)c->dead_letter_bytes);
    changes_put(&c->changes, STORAGE_CHECKPOINT, "dead_letter_bytes", 17, text, (size_t)len);
}

/* Gives dead letters their numbers, <epoch>-<index>. */
static void number_dead_letters(struct cut *c, uint64_t epoch, size_t n_ops)
{
    enum { WIDTH = 29 };
    size_t n = 0;
    for (size_t i = 0; i < n_ops; i++)
        n += c->ops[i].set == STORAGE_DEAD_LETTERS && !c->ops[i].key_len;
    buffer_reset(&c->numbers, 1 << 16);
    char *text = buffer_reserve(&c->numbers, n * (WIDTH + 1));
    if (!text)
        abort(); /* letters must not be lost: start again from the last checkpoint */
    for (size_t i = 0, number = 0; number < n; i++) {
        struct storage_op *op = &c->ops[i];
        if (op->set != STORAGE_DEAD_LETTERS || op->key_len)
            continue;
        op->key_len = (size_t)snprintf(text, WIDTH + 1, "%020llu-%08zu", (unsigned long long)epoch, number++);
        op->key = text;
        text += WIDTH + 1;
    }
    arena_add(&c->worker->arena->worker.dead_letters, n);
}

int cut_gather(struct cut *cut, uint64_t epoch, struct error *err)
{
    struct worker *w = cut->worker;
    size_t n = 0;
    collect_positions(cut);
    count_dead_letters(cut, epoch);
    for (unsigned i = 0; i < w->n_shards; i++)
        if (append_ops(cut, &shard_cut(w->shards[i], epoch)->changes, &n, err) < 0)
            return -1;
    for (unsigned i = 0; i < ARENA_MAX_SOURCES; i++) {
        struct source *s = w->sources[i];
        if (s && s->consume && append_ops(cut, &s->changes[s->filling ^ 1], &n, err) < 0)
            return -1;
    }
    if (append_ops(cut, &cut->changes, &n, err) < 0)
        return -1;
    number_dead_letters(cut, epoch, n);
    cut->n_ops = n;
    return 0;
}

uint64_t cut_log_consumed(const struct cut *cut)
{
    return cut->log_passed == cut->log_committed ? 0 : cut->log_passed;
}

void cut_committed(struct cut *cut)
{
    cut->log_committed = cut->log_passed;
    changes_reset(&cut->changes);
}
