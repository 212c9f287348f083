/* Invariants: ids have ordinals, which only grow; remembered are [first, last), the last `open` of them are
 * of the open chunk. They lie in blocks, found by their ordinal modulo POSITIONS. The index has one slot for
 * each distinct identity, which names the position (plus 1; 0: empty) of its last occurrence; `extra` counts
 * the others. So the slot of an identity goes with its last occurrence, whose position it names. Occurrences
 * from `begun` on are of this connection; where an identity has more than one, `fresh` counts those of them.
 *
 * The index consists of parts that grow one by one, so that no second copy of all of it is ever needed; an
 * id is hashed anew under a random seed, so that nobody who chooses messages can choose collisions. Ids lie
 * far apart in memory: a slot's tag, a few bits of the hash, mostly tells without a look at the id. */
#include "worker/source/consumed.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <openssl/evp.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "common/buffer.h"
#include "common/clock.h"
#include "common/error.h"
#include "worker/checkpoint/changes.h"
#include "worker/source/source.h"
#include "worker/source/tally.h"

#define BLOCK 4096u       /* ids */
#define BLOCKS (1u << 17) /* at most; the array costs memory only where it is used */
#define POSITIONS (BLOCK * BLOCKS)
#define PARTS 64u
#define PART_FIRST 16u
#define PART_DOUBLES 8192u   /* below that a part doubles; then memory counts more than time */
#define DELETES_AT_ONCE 1000 /* of expired chunks, in one checkpoint */
#define EPOCH_DIGITS 20
#define TEXT_IDS 96 /* coded at a time: as bytes a multiple of 3 */
#define NEVER UINT64_MAX

/* An identity as it is remembered. */
struct kept_id {
    uint32_t words[3];
};

struct part {
    uint32_t *slots; /* and the tags, in the same memory */
    uint8_t *tags;   /* 0: the slot is empty */
    uint32_t size;
    uint32_t used;
};

struct chunk {
    uint64_t epoch;
    uint64_t until_ns; /* NEVER: not settled */
    size_t n;
};

struct consumed {
    uint64_t seed;  /* of identities */
    uint64_t index; /* seed of the index */
    size_t max;
    struct kept_id **blocks; /* BLOCKS */
    uint64_t first;
    uint64_t last;
    uint64_t begun; /* the connection */
    size_t open;
    size_t settled; /* ids in settled chunks */
    struct part parts[PARTS];
    struct tally extra;
    struct tally fresh;
    struct tally taken;    /* of the others */
    struct tally restored; /* epochs, until the first checkpoint */
    uint64_t restored_epoch;
    struct chunk *chunks; /* a ring of a power of two */
    size_t chunks_capacity;
    uint64_t first_chunk;
    uint64_t kept_chunk;      /* the first that is not forgotten; those before it are to be deleted */
    uint64_t unsettled_chunk; /* the first that is not settled */
    uint64_t last_chunk;
};

/* --- life --- */

int consumed_new(const char *creation, size_t max, struct consumed **ret_consumed, struct error *err)
{
    struct consumed *c = calloc(1, sizeof *c);
    if (!c || !(c->blocks = calloc(BLOCKS, sizeof *c->blocks))) {
        free(c);
        return error_set(err, ERROR_MEMORY, "out of memory");
    }
    c->seed = XXH3_64bits(creation, strlen(creation));
    c->max = max < POSITIONS - BLOCK ? max : POSITIONS - BLOCK;
    if (getrandom(&c->index, sizeof c->index, 0) != sizeof c->index)
        c->index = (uint64_t)(uintptr_t)c;
    tally_init(&c->extra, c->index);
    tally_init(&c->fresh, c->index);
    tally_init(&c->taken, c->index);
    tally_init(&c->restored, c->index);
    *ret_consumed = c;
    return 0;
}

