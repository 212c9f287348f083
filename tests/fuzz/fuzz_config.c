/* Configuration files and JSON of any content: refused with a message, or loaded into a configuration that
 * comes back unchanged through its JSON form. */
#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "common/buffer.h"
#include "common/config.h"
#include "common/error.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void round_trip(const struct config *config)
{
    BUFFER_AUTO first = BUFFER_INIT;
    BUFFER_AUTO second = BUFFER_INIT;
    struct config back;
    struct error err;
    config_write_json(config, &first);
    int r = config_read_json(first.data, first.len, &back, &err);
    assert(r == 0);
    config_write_json(&back, &second);
    config_done(&back);
    assert(first.len == second.len && !memcmp(first.data, second.data, first.len));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct config config;
    struct error err = {0};
    const char *text = (const char *)data;
    for (int json = 0; json < 2; json++) {
        int r = json ? config_read_json(text, size, &config, &err)
                     : config_parse_yaml("fuzz.yaml", text, size, &config, &err);
        if (r == 0) {
            round_trip(&config);
            config_done(&config);
        } else
            assert(err.code != ERROR_NONE && *err.message);
    }
    return 0;
}
