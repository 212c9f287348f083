/* Memory that is freed as a whole: what one parse or one evaluation needs along the way. Thread: one at a
 * time.
 */
#pragma once

#include <stddef.h>

struct buffer;
struct pool_block;

struct pool {
    struct pool_block *blocks;
    char *at;
    size_t left; /* bytes behind at */
};

#define POOL_INIT     \
    {                 \
        NULL, NULL, 0 \
    }

/* n bytes, zeroed, aligned for anything; NULL when memory ran out. */
void *pool_alloc(struct pool *pool, size_t n);
/* Takes the buffer's memory, which is then empty; the text stays where it is until pool_done. NULL when
 * memory ran out, now or while the buffer was filled. */
const char *pool_take(struct pool *pool, struct buffer *buffer);
void pool_done(struct pool *pool); /* frees all; the pool may be used again */

static inline void pool_cleanup(struct pool *pool)
{
    pool_done(pool);
}
/* A local that frees itself. */
#define POOL_AUTO __attribute__((cleanup(pool_cleanup))) struct pool