void consumed_free(struct consumed *consumed)
{
    if (!consumed)
        return;
    for (unsigned i = 0; i < BLOCKS && consumed->last; i++)
        free(consumed->blocks[i]);
    for (unsigned i = 0; i < PARTS; i++)
        free(consumed->parts[i].slots);
    tally_clear(&consumed->extra);
    tally_clear(&consumed->fresh);
    tally_clear(&consumed->taken);
    tally_clear(&consumed->restored);
    free(consumed->blocks);
    free(consumed->chunks);
    free(consumed);
}

struct consumed_id consumed_identity(const struct consumed *consumed, const struct consumed_id *before,
                                     const void *data, size_t len)
{
    XXH128_hash_t h = XXH3_128bits_withSeed(data, len, consumed->seed);
    struct consumed_id id = {h.low64, h.high64};
    if (before) {
        id.low += before->low * 0x9E3779B97F4A7C15u;
        id.high += before->high * 0xC2B2AE3D27D4EB4Fu;
    }
    id.high &= UINT32_MAX;
    return id;
}

static uint64_t mix(const struct consumed *c, const struct consumed_id *id)
{
    return XXH3_64bits_withSeed(id, sizeof *id, c->index);
}

/* --- the index --- */

static uint32_t position_of(uint64_t ordinal)
{
    return (uint32_t)(ordinal & (POSITIONS - 1));
}

static uint64_t ordinal_of(const struct consumed *c, uint32_t position)
{
    return c->first + ((position - position_of(c->first)) & (POSITIONS - 1));
}

static struct consumed_id id_at(const struct consumed *c, uint32_t position)
{
    const uint32_t *words = c->blocks[position / BLOCK][position % BLOCK].words;
    return (struct consumed_id){.low = words[0] | (uint64_t)words[1] << 32, .high = words[2]};
}

static void keep_id(struct consumed *c, uint32_t position, const struct consumed_id *id)
{
    c->blocks[position / BLOCK][position % BLOCK] =
        (struct kept_id){{(uint32_t)id->low, (uint32_t)(id->low >> 32), (uint32_t)id->high}};
}

static bool is_at(const struct consumed *c, uint32_t position, const struct consumed_id *id)
{
    struct consumed_id kept = id_at(c, position);
    return consumed_id_equal(&kept, id);
}

static uint64_t mix_at(const struct consumed *c, uint32_t position)
{
    struct consumed_id id = id_at(c, position);
    return mix(c, &id);
}

static struct part *part_of(struct consumed *c, uint64_t hash)
{
    return &c->parts[hash >> 58];
}

static uint32_t home(const struct part *p, uint64_t hash)
{
    return (uint32_t)(((hash & UINT32_MAX) * p->size) >> 32);
}

static uint32_t next_slot(const struct part *p, uint32_t at)
{
    return at + 1 == p->size ? 0 : at + 1;
}

static uint8_t tag_of(uint64_t hash)
{
    uint8_t tag = (uint8_t)(hash >> 32);
    return tag ? tag : 1;
}

/* The slot of the id, or the empty one where it would be. */
static uint32_t find(const struct consumed *c, const struct part *p, uint64_t hash,
                     const struct consumed_id *id)
{
    uint8_t tag = tag_of(hash);
    uint32_t at = home(p, hash);
    while (p->tags[at] && (p->tags[at] != tag || !is_at(c, p->slots[at] - 1, id)))
        at = next_slot(p, at);
    return at;
}

static void set_slot(struct part *p, uint32_t at, uint32_t position, uint8_t tag)
{
    p->slots[at] = position + 1;
    p->tags[at] = tag;
}

