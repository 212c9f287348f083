/* Any choice rule on any input (parted by a line feed): it loads or says why not, and holds, does not, or
 * says why it cannot be told. */
#include "worker/states/choice.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/json.h"
#include "worker/states/evaluation.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool condition)
{
    if (!condition)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *text = (const char *)data;
    const char *feed = size ? memchr(text, '\n', size) : NULL;
    size_t len = feed ? (size_t)(feed - text) : size;
    struct json_value rule;
    struct evaluation evaluation;
    struct choice *choice;
    struct error err = {0};
    if (json_scan(text, len, &rule, NULL) < 0)
        return 0;
    if (choice_load(&rule, &choice, &err) < 0) {
        require(err.code == ERROR_INVALID && err.message[0]);
        return 0;
    }
    evaluation_init(&evaluation, 1);
    evaluation.steps = 1u << 18;
    if (!feed || json_scan(feed + 1, size - len - 1, &evaluation.input, NULL) == 0) {
        int r = choice_evaluate(choice, &evaluation, &err);
        require(r == 0 || r == CHOICE_HOLDS || (r < 0 && err.message[0]));
    }
    choice_free(choice);
    evaluation_done(&evaluation);
    return 0;
}
