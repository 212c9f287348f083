/* The reply reading path of common/redis: bytes of a hostile server, with hiredis' replies and with a reader
 * of our own. The first byte chooses the reader; the rest comes through a socket, then the end of file. */
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/error.h"
#include "common/redis.h"

#define BYTES_MAX 65536 /* fits the socket's buffer */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The sum of all strings, so that a sanitizer sees every byte being read. */
struct sum {
    size_t value;
};

static void *sum_string(const redisReadTask *task, char *text, size_t len)
{
    struct sum *sum = task->privdata;
    for (size_t i = 0; i < len; i++)
        sum->value += (unsigned char)text[i];
    return sum;
}

static void *sum_array(const redisReadTask *task, int elements)
{
    ((struct sum *)task->privdata)->value += (size_t)elements;
    return task->privdata;
}

static void *sum_integer(const redisReadTask *task, long long value)
{
    (void)value;
    return task->privdata;
}

static void *sum_nil(const redisReadTask *task)
{
    return task->privdata;
}

static void sum_free(void *object)
{
    (void)object;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static redisReplyObjectFunctions functions = {sum_string, sum_array, sum_integer, sum_nil, sum_free};
    struct sum sum = {0};
    struct redis *redis = NULL;
    struct error err;
    int fds[2];
    if (size < 1 || size > BYTES_MAX ||
        socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) < 0)
        return 0;
    bool custom = data[0] & 1;
    bool sent = send(fds[1], data + 1, size - 1, MSG_NOSIGNAL) == (ssize_t)(size - 1);
    close(fds[1]);
    if (redis_attach(fds[0], &redis, &err) < 0)
        return 0;
    if (sent && (!custom || redis_set_reader(redis, &functions, &sum, &err) == 0)) {
        void *reply = NULL;
        int rc;
        while ((rc = redis_receive(redis, &reply, &err)) >= 0)
            if (rc == 0 && !custom)
                freeReplyObject(reply);
        if (!redis_broken(redis))
            abort();
    }
    redis_free(redis);
    return 0;
}