static int part_reserve(const struct consumed *c, struct part *p)
{
    if (p->size && p->used + 1 <= p->size - p->size / 4)
        return 0;
    uint32_t more = p->size < PART_DOUBLES ? p->size : p->size / 4;
    struct part grown = {.size = p->size ? p->size + more : PART_FIRST, .used = p->used};
    grown.slots = calloc(grown.size, sizeof *grown.slots + sizeof *grown.tags);
    if (!grown.slots)
        return -1;
    grown.tags = (uint8_t *)(grown.slots + grown.size);
    for (uint32_t i = 0; i < p->size; i++) {
        if (!p->tags[i])
            continue;
        uint64_t hash = mix_at(c, p->slots[i] - 1);
        uint32_t at = home(&grown, hash); /* all ids differ */
        while (grown.tags[at])
            at = next_slot(&grown, at);
        set_slot(&grown, at, p->slots[i] - 1, p->tags[i]);
    }
    free(p->slots);
    *p = grown;
    return 0;
}

static void part_remove(const struct consumed *c, struct part *p, uint32_t hole)
{
    p->used--;
    p->tags[hole] = 0;
    for (uint32_t at = next_slot(p, hole); p->tags[at]; at = next_slot(p, at)) {
        uint32_t wanted = home(p, mix_at(c, p->slots[at] - 1));
        uint32_t from_home = at >= wanted ? at - wanted : at + p->size - wanted;
        uint32_t from_hole = at >= hole ? at - hole : at + p->size - hole;
        if (from_home < from_hole)
            continue; /* it would come before its home */
        set_slot(p, hole, p->slots[at] - 1, p->tags[at]);
        p->tags[at] = 0;
        hole = at;
    }
}

/* --- consuming --- */

size_t consumed_count(const struct consumed *consumed)
{
    return (size_t)(consumed->last - consumed->first);
}

size_t consumed_unsettled(const struct consumed *consumed)
{
    return consumed_count(consumed) - consumed->settled;
}

void consumed_expect(const struct consumed *consumed, const struct consumed_id *id)
{
    uint64_t hash = mix(consumed, id);
    const struct part *p = &consumed->parts[hash >> 58];
    if (!p->size)
        return;
    uint32_t at = home(p, hash);
    __builtin_prefetch(&p->tags[at]);
    __builtin_prefetch(&p->slots[at], 1);
}

int consumed_reserve(struct consumed *consumed, const struct consumed_id *id, struct error *err)
{
    struct consumed *c = consumed;
    struct kept_id **block = &c->blocks[position_of(c->last) / BLOCK];
    if (consumed_count(c) >= POSITIONS - BLOCK)
        return error_set(err, ERROR_LIMIT, "%zu messages wait for their acknowledgement", consumed_count(c));
    if ((!*block && !(*block = malloc(BLOCK * sizeof **block))) ||
        part_reserve(c, part_of(c, mix(c, id))) < 0 || tally_reserve(&c->extra) < 0 ||
        tally_reserve(&c->fresh) < 0)
        return error_set(err, ERROR_MEMORY, "out of memory for the identities of %zu messages",
                         consumed_count(c));
    return 0;
}

bool consumed_add(struct consumed *consumed, const struct consumed_id *id)
{
    struct consumed *c = consumed;
    uint32_t position = position_of(c->last++);
    uint64_t hash = mix(c, id);
    struct part *p = part_of(c, hash);
    assert(c->blocks[position / BLOCK] && p->slots);
    uint32_t slot = find(c, p, hash, id);
    bool again = p->tags[slot];
    if (again) {
        if (!tally_get(&c->extra, id) && ordinal_of(c, p->slots[slot] - 1) >= c->begun)
            tally_add(&c->fresh, id); /* the one that was alone */
        tally_add(&c->fresh, id);
        tally_add(&c->extra, id);
    } else {
        p->used++;
    }
    keep_id(c, position, id);
    set_slot(p, slot, position, tag_of(hash));
    c->open++;
    return again;
}

bool consumed_has(const struct consumed *consumed, const struct consumed_id *id)
{
    uint64_t hash = mix(consumed, id);
    const struct part *p = &consumed->parts[hash >> 58];
    return p->used && p->tags[find(consumed, p, hash, id)];
}

