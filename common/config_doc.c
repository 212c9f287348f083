/* Describes the table of configuration fields to people; copies configurations. */
#include "common/config.h"

#include <stdlib.h>
#include <string.h>

#include "common/buffer.h"
#include "common/config_fields.h"
#include "common/error.h"

static void write_range(const struct config_field *field, struct buffer *out)
{
    char low[32];
    char high[32];
    switch (field->kind) {
    case TEXT:
        buffer_append_text(out, "text");
        break;
    case BOOLEAN:
        buffer_append_text(out, "true or false");
        break;
    case CHOICE:
        for (int i = 0; field->choices[i]; i++)
            buffer_printf(out, "%s%s", i ? ", " : "", field->choices[i]);
        break;
    case INTEGER:
    case DURATION:
    case SIZE:
        buffer_printf(out, "%s to %s", config_field_number(field, field->min, low),
                      config_field_number(field, field->max, high));
        break;
    }
}

void config_write_help(struct buffer *out)
{
    buffer_append_text(out, "Configuration: keys of the YAML file, and the variables that override it.\n");
    for (size_t i = 0; i < config_n_fields; i++) {
        const struct config_field *field = &config_fields[i];
        buffer_printf(out, "\n  %s: ", field->path);
        if (field->standard_doc)
            buffer_append_text(out, field->standard_doc);
        else
            buffer_append_text(out, *field->standard ? field->standard : "\"\"");
        buffer_append_text(out, "\n      ");
        write_range(field, out);
        buffer_printf(out, "; $%s\n      ", field->variable);
        /* Wrapped at the first space behind column 90. */
        size_t column = 0;
        for (const char *p = field->help; *p; p++, column++) {
            bool wrap = *p == ' ' && column >= 84;
            buffer_append_text(out, wrap ? "\n      " : (char[]){*p, '\0'});
            column = wrap ? 0 : column;
        }
        buffer_append_char(out, '\n');
    }
}

void config_write_markdown(struct buffer *out)
{
    buffer_append_text(
        out,
        "# Configuration\n\n"
        "Read once at the start, each value from the first of these that has it: the environment variable, "
        "the\n"
        "configuration file, the default. The file is named on the command line or by\n"
        "`TRIGGERFLOW_CONFIG_MAP_FILE`; without either there is none. An unknown key, a key given twice, a "
        "value of\n"
        "the wrong type or out of range stops the start with a message that names file, line, key and value "
        "(values\n"
        "of passwords and tokens are never shown).\n\n"
        "```yaml\n"
        "triggerflow_controller:\n"
        "  endpoint: 127.0.0.1:5000\n"
        "  token: token\n\n"
        "trigger_storage:\n"
        "  backend: redis\n"
        "  parameters:\n"
        "    host: 127.0.0.1\n"
        "    port: 6379\n"
        "    password: 123456\n"
        "    db: 0\n"
        "```\n\n"
        "- The file is YAML: one document of at most 1 MiB, without anchors, aliases and tags.\n"
        "- Numbers may stand in quotes. Text may be a bare number: `password: 123456` is the text 123456.\n"
        "- Durations: `250us`, `10ms`, `5s`, `2min`, `1h`; a bare number is seconds; fractions are allowed "
        "(`1.5s`).\n"
        "- Sizes: `64KiB`, `1MiB`, `1GiB`; a bare number is bytes.\n"
        "- An empty variable counts as not set.\n"
        "- Kubernetes sets variables such as `REDIS_PORT=tcp://10.0.0.1:6379` for a service of that name: "
        "of\n"
        "  `REDIS_PORT` the port is taken, and such a value of `TRIGGERFLOW_CONTROLLER_PORT` is ignored.\n");
    size_t section_len = 0;
    for (size_t i = 0; i < config_n_fields; i++) {
        const struct config_field *field = &config_fields[i];
        size_t len = (size_t)(strrchr(field->path, '.') - field->path);
        if (i == 0 || len != section_len || strncmp(field->path, config_fields[i - 1].path, len) != 0)
            buffer_printf(
                out, "\n## %.*s\n\n| key | default | values | variable | meaning |\n|---|---|---|---|---|\n",
                (int)len, field->path);
        section_len = len;
        buffer_printf(out, "| `%s` | ", field->path + len + 1);
        if (field->standard_doc)
            buffer_append_text(out, field->standard_doc);
        else if (*field->standard)
            buffer_printf(out, "`%s`", field->standard);
        else
            buffer_append_text(out, "empty");
        buffer_append_text(out, " | ");
        write_range(field, out);
        buffer_printf(out, " | `%s` | %s |\n", field->variable, field->help);
    }
}

struct config *config_copy(const struct config *config, struct error *err)
{
    BUFFER_AUTO json = BUFFER_INIT;
    struct config *copy = malloc(sizeof *copy);
    config_write_json(config, &json);
    if (!copy || json.failed) {
        free(copy);
        error_set(err, ERROR_MEMORY, "configuration: out of memory");
        return NULL;
    }
    if (config_read_json(json.data, json.len, copy, err) < 0) {
        free(copy);
        return NULL;
    }
    return copy;
}

void config_free(struct config *config)
{
    if (!config)
        return;
    config_done(config);
    free(config);
}
