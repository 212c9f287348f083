#include "worker/source/sqs_hand.h"

#include <stdlib.h>
#include <string.h>

#include "common/error.h"

#define KEY_BYTES sizeof(struct consumed_id)

static void ring_init(struct sqs_link *head)
{
    head->next = head->previous = head;
}

static void ring_insert(struct sqs_link *before, struct sqs_link *link)
{
    link->next = before;
    link->previous = before->previous;
    before->previous->next = link;
    before->previous = link;
}

static void ring_remove(struct sqs_link *link)
{
    link->next->previous = link->previous;
    link->previous->next = link->next;
}

static struct sqs_entry *of_stage(const struct sqs_hand *hand, enum sqs_stage stage, struct sqs_link *link)
{
    return link == &hand->stage[stage] ? NULL : (struct sqs_entry *)link;
}

static struct sqs_entry *of_expiry(struct sqs_link *link)
{
    return (struct sqs_entry *)((char *)link - offsetof(struct sqs_entry, expiry_link));
}

void sqs_hand_init(struct sqs_hand *hand)
{
    *hand = (struct sqs_hand){0};
    hash_init(&hand->table);
    for (size_t i = 0; i < SQS_STAGES; i++)
        ring_init(&hand->stage[i]);
    ring_init(&hand->expiry);
}

static void entry_free(struct sqs_entry *entry)
{
    if (entry->receipt != entry->first)
        free(entry->receipt);
    free(entry->body);
    free(entry);
}

void sqs_hand_done(struct sqs_hand *hand)
{
    size_t cursor = 0;
    struct hash_entry *e;
    while ((e = hash_next(&hand->table, &cursor)))
        entry_free(e->value);
    hash_done(&hand->table);
    free(hand->epochs);
}

void sqs_hand_clear(struct sqs_hand *hand)
{
    sqs_hand_done(hand);
    sqs_hand_init(hand);
}

size_t sqs_hand_count(const struct sqs_hand *hand)
{
    return hand->table.count;
}

struct sqs_entry *sqs_hand_find(const struct sqs_hand *hand, const struct consumed_id *id)
{
    return hash_get(&hand->table, (const char *)id, KEY_BYTES);
}

struct sqs_entry *sqs_hand_first(const struct sqs_hand *hand, enum sqs_stage stage)
{
    return of_stage(hand, stage, hand->stage[stage].next);
}

struct sqs_entry *sqs_hand_next(const struct sqs_hand *hand, const struct sqs_entry *after)
{
    return of_stage(hand, after->stage, after->stage_link.next);
}

struct sqs_entry *sqs_hand_expiring(const struct sqs_hand *hand)
{
    for (struct sqs_link *link = hand->expiry.next; link != &hand->expiry; link = link->next) {
        struct sqs_entry *entry = of_expiry(link);
        if (!entry->extending && entry->stage != SQS_DELETING) /* a few at most are */
            return entry;
    }
    return NULL;
}

static void enter(struct sqs_hand *hand, struct sqs_entry *entry, enum sqs_stage stage, bool first)
{
    entry->stage = stage;
    hand->count[stage]++;
    ring_insert(first ? hand->stage[stage].next : &hand->stage[stage], &entry->stage_link);
}

static struct sqs_entry *entry_new(const struct consumed_id *id, const struct sqs_arrival *a)
{
    struct sqs_entry *entry = malloc(sizeof *entry + a->receipt_len);
    char *body = malloc(a->body_len + 1);
    if (!entry || !body) {
        free(entry);
        free(body);
        return NULL;
    }
    *entry = (struct sqs_entry){.id = *id,
                                .visible_ns = a->visible_ns,
                                .sent_ms = a->sent_ms,
                                .reloads = a->reloads,
                                .receipt = entry->first,
                                .receipt_len = a->receipt_len,
                                .body = body,
                                .body_len = a->body_len};
    memcpy(entry->first, a->receipt, a->receipt_len);
    memcpy(body, a->body, a->body_len);
    return entry;
}

int sqs_hand_add(struct sqs_hand *hand, const struct consumed_id *id, const struct sqs_arrival *arrival,
                 struct error *err)
{
    struct sqs_entry *entry = entry_new(id, arrival);
    if (!entry || hash_put(&hand->table, (const char *)&entry->id, KEY_BYTES, entry, NULL) < 0) {
        if (entry)
            entry_free(entry);
        return error_set(err, ERROR_MEMORY, "out of memory for a message");
    }
    hand->held_bytes += entry->body_len;
    enter(hand, entry, SQS_HELD, false);
    ring_insert(&hand->expiry, &entry->expiry_link);
    return 0;
}

void sqs_hand_extend(struct sqs_hand *hand, struct sqs_entry *entry, uint64_t visible_ns)
{
    entry->visible_ns = visible_ns;
    ring_remove(&entry->expiry_link);
    ring_insert(&hand->expiry, &entry->expiry_link);
}