/* How often the id is there, and how many of those are of this connection. */
static uint64_t occurrences(const struct consumed *c, const struct consumed_id *id, uint64_t *ret_fresh)
{
    uint64_t hash = mix(c, id);
    const struct part *p = &c->parts[hash >> 58];
    uint32_t slot = p->used ? find(c, p, hash, id) : 0;
    *ret_fresh = 0;
    if (!p->used || !p->tags[slot])
        return 0;
    uint64_t n = tally_get(&c->extra, id) + 1;
    *ret_fresh = n > 1 ? tally_get(&c->fresh, id) : ordinal_of(c, p->slots[slot] - 1) >= c->begun;
    return n;
}

bool consumed_since(const struct consumed *consumed, const struct consumed_id *id)
{
    uint64_t fresh;
    occurrences(consumed, id, &fresh);
    return fresh > 0;
}

int consumed_take(struct consumed *consumed, const struct consumed_id *id, struct error *err)
{
    struct consumed *c = consumed;
    uint64_t fresh;
    uint64_t n = occurrences(c, id, &fresh);
    if (n - fresh <= tally_get(&c->taken, id))
        return CONSUMED_NEW;
    if (tally_reserve(&c->taken) < 0)
        return error_set(err, ERROR_MEMORY, "out of memory");
    tally_add(&c->taken, id);
    return CONSUMED_TAKEN;
}

void consumed_rewind(struct consumed *consumed)
{
    tally_clear(&consumed->fresh);
    tally_clear(&consumed->taken);
    consumed->begun = consumed->last;
}

static void forget_first(struct consumed *c)
{
    bool fresh = c->first >= c->begun;
    uint32_t position = position_of(c->first);
    struct consumed_id id = id_at(c, position);
    uint64_t hash = mix(c, &id);
    struct part *p = part_of(c, hash);
    tally_take(fresh ? &c->fresh : &c->taken, &id); /* the oldest comes again first: it is the one taken */
    if (!tally_take(&c->extra, &id))
        part_remove(c, p, find(c, p, hash, &id));
    else if (!tally_get(&c->extra, &id)) /* one is left, whose place says what it is */
        tally_take(&c->fresh, &id);
    c->first++;
    if (position % BLOCK == BLOCK - 1) {
        free(c->blocks[position / BLOCK]);
        c->blocks[position / BLOCK] = NULL;
    }
}

/* --- chunks --- */

static struct chunk *chunk_at(const struct consumed *c, uint64_t at)
{
    return &c->chunks[at & (c->chunks_capacity - 1)];
}

static int chunk_add(struct consumed *c, uint64_t epoch, size_t n)
{
    if (c->last_chunk - c->first_chunk == c->chunks_capacity) {
        size_t capacity = c->chunks_capacity ? c->chunks_capacity * 2 : 64;
        struct chunk *chunks = malloc(capacity * sizeof *chunks);
        if (!chunks)
            return -1;
        for (uint64_t i = c->first_chunk; i < c->last_chunk; i++)
            chunks[i & (capacity - 1)] = *chunk_at(c, i);
        free(c->chunks);
        c->chunks = chunks;
        c->chunks_capacity = capacity;
    }
    *chunk_at(c, c->last_chunk++) = (struct chunk){.epoch = epoch, .until_ns = NEVER, .n = n};
    return 0;
}

static int write_key(const char *source, uint64_t epoch, struct buffer *out)
{
    buffer_reset(out, 1024);
    buffer_append_text(out, CONSUMED_FIELD);
    buffer_append_text(out, source);
    buffer_printf(out, ":%0*llu", EPOCH_DIGITS, (unsigned long long)epoch);
    return out->failed ? -1 : 0;
}

