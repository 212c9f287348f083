/* What is stored of a Kafka topic's positions, and the text by which an adoption begins. What is read is
 * written and read as the same again. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/buffer.h"
#include "common/error.h"
#include "common/json.h"
#include "worker/source/kafka_partitions.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void insist(int holds)
{
    if (!holds)
        abort();
}

static void compare(const struct kafka_partitions *p)
{
    struct kafka_partitions again = {0};
    struct json_value root, member;
    BUFFER_AUTO out = BUFFER_INIT;
    buffer_append_char(&out, '{');
    kafka_partitions_write(p, &out);
    buffer_append_char(&out, '}');
    insist(json_scan(out.data, out.len, &root, NULL) == 0 && json_member(&root, "partitions", &member));
    insist(kafka_partitions_read(&again, &member, NULL) == 0 && again.n <= p->n);
    for (size_t i = 0; i < p->n; i++)
        insist(i < again.n ? p->list[i].next == again.list[i].next && p->list[i].last == again.list[i].last &&
                                 p->list[i].timestamp == again.list[i].timestamp
                           : p->list[i].next < 0);
    kafka_partitions_done(&again);
}

static void read_positions(const char *text, size_t size)
{
    struct kafka_partitions p = {0};
    struct json_value root;
    struct error err;
    if (json_scan(text, size, &root, NULL) == 0 && kafka_partitions_read(&p, &root, &err) == 0)
        compare(&p);
    kafka_partitions_done(&p);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    enum kafka_from from;
    struct error err;
    char *text = malloc(size + 1); /* its own, so that reading past it is found */
    if (!text)
        return 0;
    memcpy(text, data, size);
    text[size] = '\0';
    read_positions(text, size);
    if (kafka_from_read(text, &from, &err) == 0 && from == KAFKA_FROM_LIST)
        for (size_t i = 0; i < 4; i++)
            insist(kafka_from_offset(text, i) >= KAFKA_NO_OFFSET);
    free(text);
    return 0;
}
