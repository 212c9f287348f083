#include "worker/states/evaluation.h"

#include "common/buffer.h"
#include "common/error.h"
#include "common/jsonpath.h"

void evaluation_init(struct evaluation *evaluation, uint64_t seed)
{
    static const struct json_value empty = {.text = "{}", .len = 2, .type = JSON_OBJECT};
    *evaluation = (struct evaluation){
        .input = empty, .context = empty, .pool = POOL_INIT, .steps = JSONPATH_STEPS, .chance = seed};
}

void evaluation_done(struct evaluation *evaluation)
{
    pool_done(&evaluation->pool);
}

int evaluation_keep(struct evaluation *evaluation, struct buffer *json, struct json_value *ret_value,
                    struct error *err)
{
    size_t len = json->len;
    const char *text = pool_take(&evaluation->pool, json);
    if (!text)
        return error_set(err, ERROR_MEMORY, "out of memory");
    return json_scan(text, len, ret_value, err);
}

int evaluation_context(struct evaluation *evaluation, struct json_value *ret_context, struct error *err)
{
    if (evaluation->describe) {
        BUFFER_AUTO json = BUFFER_INIT;
        evaluation->describe(evaluation->describe_data, &json);
        if (evaluation_keep(evaluation, &json, &evaluation->context, err) < 0)
            return -1;
        evaluation->describe = NULL;
    }
    *ret_context = evaluation->context;
    return 0;
}

/* SplitMix64 (Steele, Lea, Flood 2014). */
uint64_t evaluation_random(struct evaluation *evaluation)
{
    uint64_t z = evaluation->chance += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
}