/* "<unix seconds> <base64 of the ids>" */
static int write_chunk(const struct consumed *c, const char *source, uint64_t epoch, struct changes *out)
{
    struct consumed_id ids[TEXT_IDS];
    BUFFER_AUTO key = BUFFER_INIT;
    if (write_key(source, epoch, &key) < 0)
        return -1;
    struct buffer *b = changes_begin(out, STORAGE_CHECKPOINT, STORAGE_PUT, key.data, key.len, "", 0);
    buffer_printf(b, "%llu ", (unsigned long long)(clock_unix_ns() / CLOCK_S));
    for (uint64_t at = c->last - c->open; at < c->last;) {
        size_t n = 0;
        while (n < TEXT_IDS && at < c->last)
            ids[n++] = id_at(c, position_of(at++));
        buffer_append_base64(b, ids, n * sizeof ids[0]);
    }
    changes_end(out);
    return 0;
}

static bool next_expires(const struct consumed *c, uint64_t now_ns)
{
    return c->kept_chunk < c->unsettled_chunk &&
           (chunk_at(c, c->kept_chunk)->until_ns <= now_ns || consumed_count(c) > c->max);
}

void consumed_expire(struct consumed *consumed, uint64_t now_ns)
{
    struct consumed *c = consumed;
    while (next_expires(c, now_ns)) {
        const struct chunk *chunk = chunk_at(c, c->kept_chunk++);
        for (size_t n = chunk->n; n; n--)
            forget_first(c);
        c->settled -= chunk->n;
    }
}

static int delete_expired(struct consumed *c, const char *source, struct changes *out)
{
    BUFFER_AUTO key = BUFFER_INIT;
    for (unsigned i = 0; i < DELETES_AT_ONCE && c->first_chunk < c->kept_chunk; i++) {
        if (write_key(source, chunk_at(c, c->first_chunk)->epoch, &key) < 0)
            return -1;
        changes_delete(out, STORAGE_CHECKPOINT, key.data, key.len);
        c->first_chunk++;
    }
    return 0;
}

void consumed_cut(struct consumed *consumed, struct source *source, uint64_t now_ns)
{
    struct consumed *c = consumed;
    struct changes *out = &source->changes[source->filling];
    tally_clear(&c->restored);
    consumed_expire(c, now_ns);
    if (delete_expired(c, source->name, out) < 0)
        out->text.failed = true;
    if (!c->open)
        return;
    if (chunk_add(c, source->filling_epoch, c->open) < 0 ||
        write_chunk(c, source->name, source->filling_epoch, out) < 0)
        out->text.failed = true;
    c->open = 0;
}

void consumed_settled(struct consumed *consumed, uint64_t epoch, uint64_t until_ns)
{
    struct consumed *c = consumed;
    for (uint64_t i = c->kept_chunk; !until_ns && i < c->unsettled_chunk; i++)
        chunk_at(c, i)->until_ns = 0; /* they come before, and would hold up the others */
    for (; c->unsettled_chunk < c->last_chunk; c->unsettled_chunk++) {
        struct chunk *chunk = chunk_at(c, c->unsettled_chunk);
        if (chunk->epoch > epoch)
            return;
        chunk->until_ns = until_ns;
        c->settled += chunk->n;
    }
}

void consumed_shorten(struct consumed *consumed, uint64_t after, uint64_t epoch, uint64_t until_ns)
{
    struct consumed *c = consumed;
    for (uint64_t i = c->unsettled_chunk; i-- > c->kept_chunk;) {
        struct chunk *chunk = chunk_at(c, i);
        if (chunk->epoch > epoch)
            continue;
        if (chunk->epoch <= after || chunk->until_ns <= until_ns)
            return;
        chunk->until_ns = until_ns;
    }
}

/* --- recovery --- */

