#include "common/pool.h"

#include <stdlib.h>
#include <string.h>

#include "common/buffer.h"

#define ALIGNMENT 16
#define BLOCK_BYTES 1024

/* A block of ours, or the note of memory that was taken. */
struct pool_block {
    struct pool_block *next;
    void *taken;
    _Alignas(ALIGNMENT) char data[];
};

static struct pool_block *add_block(struct pool *pool, size_t bytes)
{
    struct pool_block *block = malloc(sizeof *block + bytes);
    if (!block)
        return NULL;
    block->taken = NULL;
    block->next = pool->blocks;
    pool->blocks = block;
    return block;
}

void *pool_alloc(struct pool *pool, size_t n)
{
    if (n > SIZE_MAX / 2)
        return NULL;
    n = (n + !n + ALIGNMENT - 1) & ~(size_t)(ALIGNMENT - 1);
    if (n > pool->left) {
        size_t bytes = n > BLOCK_BYTES / 2 ? n : BLOCK_BYTES;
        struct pool_block *block = add_block(pool, bytes);
        if (!block)
            return NULL;
        if (bytes == n) /* a block of its own; the present one is used on */
            return memset(block->data, 0, n);
        pool->at = block->data;
        pool->left = bytes;
    }
    void *memory = memset(pool->at, 0, n);
    pool->at += n;
    pool->left -= n;
    return memory;
}

const char *pool_take(struct pool *pool, struct buffer *buffer)
{
    if (buffer->failed || !buffer_reserve(buffer, 1))
        return NULL;
    struct pool_block *block = add_block(pool, 0);
    if (!block)
        return NULL;
    block->taken = buffer->data;
    *buffer = (struct buffer)BUFFER_INIT;
    return block->taken;
}

void pool_done(struct pool *pool)
{
    while (pool->blocks) {
        struct pool_block *block = pool->blocks;
        pool->blocks = block->next;
        free(block->taken);
        free(block);
    }
    *pool = (struct pool)POOL_INIT;
}
