#include "tests/support/storage_bed.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"

const char *const storage_bed_backends[] = {"redis", "sqlite", NULL};

static int start_redis(struct storage_bed *bed, char *yaml, size_t room)
{
    if (!redis_server_available()) {
        printf("skipped: no redis-server\n");
        return 1;
    }
    if (redis_server_run(&bed->redis, NULL) < 0)
        return -1;
    snprintf(yaml, room, "trigger_storage: {backend: redis, parameters: {host: 127.0.0.1, port: %d}}\n",
             bed->redis.port);
    return 0;
}

static int start_files(struct storage_bed *bed, char *yaml, size_t room)
{
    snprintf(bed->dir, sizeof bed->dir, "/tmp/triggerflow-storage-XXXXXX");
    if (!mkdtemp(bed->dir)) {
        perror("mkdtemp");
        bed->dir[0] = '\0';
        return -1;
    }
    snprintf(yaml, room, "trigger_storage: {backend: %s, state_directory: %s/state}\n", bed->backend,
             bed->dir);
    return 0;
}

int storage_bed_start(struct storage_bed *bed, const char *backend)
{
    char yaml[200];
    struct error err = {.code = ERROR_NONE};
    struct storage *storage = NULL;
    *bed = (struct storage_bed){.backend = backend};
    int rc = strcmp(backend, "redis") == 0 ? start_redis(bed, yaml, sizeof yaml)
                                           : start_files(bed, yaml, sizeof yaml);
    if (rc != 0)
        return rc;
    if (config_parse_yaml("storage_bed", yaml, strlen(yaml), &bed->config, &err) < 0 ||
        storage_open(&bed->config, "storage-bed", &storage, &err) < 0) {
        printf("skipped: no storage in %s: %s\n", backend, err.message);
        return 1;
    }
    storage_close(storage);
    return 0;
}

static int remove_one(const char *path, const struct stat *stat, int type, struct FTW *ftw)
{
    (void)stat, (void)type;
    return ftw->level > 0 ? remove(path) : 0;
}

int storage_bed_clear(struct storage_bed *bed)
{
    if (bed->dir[0])
        return nftw(bed->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    redisReply *reply = redis_server_do(&bed->redis, "FLUSHALL");
    int rc = reply && reply->type == REDIS_REPLY_STATUS ? 0 : -1;
    if (reply)
        freeReplyObject(reply);
    return rc;
}

void storage_bed_done(struct storage_bed *bed)
{
    if (bed->redis.dir[0])
        redis_server_done(&bed->redis);
    if (bed->dir[0]) {
        (void)storage_bed_clear(bed);
        (void)remove(bed->dir);
    }
    config_done(&bed->config);
}

struct storage *storage_bed_open(const struct storage_bed *bed)
{
    struct error err = {.code = ERROR_NONE};
    struct storage *storage = NULL;
    if (storage_open(&bed->config, "storage-bed", &storage, &err) == 0)
        return storage;
    fprintf(stderr, "storage_bed: %s\n", err.message);
    return NULL;
}

struct storage_op storage_op_of(enum storage_set set, enum storage_op_kind kind, const char *key,
                                const char *value, const char *uuid)
{
    return (struct storage_op){.set = set,
                               .kind = kind,
                               .key = key,
                               .key_len = strlen(key),
                               .value = value,
                               .value_len = value ? strlen(value) : 0,
                               .uuid = uuid,
                               .uuid_len = uuid ? strlen(uuid) : 0};
}

int storage_found_add(void *data, const char *key, size_t key_len, const char *value, size_t value_len)
{
    struct storage_found *found = data;
    found->n++;
    if (key_len < sizeof found->last_key && value_len < sizeof found->last_value) {
        memcpy(found->last_key, key, key_len);
        memcpy(found->last_value, value, value_len);
    }
    found->last_key_len = key_len;
    found->last_value_len = value_len;
    if (strlen(found->keys) + key_len + 2 < sizeof found->keys) {
        strncat(found->keys, key, key_len);
        strncat(found->keys, " ", 2);
    }
    return found->limit && found->n >= found->limit ? -7 : 0;
}
