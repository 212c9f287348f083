/* The bytes of an XREAD reply, as a hostile server sends them, through both readers: what the frame scanner
 * says of the reply's end and last entry, however the bytes come in pieces, must be what hiredis and the
 * batch find there. The first byte is the size of the pieces. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "worker/source/redis_batch.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void insist(int holds)
{
    if (!holds)
        abort();
}

/* The scanner's verdict when the bytes come in pieces. */
static int scan(const char *text, size_t len, size_t piece, struct redis_frame *frame)
{
    int r = 1;
    for (size_t at = 0; at < len && r == 1;) {
        at = len - at < piece ? len : at + piece;
        r = redis_frame_scan(frame, text, at);
    }
    return r;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct redis_frame frame = {0};
    struct redis_frame at_once = {0};
    struct redis_batch batch = {0};
    void *reply = NULL;
    if (size < 2)
        return 0;
    const char *text = (const char *)data + 1;
    int r = scan(text, size - 1, (size_t)data[0] + 1, &frame);
    insist(r == redis_frame_scan(&at_once, text, size - 1));
    insist(frame.n_entries == at_once.n_entries || r < 0);
    redis_batch_begin(&batch);
    redisReader *reader = redisReaderCreate();
    reader->fn = redis_batch_functions();
    reader->privdata = &batch;
    int parsed = redisReaderFeed(reader, text, r == 0 ? frame.at : size - 1);
    if (parsed == REDIS_OK)
        parsed = redisReaderGetReply(reader, &reply);
    if (r == 0 && parsed == REDIS_OK) {
        insist(reply != NULL);
        insist(reader->pos == reader->len);
        insist(frame.n_entries == batch.n_entries);
        if (frame.n_entries) {
            struct redis_id last = batch.entries[batch.n_entries - 1].id;
            struct redis_id seen = redis_frame_last(&frame, text);
            insist(last.ms == seen.ms && last.seq == seen.seq);
        }
    }
    redisReaderFree(reader);
    redis_batch_done(&batch);
    return 0;
}