int sqs_hand_renew(struct sqs_hand *hand, struct sqs_entry *entry, const struct sqs_arrival *arrival,
                   struct error *err)
{
    char *receipt = malloc(arrival->receipt_len + 1);
    if (!receipt)
        return error_set(err, ERROR_MEMORY, "out of memory for a message");
    memcpy(receipt, arrival->receipt, arrival->receipt_len);
    if (entry->receipt != entry->first)
        free(entry->receipt);
    entry->receipt = receipt;
    entry->receipt_len = arrival->receipt_len;
    entry->renewed = entry->stage == SQS_DELETING;
    sqs_hand_extend(hand, entry, arrival->visible_ns);
    if (entry->stage == SQS_LOST)
        sqs_hand_move(hand, entry, SQS_DUE, false);
    return 0;
}

void sqs_hand_move(struct sqs_hand *hand, struct sqs_entry *entry, enum sqs_stage stage, bool first)
{
    hand->count[entry->stage]--;
    ring_remove(&entry->stage_link);
    if (stage == SQS_DELETING)
        entry->renewed = false;
    if (stage == SQS_LOST) { /* its time is not ours to extend */
        ring_remove(&entry->expiry_link);
        ring_init(&entry->expiry_link);
    }
    enter(hand, entry, stage, first);
}

/* --- epochs --- */

int sqs_hand_reserve(struct sqs_hand *hand, struct error *err)
{
    if (hand->n_epochs < hand->epochs_cap)
        return 0;
    size_t cap = hand->epochs_cap ? hand->epochs_cap * 2 : 64;
    struct sqs_epoch *epochs = realloc(hand->epochs, cap * sizeof *epochs);
    if (!epochs)
        return error_set(err, ERROR_MEMORY, "out of memory for a message");
    hand->epochs = epochs;
    hand->epochs_cap = cap;
    return 0;
}

static void drop_body(struct sqs_hand *hand, struct sqs_entry *entry)
{
    hand->held_bytes -= entry->body_len;
    free(entry->body);
    entry->body = NULL;
    entry->body_len = 0;
}

void sqs_hand_delivered(struct sqs_hand *hand, struct sqs_entry *entry, uint64_t epoch)
{
    if (!hand->n_epochs || hand->epochs[hand->n_epochs - 1].epoch != epoch)
        hand->epochs[hand->n_epochs++] = (struct sqs_epoch){.epoch = epoch};
    hand->epochs[hand->n_epochs - 1].left++;
    drop_body(hand, entry);
    entry->epoch = epoch;
    sqs_hand_move(hand, entry, SQS_DELIVERED, false);
}

void sqs_hand_drop(struct sqs_hand *hand, struct sqs_entry *entry, uint64_t epoch)
{
    uint64_t last = hand->n_epochs ? hand->epochs[hand->n_epochs - 1].epoch : 0;
    if (epoch) { /* they ascend; the last one holds messages, so it will be committed */
        sqs_hand_delivered(hand, entry, epoch > last ? epoch : last);
        return;
    }
    drop_body(hand, entry);
    sqs_hand_move(hand, entry, SQS_DUE, false);
}

uint64_t sqs_hand_uncommitted(const struct sqs_hand *hand)
{
    const struct sqs_link *last = hand->stage[SQS_DELIVERED].previous;
    return last == &hand->stage[SQS_DELIVERED] ? 0 : ((const struct sqs_entry *)(const void *)last)->epoch;
}

void sqs_hand_committed(struct sqs_hand *hand, uint64_t epoch)
{
    struct sqs_entry *entry;
    while ((entry = sqs_hand_first(hand, SQS_DELIVERED)) && entry->epoch <= epoch)
        sqs_hand_move(hand, entry, SQS_DUE, false);
}

static void count_deleted(struct sqs_hand *hand, uint64_t epoch)
{
    size_t low = 0;
    size_t high = hand->n_epochs;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (hand->epochs[middle].epoch < epoch)
            low = middle + 1;
        else
            high = middle;
    }
    if (low < hand->n_epochs && hand->epochs[low].epoch == epoch)
        hand->epochs[low].left--;
}

void sqs_hand_remove(struct sqs_hand *hand, struct sqs_entry *entry)
{
    if (entry->epoch)
        count_deleted(hand, entry->epoch);
    hand->count[entry->stage]--;
    hand->held_bytes -= entry->body_len;
    ring_remove(&entry->stage_link);
    ring_remove(&entry->expiry_link);
    hash_remove(&hand->table, (const char *)&entry->id, KEY_BYTES);
    entry_free(entry);
}

uint64_t sqs_hand_settled(struct sqs_hand *hand, uint64_t committed)
{
    size_t n = 0;
    while (n < hand->n_epochs && !hand->epochs[n].left && hand->epochs[n].epoch <= committed)
        n++;
    if (!n)
        return 0;
    uint64_t epoch = hand->epochs[n - 1].epoch;
    hand->n_epochs -= n;
    memmove(hand->epochs, hand->epochs + n, hand->n_epochs * sizeof hand->epochs[0]);
    return epoch;
}