bool consumed_field(const char *key, size_t key_len, size_t *ret_source_len, uint64_t *ret_epoch)
{
    const size_t prefix = sizeof CONSUMED_FIELD - 1;
    uint64_t epoch = 0;
    if (key_len < prefix + 1 + EPOCH_DIGITS || memcmp(key, CONSUMED_FIELD, prefix) != 0)
        return false;
    const char *digits = key + key_len - EPOCH_DIGITS;
    if (digits[-1] != ':')
        return false;
    for (size_t i = 0; i < EPOCH_DIGITS; i++) {
        if (digits[i] < '0' || digits[i] > '9')
            return false;
        epoch = epoch * 10 + (uint64_t)(digits[i] - '0');
    }
    *ret_source_len = key_len - prefix - 1 - EPOCH_DIGITS;
    *ret_epoch = epoch;
    return true;
}

/* The length of the number and the space behind it; 0: not a chunk. */
static size_t read_time(const char *value, size_t len, uint64_t *ret_time)
{
    uint64_t time = 0;
    size_t i = 0;
    for (; i < len && i < EPOCH_DIGITS - 1 && value[i] >= '0' && value[i] <= '9'; i++)
        time = time * 10 + (uint64_t)(value[i] - '0');
    if (!i || i >= len || value[i] != ' ')
        return 0;
    *ret_time = time;
    return i + 1;
}

uint64_t consumed_field_time(const char *value, size_t len)
{
    uint64_t time = 0;
    read_time(value, len, &time);
    return time;
}

/* Decodes up to TEXT_IDS ids from the text; how many, or -1: it is no base64, or not of whole ids. */
static int decode(const char *text, size_t len, struct consumed_id ids[TEXT_IDS])
{
    unsigned char bytes[TEXT_IDS * sizeof *ids + 4];
    size_t padding = 0;
    if (len % 4)
        return -1;
    while (padding < 2 && padding < len && text[len - 1 - padding] == '=')
        padding++;
    if (EVP_DecodeBlock(bytes, (const unsigned char *)text, (int)len) != (int)(len / 4 * 3))
        return -1;
    size_t n = len / 4 * 3 - padding;
    if (n % sizeof *ids)
        return -1;
    memcpy(ids, bytes, n);
    for (size_t i = 0; i < n / sizeof *ids; i++)
        ids[i].high &= UINT32_MAX;
    return (int)(n / sizeof *ids);
}

static int restore_ids(struct consumed *c, const char *text, size_t len, struct error *err)
{
    const size_t step = TEXT_IDS * sizeof(struct consumed_id) / 3 * 4;
    struct consumed_id ids[TEXT_IDS];
    for (size_t at = 0; at < len; at += step) {
        int n = decode(text + at, len - at < step ? len - at : step, ids);
        if (n < 0)
            return error_set(err, ERROR_INVALID, "is damaged at byte %zu", at);
        for (int i = 0; i < n; i++) {
            if (consumed_reserve(c, &ids[i], err) < 0)
                return -1;
            consumed_add(c, &ids[i]);
        }
    }
    return 0;
}

int consumed_restore(struct consumed *consumed, const char *key, size_t key_len, const char *value,
                     size_t len, struct error *err)
{
    struct consumed *c = consumed;
    size_t source_len;
    uint64_t time;
    struct consumed_id mark = {0};
    size_t head = read_time(value, len, &time);
    int shown = (int)(key_len < 100 ? key_len : 100);
    if (!consumed_field(key, key_len, &source_len, &mark.low) || !head)
        return error_set(err, ERROR_INVALID, "stored field %.*s is not one of consumed messages", shown, key);
    if (tally_get(&c->restored, &mark))
        return 0;
    if (restore_ids(c, value + head, len - head, err) < 0)
        return error_prefix(err, "stored field %.*s", shown, key);
    if (tally_reserve(&c->restored) < 0 || chunk_add(c, mark.low, c->open) < 0)
        return error_set(err, ERROR_MEMORY, "out of memory");
    tally_add(&c->restored, &mark);
    c->open = 0;
    if (mark.low > c->restored_epoch)
        c->restored_epoch = mark.low;
    return 0;
}

uint64_t consumed_restored(const struct consumed *consumed)
{
    return consumed->restored_epoch;
}
